"""From the device nodes that a job lists to accelerators whose memory can be cleared.

Only NVIDIA GPUs are known: a device with memory that nobody here knows how to clear would hand one
job's data to the next, so it is refused whatever the policy says. A node counts by its number (the
kernel's), not by its name, which whoever runs the machine may choose.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from svetovid.errors import HostError

__all__ = ["Gpu", "find", "require"]

_MAJOR = 195
"""Character devices "Nvidia graphics devices" (Documentation/admin-guide/devices.txt)."""
_MOST_GPUS, _CONTROL = 254, 255
_UVM = "nvidia-uvm"
_MAX_TEXT = 64 << 10


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU that a job lists.

    Attributes:
        node: its device node, as the job names it.
        minor: its number in the driver.
        bus: its PCI address, for example ``0000:3b:00.0``.
    """

    node: str
    minor: int
    bus: str

    @property
    def name(self) -> str:
        """What every home on this machine calls it."""
        return "nvidia-" + self.bus.replace(":", "-")


def require(devices: Sequence[str]) -> None:
    """Refuse a job that lists a device which this machine does not have.

    Raises:
        HostError: ``device.missing``.
    """
    for device in devices:
        _number(device)


def _number(device: str) -> tuple[int, int]:
    try:
        status = os.stat(device)  # noqa: PTH116 - the seam of the tests, where no GPU is
    except OSError:
        status = None
    if status is None or not stat.S_ISCHR(status.st_mode):
        raise HostError(
            "device.missing",
            expected=f"the device {device}, which the job names",
            observed="no such device",
            next_step="run the job on a host that has it",
        )
    return os.major(status.st_rdev), os.minor(status.st_rdev)


def find(devices: Sequence[str], proc: Path) -> tuple[Gpu, ...]:
    """The GPUs among ``devices``; what else is listed must be a control node of their driver.

    Args:
        devices: as the job lists them.
        proc: where the kernel shows its processes and drivers, ``/proc``.

    Raises:
        HostError: ``device.missing``; ``device.kind`` for one whose memory cannot be cleared here.
    """
    gpus: dict[int, Gpu] = {}
    for device in devices:
        major, minor = _number(device)
        if (major, minor) == (_MAJOR, _CONTROL) or (major, minor) == (_uvm(proc), 0):
            continue
        bus = _bus(proc, minor) if major == _MAJOR and minor < _MOST_GPUS else None
        if bus is None:
            raise HostError(
                "device.kind",
                expected="NVIDIA GPUs that the driver lists, nvidiactl or nvidia-uvm",
                observed=f"{device}, character device {major}:{minor}",
                next_step="agree on a job without it: this agent cannot clear its memory",
            )
        gpus[minor] = Gpu(device, minor, bus)
    return tuple(gpus[n] for n in sorted(gpus))


def _text(path: Path) -> str:
    try:
        with path.open("rb") as f:
            return f.read(_MAX_TEXT).decode("utf-8", "replace")
    except OSError:
        return ""


def _uvm(proc: Path) -> int:
    """The number that the kernel gave to the driver's unified memory, or -1."""
    for line in _text(proc / "devices").splitlines():
        number, _, name = line.strip().partition(" ")
        if name == _UVM and number.isdigit():
            return int(number)
    return -1


def _bus(proc: Path, minor: int) -> str | None:
    """The PCI address of the GPU that the driver calls ``minor``."""
    for folder in sorted((proc / "driver" / "nvidia" / "gpus").glob("*")):
        for line in _text(folder / "information").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Device Minor" and value.strip() == str(minor):
                return folder.name
    return None
