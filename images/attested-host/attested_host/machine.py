"""A virtual machine with a software TPM and UEFI firmware, to boot the image where there is no
spare computer. QEMU emulates (TCG, by name): an openable /dev/kvm proves nothing about what is
behind it. A software TPM protects nothing, and every verdict over it says so.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from attested_host.lock import BuildError

__all__ = [
    "FIRMWARE",
    "GUEST_ADDRESS",
    "MANAGER_ADDRESS",
    "Machine",
    "Vm",
    "make_tpm",
    "missing_tools",
    "start_swtpm",
]

GUEST_ADDRESS = "10.0.2.15"
MANAGER_ADDRESS = "10.0.2.100"
FIRMWARE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
_VARS = FIRMWARE.with_name("OVMF_VARS_4M.fd")
_TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "swtpm": "swtpm",
    "swtpm_setup": "swtpm-tools",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
}
_RELAY = """\
import os, socket, sys, threading
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def up():
    while data := os.read(0, 65536):
        s.sendall(data)
    s.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while data := s.recv(65536):
    os.write(1, data)
"""
_STOP_S = 10.0


def tool(name: str) -> str | None:
    return shutil.which(name, path="/usr/bin:/usr/sbin:/usr/local/bin:/bin:/sbin")


def missing_tools() -> list[str]:
    """Debian packages that a virtual machine needs and that are not here."""
    found = {package for name, package in _TOOLS.items() if tool(name) is None}
    return sorted(found | ({"ovmf"} if not FIRMWARE.exists() else set()))


def make_tpm(state: Path) -> None:
    """Manufacture a software TPM with a SHA-256 bank, and no certificate yet."""
    program = tool("swtpm_setup")
    assert program is not None
    state.mkdir(mode=0o700)
    done = subprocess.run(
        [program, "--tpm2", "--tpmstate", str(state), "--pcr-banks", "sha256"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if done.returncode != 0:
        raise BuildError(f"swtpm_setup: {(done.stdout + done.stderr).strip()[-500:]}")


@contextlib.contextmanager
def start_swtpm(state: Path, *options: str, listens: Path) -> Iterator[subprocess.Popen[bytes]]:
    """swtpm over the state in a folder, until the end of the context.

    Args:
        listens: the socket that ``options`` name; returns once it is there.
    """
    program = tool("swtpm")
    assert program is not None
    listens.unlink(missing_ok=True)
    with (state.parent / f"{state.name}.log").open("ab") as log:
        process = subprocess.Popen(
            [program, "socket", "--tpm2", "--tpmstate", f"dir={state}", *options],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        for _ in range(100):
            if listens.exists():
                break
            time.sleep(0.05)
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass(frozen=True, slots=True)
class Machine:
    """Hardware that stays: a folder with the TPM's memory and the firmware's variables.

    Attributes:
        folder: where they are kept.
        memory_mib: of the guest.
    """

    folder: Path
    memory_mib: int = 1536

    @property
    def tpm_state(self) -> Path:
        return self.folder / "tpm"

    def _variables(self) -> Path:
        path = self.folder / "variables.fd"
        if not path.exists():
            shutil.copyfile(_VARS, path)
        return path

    @contextlib.contextmanager
    def boot(
        self,
        disks: Sequence[Path],
        data: Path,
        *,
        manager_port: int | None = None,
        port: Path | None = None,
    ) -> Iterator[Vm]:
        """Power on with these disks; power off at the end of the context.

        Args:
            disks: the image; the guest cannot write to it, and boots from the first.
            data: the data disk.
            manager_port: port of this machine's loopback that the guest reaches as
                ``MANAGER_ADDRESS``, and nothing else of the world.
            port: socket that ``/dev/vport*p1`` of the guest leads to; QEMU waits until somebody
                has connected to it.
        """
        console = self.folder / "console.log"
        console.unlink(missing_ok=True)
        with contextlib.ExitStack() as stack:
            short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="svm-")))
            control = short / "tpm"
            options = ["--ctrl", f"type=unixio,path={control}", "--terminate"]
            stack.enter_context(start_swtpm(self.tpm_state, *options, listens=control))
            command = self._command(disks, data, control, console, manager_port, port)
            with (self.folder / "qemu.log").open("wb") as log:
                qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            stack.callback(end, qemu)
            yield Vm(qemu, console)

    def _command(
        self,
        disks: Sequence[Path],
        data: Path,
        control: Path,
        console: Path,
        manager_port: int | None,
        port: Path | None,
    ) -> list[str]:
        program = tool("qemu-system-x86_64")
        if program is None:
            raise BuildError("QEMU was not found: apt-get install qemu-system-x86")
        relay = self.folder / "relay.py"
        relay.write_text(_RELAY)
        network = "user,id=n,restrict=on"
        if manager_port is not None:
            # A process for each connection: QEMU's own forwarding shares one among all.
            act = f"{sys.executable} -I -S {relay} 127.0.0.1 {manager_port}"
            network += f",guestfwd=tcp:{MANAGER_ADDRESS}:{manager_port}-cmd:{act}"
        return [
            *(program, "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"),
            *("-smp", "1", "-m", str(self.memory_mib), "-display", "none", "-nodefaults"),
            *("-no-reboot", "-rtc", "base=utc"),
            *("-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={FIRMWARE}"),
            *("-drive", f"if=pflash,format=raw,unit=1,file={self._variables()}"),
            *("-chardev", f"socket,id=tpm,path={control}"),
            *("-tpmdev", "emulator,id=t0,chardev=tpm", "-device", "tpm-crb,tpmdev=t0"),
            *_drives(disks, data),
            *("-netdev", network, "-device", "virtio-net-pci,netdev=n,romfile="),
            *("-device", "virtio-rng-pci", "-serial", f"file:{console}"),
            *_port(port),
        ]


def _drives(disks: Sequence[Path], data: Path) -> Iterator[str]:
    for i, disk in enumerate(disks):
        yield from ("-drive", f"if=none,id=d{i},format=raw,readonly=on,file={disk}")
        yield from ("-device", f"virtio-blk-pci,drive=d{i}" + ("" if i else ",bootindex=0"))
    # No data is to survive this machine's own end, so nothing waits for its disk.
    yield from ("-drive", f"if=none,id=data,format=raw,cache=unsafe,file={data}")
    yield from ("-device", "virtio-blk-pci,drive=data")


def _port(path: Path | None) -> Iterator[str]:
    if path is not None:
        yield from ("-device", "virtio-serial-pci")
        yield from ("-chardev", f"socket,id=port,path={path},server=on,wait=on")
        yield from ("-device", "virtserialport,chardev=port,name=port")


class Vm:
    """A running guest, seen from outside: its console, and whether it still runs."""

    def __init__(self, qemu: subprocess.Popen[bytes], console: Path) -> None:
        self._qemu = qemu
        self._console = console

    def text(self) -> str:
        """All that the console has shown."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def wait_for(self, words: str, timeout_s: float) -> str:
        """Wait until the console shows ``words``; the line they are in.

        Raises:
            BuildError: where the guest ends, or too much time passes, without them.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            running = self._qemu.poll() is None
            for line in self.text().splitlines():
                if words in line:
                    return line.strip()
            if not running or time.monotonic() > deadline:
                what = "is still silent" if running else "has ended"
                raise BuildError(f"the guest {what}: no {words!r}; it said: {self.text()[-2000:]}")
            time.sleep(0.1)

    def wait_off(self, timeout_s: float) -> None:
        """Wait until the guest has switched itself off."""
        try:
            self._qemu.wait(timeout_s)
        except subprocess.TimeoutExpired as e:
            raise BuildError(f"the guest does not end: {self.text()[-2000:]}") from e
