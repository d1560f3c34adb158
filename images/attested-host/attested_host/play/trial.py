"""What the kernel of the enforcing profile lets run: an edition of the image that tries, and ends.

Its initrd is the image's with another end to ``/init``: instead of the agent, the image's own
Python runs, and tries to run and to map a program once as the image holds it, and once as a copy in
memory that nobody signed.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

from attested_host import cpio
from attested_host.build import Image, boot_disk
from attested_host.datadisk import make_data_disk
from attested_host.machine import Machine, make_tpm
from attested_host.play.lab import GUEST_INIT, LAST
from attested_host.tree import Tree
from attested_host.uki import assemble

__all__ = ["COPY", "PROGRAM", "try_programs"]

PROGRAM, COPY = "/usr/bin/python3.11", "/mnt/copy"
_BOOT_S = 240.0
_TRIAL_LAST = f"""\
mount -t tmpfs tmpfs /sysroot/mnt
cat /sysroot{PROGRAM} >/sysroot{COPY}
/usr/bin/busybox chmod 755 /sysroot{COPY}
/usr/bin/busybox chroot /sysroot {PROGRAM} -I -B -c "$(cat /trial.py)" >/dev/console 2>&1
poweroff -f
"""
_TRIAL = f"""\
import errno, mmap, subprocess
def run(path):
    subprocess.run([path, "-I", "-S", "-c", ""], check=True)
def map_as_code(path):
    with open(path, "rb") as f:
        mmap.mmap(f.fileno(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC).close()
for act in (run, map_as_code):
    for path in ("{PROGRAM}", "{COPY}"):
        try:
            act(path)
            came = "done"
        except OSError as e:
            came = errno.errorcode[e.errno]
        print("trial:", act.__name__, path, came)
"""
_LINE = re.compile(r"^trial: (\w+) (\S+) (\w+)", re.MULTILINE)


def try_programs(image: Image, folder: Path) -> Mapping[tuple[str, str], str]:
    """Boot the edition on a machine of its own.

    Returns:
        ``run`` or ``map_as_code`` and the program, to ``done`` or the name of the error number.
    """
    text = GUEST_INIT.read_text().replace(LAST, _TRIAL_LAST)
    over = Tree()
    over.add("init", text.encode(), "trial", executable=True)
    over.add("trial.py", _TRIAL.encode(), "trial")
    parts = dataclasses.replace(image.parts, initrd=image.parts.initrd + cpio.archive(over))
    for name in ("machine", "data"):
        (folder / name).mkdir()
    machine = Machine(folder / "machine")
    make_tpm(machine.tpm_state)
    disk, data = folder / "trial.img", folder / "data.img"
    boot_disk(disk, assemble(parts))
    (folder / "data" / "service.json").write_text(json.dumps({"power_off": True}))
    make_data_disk(data, folder / "data")
    with machine.boot([disk, image.disk], data) as vm:
        vm.wait_off(_BOOT_S)
        said = vm.text().replace("\r", "")
    return {(act, path): came for act, path, came in _LINE.findall(said)}
