"""A second edition of the image, for the play alone: it lets somebody act as root before the agent.

Its initrd is the image's with another ``/init``, so that it boots through the same steps and is
measured in the same way; owners who pin its values as well let the play show one bad step at a
time. Nobody else should: it has a shell.
"""

from __future__ import annotations

import dataclasses
import json
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from attested_host import cpio
from attested_host.build import Image, boot_disk
from attested_host.lock import BuildError
from attested_host.references import File, reference_values, sha256
from attested_host.tree import Tree
from attested_host.uki import Parts, assemble
from svetovid.evidence.documents import ReferenceValues

__all__ = ["GUEST_INIT", "LAST", "Lab", "act", "make_lab"]

NOTE = b"a file that the reference values list\n"
GUEST_INIT = Path(__file__).resolve().parents[1] / "guest" / "init.sh"
LAST = "exec switch_root /sysroot /usr/bin/python3.11 -I -B /usr/lib/svetovid/service.py"
_LAB_LAST = """\
mount -t tmpfs tmpfs /sysroot/mnt
cat /usr/bin/busybox >/sysroot/mnt/busybox
cat /lab/start >/sysroot/mnt/start
cat /lab/note >/sysroot/mnt/note
/usr/bin/busybox chmod 755 /sysroot/mnt/busybox
exec switch_root /sysroot /mnt/busybox sh /mnt/start
"""
_START = b"""\
for port in /dev/vport*p1; do /mnt/busybox sh <>$port >&0 2>&1; done
exec /usr/bin/python3.11 -I -B /usr/lib/svetovid/service.py
"""
_DONE = b"end of what root does"


@dataclasses.dataclass(frozen=True, slots=True)
class Lab:
    """The edition: its boot disk, which needs the image's behind it, and its reference values."""

    disks: tuple[Path, ...]
    references: list[ReferenceValues]


def make_lab(image: Image, folder: Path) -> Lab:
    """Make the edition from a built image."""
    text = GUEST_INIT.read_text()
    assert LAST in text
    over = Tree()
    files = {"init": text.replace(LAST, _LAB_LAST).encode(), "lab/start": _START, "lab/note": NOTE}
    for path, data in files.items():
        over.add(path, data, "lab", executable=path == "init")
    parts = dataclasses.replace(image.parts, initrd=image.parts.initrd + cpio.archive(over))
    uki = assemble(parts)
    disk = folder / "lab.img"
    boot_disk(disk, uki)
    return Lab((disk, image.disk), _values(image, parts, uki, files))


def _values(
    image: Image, parts: Parts, uki: bytes, files: dict[str, bytes]
) -> list[ReferenceValues]:
    manifest = json.loads((image.folder / "manifest.json").read_bytes())
    known = [File(**f) for f in manifest["files"] if f["path"] != "/init"]
    busybox = next(f.digest for f in known if f.path == "/usr/bin/busybox")
    known += [File("/" + path, sha256(data), "lab") for path, data in files.items()]
    known += [
        File("/mnt/busybox", busybox, "lab"),
        File("/mnt/start", sha256(_START), "lab"),
        File("/mnt/note", sha256(NOTE), "lab"),
    ]
    return reference_values(
        known, parts, uki, product="attested-host-lab", version=1,
        provenance="the attested host image with a shell: for the play alone",
    )  # fmt: skip


def act(port: Path, commands: Sequence[str], timeout_s: float) -> str:
    """Have root run ``commands`` in a guest that waits at ``port``; then the agent starts."""
    with socket.socket(socket.AF_UNIX) as s:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                s.connect(str(port))
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise BuildError("the guest's port does not open") from None
                time.sleep(0.1)
        script = "\n".join([*commands, f"/mnt/busybox echo '{_DONE.decode()}'", "exit", ""])
        s.sendall(script.encode())
        s.settimeout(timeout_s)
        said = b""
        while _DONE not in said:
            data = s.recv(4096)
            if not data:
                raise BuildError(f"the guest's shell ended: {said!r}")
            said += data
        return said.decode("utf-8", "replace")
