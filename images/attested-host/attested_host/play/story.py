"""The main job in the guest, and each refusal: one bad step from a world where it would run."""

from __future__ import annotations

import dataclasses
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
_BOOT_S = 240.0
_CHANGED = "opt/site/numpy/version.py"
_LATE = "numpy/_core/_multiarray_umath.cpython-311-x86_64-linux-gnu.so"
"""A file that nothing reads before a job does; as its wheel names it."""


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
        world.publish_references([] if self._lab is None else [self._lab.references])
        self.say("the auditor signed the reference values that the image implies")
        world.share()
        world.propose("main")
        self.say("records and code are sealed; every owner agreed to the job")
        result = world.boot(["main"])
        for line in result.console.splitlines():
            if line.startswith("attested-host:"):
                self.say(f"guest: {line.removeprefix('attested-host:').strip()}")
        if result.codes("main"):
            raise BuildError(f"the main job was refused: {result.of_job('main')}")
        self.verdict = world.open_model("main", result)
        self.say(f"rita opened the model; its receipt says: {'; '.join(self.verdict)}")
        self.result = result

    # -- what is refused

    def refusals(self) -> dict[str, set[str]]:
        """Each refusal with its codes.

        Raises:
            BuildError: where one of them went through, or was refused for another reason.
        """
        return {
            "a stale quote": self.stale_quote(),
            "an unapproved file": self.unapproved_file(),
            "a changed .py that the sandbox's uid imports": self.changed_module(),
            "a violation": self.violation(),
            "a changed command line": self.changed_command_line(),
            "a block changed on the running guest's disk": self.changed_block(),
        }

    def _refused(self, what: str, expected: set[str], found: set[str]) -> set[str]:
        if not expected <= found:
            raise BuildError(f"{what}: expected {sorted(expected)}, met {sorted(found)}")
        self.say(f"refused: {what}: {', '.join(sorted(found))}")
        return found

    def stale_quote(self) -> set[str]:
        """The operator, who has the agent's key, hands in once more what was affirmed before."""
        bundle = ReceiptBundle.parse(
            self.result.out["main.receipt.json"], max_bytes=MAX_BUNDLE_BYTES
        )
        assert isinstance(bundle.start, TpmEvidence)
        host = self.world["host"]
        agent = HostHome(host.home).agent(Secret(host.passphrase.read_bytes()))
        pin = ManagerPin.parse((self.world.public / "manager.json").read_bytes())
        found: set[str] = set()
        with ManagerClient(pin, agent) as client:
            try:
                client.release(bundle.start)
            except SvetovidError as e:
                found = {r.code for r in e.reasons}
        return self._refused("a stale quote", {"challenge.used"}, found)

    def _as_root(self, name: str, commands: Sequence[str]) -> set[str]:
        assert self._lab is not None
        world = self.world
        world.propose(name)
        port = world.folder / "vm" / "p"
        port.unlink(missing_ok=True)
        with world.running([name], disks=self._lab.disks, port=port) as vm:
            act(port, commands, _BOOT_S)
            vm.wait_off(_BOOT_S)
        return world.result().codes(name)

    def unapproved_file(self) -> set[str]:
        """A program that no reference value lists is run once, before the agent starts."""
        commands = [
            "/mnt/busybox cat /mnt/busybox /mnt/note >/mnt/unapproved",
            "/mnt/busybox chmod 755 /mnt/unapproved",
            "/mnt/unapproved true",
        ]
        found = self._as_root("unapproved", commands)
        return self._refused("an unapproved file", {"ima.unlisted"}, found)

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
        found = self._as_root("changed", commands)
        return self._refused("a changed .py", {"ima.digest"}, found)

    def violation(self) -> set[str]:
        """A listed file is read while somebody has it open for writing."""
        commands = ["exec 9>>/mnt/note", "/mnt/busybox cat /mnt/note", "exec 9>&-"]
        found = self._as_root("violation", commands)
        return self._refused("a violation", {"ima.violation"}, found)

    def changed_command_line(self) -> set[str]:
        """One word more on the command line, in the unified kernel image itself."""
        line = self.image.parts.command_line + " ima_appraise=off"
        disk = self.world.folder / "line.img"
        boot_disk(disk, assemble(dataclasses.replace(self.image.parts, command_line=line)))
        self.world.propose("line")
        result = self.world.boot(["line"], disks=[disk, self.image.disk])
        found = result.codes("line")
        return self._refused("a changed command line", {"boot.cmdline"}, found)

    def changed_block(self) -> set[str]:
        """While the guest runs, one byte changes on its disk, in a file that the job will read."""
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
            console = vm.text()
        found = world.result().codes("block")
        if "is corrupted" not in console or not found:
            raise BuildError(f"the changed block went unnoticed: {console[-1000:]}")
        self.say("guest: " + next(x for x in console.splitlines() if "is corrupted" in x).strip())
        return self._refused("a changed block", set(), found)


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
