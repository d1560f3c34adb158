"""The main job in the guest, and each refusal: one bad step from a world where it would run."""

from __future__ import annotations

import dataclasses
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from attested_host.build import HERE, Image, boot_disk
from attested_host.lock import BuildError, read_lock
from attested_host.play.lab import act, make_lab
from attested_host.play.world import Result, World
from attested_host.rootfs import RUNTIME
from attested_host.uki import assemble
from attested_host.wheels import fetch_wheels
from svetovid.crypto import Secret
from svetovid.errors import SvetovidError
from svetovid.evidence.documents import TpmEvidence
from svetovid.host.home import HostHome
from svetovid.protocol import ManagerClient, ManagerPin
from svetovid.transparency import MAX_BUNDLE_BYTES, ReceiptBundle

__all__ = ["Story"]

Say = Callable[[str], None]
_BOOT_S = 600.0
_LINE = 200
_CHANGED = "opt/site/numpy/version.py"
_WORDS = "the kernel's loudest words"
_EMERGENCY = f'/mnt/busybox echo "<0>{_WORDS}" >/dev/kmsg'
_KERNEL_LINE = re.compile(r"^\[ *\d+\.\d+\]", re.MULTILINE)
_LATE = "numpy/_core/_multiarray_umath.cpython-311-x86_64-linux-gnu.so"
"""A file that nothing reads before the agent has the runtime measured; as its wheel names it."""


