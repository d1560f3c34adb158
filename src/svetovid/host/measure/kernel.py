"""The kernel's own logs, where it keeps them: IMA's, and the firmware's boot log."""

from __future__ import annotations

import threading
from pathlib import Path

from svetovid.errors import HostError
from svetovid.evidence.ima import MAX_LOG_BYTES, parse_log
from svetovid.host.measure.book import Book

__all__ = ["BOOT_LOG", "IMA_LOG", "KernelLog", "boot_log"]

IMA_LOG = Path("/sys/kernel/security/ima/binary_runtime_measurements")
BOOT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
_MAX_BOOT_LOG = 1 << 20


def _unreadable(path: Path, observed: object) -> HostError:
    return HostError(
        "measure.kernel_log",
        expected=f"the kernel's log at {path}",
        observed=observed,
        next_step="mount securityfs and run as root, or use the launcher's log",
    )


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as f:
            data = f.read(most + 1)
    except OSError as e:
        raise _unreadable(path, e.strerror or e) from e
    if len(data) > most:
        raise _unreadable(path, f"more than {most} bytes")
    return data


def boot_log(path: Path = BOOT_LOG) -> bytes | None:
    """The TCG event log of this boot; None where the firmware keeps none.

    Raises:
        HostError: ``measure.kernel_log`` where it is there and cannot be read.
    """
    return _read(path, _MAX_BOOT_LOG) if path.exists() else None


class KernelLog:
    """IMA's log, behind the same methods as :class:`.Launcher`. The kernel measures by itself.

    Whether its policy measures what matters is for the appraisal of the boot log to say (T4).
    """

    def __init__(self, path: Path = IMA_LOG) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._book = Book()

    @property
    def count(self) -> int:
        """Entries at the last :meth:`measure`."""
        return self._book.count

    @property
    def digest(self) -> str:
        with self._lock:
            return self._book.digest

    def log_since(self, offset: int) -> bytes:
        """Entries from number ``offset`` on. Raises InputError ``ima.offset``."""
        with self._lock:
            return self._book.since(offset)

    def measure(self) -> int:
        """Read what the kernel has measured since; how many entries that is.

        Raises:
            HostError: ``measure.kernel_log``.
            InputError, EvidenceError: ``ima.*`` where the log is not in a form that the kernel has.
        """
        with self._lock:
            data = _read(self._path, MAX_LOG_BYTES)
            known = self._book.since(0)
            if not data.startswith(known):
                raise _unreadable(self._path, "a log that does not go on from what it was")
            new = data[len(known) :]
            parse_log(new)
            before = self._book.count
            self._book.extend(new)
            return self._book.count - before

    def catch_up(self) -> None:
        """The kernel goes on measuring between two looks: look again.

        Raises:
            HostError: ``measure.kernel_log``.
        """
        self.measure()

    def close(self) -> None:
        """Nothing to close: the log is the kernel's."""
