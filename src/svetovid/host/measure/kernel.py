"""The kernel's own logs, where it keeps them: IMA's, and the firmware's boot log."""

from __future__ import annotations

import threading
from pathlib import Path

from svetovid.errors import HostError, RefusalError, SvetovidError
from svetovid.evidence.ima import MAX_LOG_BYTES, Entry, parse_log
from svetovid.host.measure.book import Book
from svetovid.host.measure.held import Held

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

    Rules:

    1. Before the first look every file of the runtime is read and held (:class:`.Held`), and must
       then stand in the log: ``measure.unread``.
    2. After it nothing is entered that foreign code could have caused: ``measure.grew``. Such a log
       is shown to nobody.

    Args:
        path: the kernel's binary log.
        runtime: root of the sandbox; None where nothing is launched.
    """

    def __init__(self, path: Path = IMA_LOG, runtime: Path | None = None) -> None:
        self._path = path
        self._runtime = runtime
        self._held: Held | None = None
        self._lock = threading.Lock()
        self._book = Book()

    @property
    def count(self) -> int:
        """Entries at the last :meth:`measure`."""
        return self._book.count

    @property
    def digest(self) -> str:
        """SHA-256 of the whole log as it was last read."""
        with self._lock:
            return self._book.digest

    def log_since(self, offset: int) -> bytes:
        """Entries from number ``offset`` on. Raises InputError ``ima.offset``."""
        with self._lock:
            return self._book.since(offset)

    def measure(self) -> int:
        """Read what the kernel has measured since; how many entries that is.

        Raises:
            HostError: ``measure.kernel_log``, ``measure.hold``, ``measure.unread``,
                ``launcher.file``.
            RefusalError: ``measure.grew``, also for what cannot be read in a log that was good.
            InputError, EvidenceError: ``ima.*`` where the log is not in a form that the kernel has.
        """
        with self._lock:
            held = self._held
            if held is None and self._runtime is not None:
                held = Held(self._runtime)
            try:
                return self._look(held)
            finally:
                if held is not self._held and held is not None:
                    held.close()

    def _look(self, held: Held | None) -> int:
        data = _read(self._path, MAX_LOG_BYTES)
        known = self._book.since(0)
        if not data.startswith(known):
            raise _unreadable(self._path, "a log that does not go on from what it was")
        new = data[len(known) :]
        if held is None:
            parse_log(new)
        elif held is self._held:
            _still(held, new)
        else:
            _whole(held, parse_log(new))
        self._held = held
        before = self._book.count
        self._book.extend(new)
        return self._book.count - before

    def catch_up(self) -> None:
        """The kernel goes on measuring between two looks: look again.

        Raises:
            HostError, RefusalError: as :meth:`measure`.
        """
        self.measure()

    def close(self) -> None:
        """Let go of the runtime's files. The log is the kernel's."""
        with self._lock:
            if self._held is not None:
                self._held.close()
                self._held = None


def _whole(held: Held, entries: tuple[Entry, ...]) -> None:
    if missing := held.missing(entries):
        raise HostError(
            "measure.unread",
            expected="the kernel to measure every file of the runtime as the agent reads it",
            observed=f"{len(missing)} are not in its log, first {missing[0]}",
            next_step="load an IMA policy that measures what root reads, and see that the disk can"
            " be read",
        )


def _still(held: Held, new: bytes) -> None:
    try:
        strange = held.strange(parse_log(new))
    except SvetovidError:
        strange = True
    if strange:
        # A name may be foreign code's own words: it must not come out by the refusal (T9).
        raise RefusalError(
            "measure.grew",
            expected="nothing in the kernel's log that a sandbox could have caused",
            observed="an entry under a name that a sandbox sees",
            next_step="load the IMA policy of this version, and restart the host",
        ) from None