class Story:
    """Plays in ``folder``; ``say`` hears what happens.

    Args:
        lab: whether the owners also pin the edition that lets root act; refusals need it.

    Attributes:
        result: what the main job left on the data disk.
        verdict: of its receipt, in words.
    """

    result: Result
    verdict: list[str]

    def __init__(self, folder: Path, image: Image, say: Say, *, lab: bool = True) -> None:
        self.image = image
        self.say = say
        self.world = World(folder, image.folder)
        self._lab = make_lab(image, folder) if lab else None

    def close(self) -> None:
        self.world.close()

    # -- what goes well

    def main_job(self) -> None:
        """Two owners' records, a third one's code, rita's model; on a kernel's own measurement."""
        world = self.world
        world.open_house()
        self.say("keys are made, the manager runs, the operator signed the machine's statement")
        world.publish_references([] if self._lab is None else self._lab.references)
        self.say("the auditor signed the reference values that the image implies")
        world.share()
        world.propose("main")
        self.say("records and code are sealed; every owner agreed to the job")
        result = world.boot(["main"])
        for line in result.console.splitlines():
            if line.startswith("attested-host:"):
                self.say(f"guest: {line.removeprefix('attested-host:').strip()}")
        if result.reasons("main"):
            raise BuildError(f"the main job was refused: {result.of_job('main')}")
        _quiet(result.console, world.first_record())
        self.say("the kernel killed a process that was called like alice's data, and told nobody")
        self.verdict = world.open_model("main", result)
        self.say(f"rita opened the model; its receipt says: {'; '.join(self.verdict)}")
        self.result = result

    # -- what is refused

    def refusals(self) -> None:
        """Each refusal in turn.

        Raises:
            BuildError: where one of them went through, or was refused for another reason.
        """
        self.stale_quote()
        self.unapproved_file()
        self.changed_module()
        self.violation()
        self.changed_command_line()
        self.changed_block()

    def _refused(self, what: str, code: str, reasons: Sequence[dict[str, str]]) -> set[str]:
        """Hold a refusal against the one that was to come, and say it in its own words."""
        found = {r["code"] for r in reasons}
        if code not in found:
            raise BuildError(f"{what}: {code} was to come, {sorted(found)} came")
        self.say(f"refused: {what}")
        for reason in reasons:
            self.say(f"    {reason['code']}: expected: {_shortened(reason['expected'])}")
            self.say(f"    {' ' * len(reason['code'])}  seen: {_shortened(reason['observed'])}")
        return found

    def _refused_by_alice(self, what: str, code: str, name: str, result: Result) -> set[str]:
        """The host hears codes alone; alice's manager tells alice what was expected and seen."""
        heard = {r["code"] for r in result.reasons(name)}
        if code not in heard:
            raise BuildError(f"{what}: {code} was to come, the host heard {sorted(heard)}")
        return self._refused(what, code, self.world.told("alice"))

    def stale_quote(self) -> set[str]:
        """The operator, who has the agent's key, hands in once more what was affirmed before."""
        bundle = ReceiptBundle.parse(
            self.result.out["main.receipt.json"], max_bytes=MAX_BUNDLE_BYTES
        )
        assert isinstance(bundle.start, TpmEvidence)
        host = self.world["host"]
        agent = HostHome(host.home).agent(Secret(host.passphrase.read_bytes()))
        pin = ManagerPin.parse((self.world.public / "manager.json").read_bytes())
        found: list[dict[str, str]] = []
        with ManagerClient(pin, agent) as client:
            try:
                client.release(bundle.start)
            except SvetovidError as e:
                found = [r.to_dict() for r in e.reasons]
        return self._refused("a stale quote", "challenge.used", found)

    def _as_root(self, what: str, code: str, name: str, commands: Sequence[str]) -> set[str]:
        assert self._lab is not None
        world = self.world
        world.propose(name)
        port = world.folder / "vm" / "p"
        port.unlink(missing_ok=True)
        with world.running([name], disks=self._lab.disks, port=port) as vm:
            act(port, [_EMERGENCY, *commands], _BOOT_S)
            vm.wait_off(_BOOT_S)
        result = world.result()
        _quiet(result.console, _WORDS)
        return self._refused_by_alice(what, code, name, result)

    def unapproved_file(self) -> set[str]:
        """A program that no reference value lists is run once, before the agent starts."""
        commands = [
            "/mnt/busybox cat /mnt/busybox /mnt/note >/mnt/unapproved",
            "/mnt/busybox chmod 755 /mnt/unapproved",
            "/mnt/unapproved true",
        ]
        return self._as_root("an unapproved file", "ima.unlisted", "unapproved", commands)

    def changed_module(self) -> set[str]:
        """Another tree in the runtime's place, with one line more in a module.

        Only a whole tree will do: a file that is mounted over one of the tree's own is left
        behind when the sandbox binds the tree, and the data disk lets nothing be run.
        """
        commands = [
            f"/mnt/busybox cp -a /{RUNTIME} /mnt/tree",
            f"/mnt/busybox echo 'changed = True' >>/mnt/tree/{_CHANGED}",
            f"/mnt/busybox mount --bind /mnt/tree /{RUNTIME}",
        ]
        what = "a changed .py that the sandbox's uid imports"
        return self._as_root(what, "ima.digest", "changed", commands)

    def violation(self) -> set[str]:
        """A listed file is read while somebody has it open for writing."""
        commands = ["exec 9>>/mnt/note", "/mnt/busybox cat /mnt/note", "exec 9>&-"]
        return self._as_root("a violation", "ima.violation", "violation", commands)

    def changed_command_line(self) -> set[str]:
        """One word more on the command line, in the unified kernel image itself."""
        line = self.image.parts.command_line + " ima_appraise=off"
        disk = self.world.folder / "line.img"
        boot_disk(disk, assemble(dataclasses.replace(self.image.parts, command_line=line)))
        self.world.propose("line")
        result = self.world.boot(["line"], disks=[disk, self.image.disk])
        return self._refused_by_alice("a changed command line", "boot.cmdline", "line", result)

    def changed_block(self) -> set[str]:
        """While the guest runs, one byte changes on its disk, in a file that a job would read.

        The agent has the kernel read the whole runtime before it asks for a key.
        """
        world = self.world
        world.propose("block")
        disk = world.folder / "block.img"
        data = self.image.disk.read_bytes()
        disk.write_bytes(data)
        at = data.index(_content_of(_LATE)[:65536]) + 4096  # it is not compressed
        with world.running(["block"], disks=[disk]) as vm:
            vm.wait_for("agent ready", _BOOT_S)
            _flip(disk, at)
            vm.wait_off(_BOOT_S)
        what = "a block changed on the running guest's disk"
        reasons = world.result().reasons("block")
        if not any(_LATE in r["observed"] for r in reasons):
            raise BuildError(f"{what}: {_LATE} was to be named: {reasons}")
        return self._refused(what, "measure.unread", reasons)


def _quiet(console: str, words: str) -> None:
    """T9: foreign code has the kernel speak by names of its choice; the operator hears none of it.

    Raises:
        BuildError: where ``words``, or anything of the kernel's, stand on the console.
    """
    if words in console or _KERNEL_LINE.search(console):
        raise BuildError(f"the kernel spoke on the console: {console[-1000:]}")


def _shortened(text: str) -> str:
    return text if len(text) <= _LINE else text[:_LINE] + " ..."


def _content_of(path: str) -> bytes:
    """A file of the numpy that the image was made from."""
    packages = [p for p in read_lock(HERE / "wheels.lock") if p.name == "numpy"]
    (file,) = fetch_wheels(packages).values()
    with zipfile.ZipFile(file) as wheel:
        return wheel.read(path)


def _flip(disk: Path, at: int) -> None:
    with disk.open("r+b") as f:
        f.seek(at)
        byte = f.read(1)
        f.seek(at)
        f.write(bytes([byte[0] ^ 1]))
