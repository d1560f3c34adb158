"""A measurement log for hosts whose kernel keeps none (T4: ``measurement: launcher``).

It measures every file that a job can load and its own code, in IMA's ``ima-ng`` form, and extends
PCR 10, before anything is launched. It is software like any other on the host: root can launch
around it. That is why a verdict over such a log says ``launcher``, and production policies refuse
it; what it gives is the same evidence, checked by the same code, as a kernel's.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from svetovid.errors import HostError, SvetovidError
from svetovid.evidence.ima import (
    MAX_LOG_BYTES,
    boot_aggregate,
    build_entry,
    extension,
    parse_log,
    replay,
)
from svetovid.evidence.tpm import MEASUREMENT_PCR
from svetovid.host.measure.book import Book
from svetovid.host.measure.files import Found, Root, agent_root, digests, find
from svetovid.host.tpm import Tpm

__all__ = ["Launcher", "Progress"]

_BATCH = 1024
"""Entries that one fsync covers; they reach the disk before the PCR."""
_ZERO = bytes(32)
Progress = Callable[[int, int], None]
"""Called with entries done and entries to do."""


class Launcher:
    """Measures files into a log and PCR 10. Safe to call from several threads.

    Rules:

    1. A log begins with ``boot_aggregate``.
    2. Entries reach the log file (0600, fsync) before the PCR: after a crash the file holds all
       that the PCR does, and at most a few entries more, which are cut off and measured again.
    3. A PCR that the log file does not explain is no log at all: ``launcher.log_lost``.
    4. A file is hashed where its stamp (device, inode, size, mtime, ctime) is new, and entered
       where this digest was not yet entered for it. A file that is gone makes no entry.

    Args:
        tpm: started.
        runtime: root of the sandbox, from :func:`svetovid.host.runtime.build_runtime`; its files
            are entered as the sandbox sees them. None where nothing is launched.
        log: file that mirrors the log, so that a restarted agent can go on with it.
        roots: what else is measured; by default svetovid's own code, under its own path.
        loaded: asked each time for further files, for example :func:`.loaded_files`.
        progress: told of every entry made.

    Raises:
        HostError: ``launcher.log_lost``, ``launcher.log_file``.
    """

    def __init__(
        self,
        tpm: Tpm,
        runtime: Path | None,
        log: Path,
        *,
        roots: Sequence[Root] | None = None,
        loaded: Callable[[], Iterable[Found]] = tuple,
        progress: Progress | None = None,
    ) -> None:
        self._tpm = tpm
        self._roots = [agent_root()] if roots is None else list(roots)
        if runtime is not None:
            self._roots.insert(0, Root(runtime, "/"))
        self._loaded = loaded
        self._path = log
        self._progress = progress
        self._lock = threading.Lock()
        self._book = Book()
        self._entered: set[tuple[str, str]] = set()
        self._stamps: dict[str, tuple[int, int, int, int, int]] = {}
        self._unsure = False
        self._reload()
        self._file = self._open()

    @property
    def count(self) -> int:
        """Entries so far."""
        return self._book.count

    @property
    def digest(self) -> str:
        """Digest of the whole log so far."""
        with self._lock:
            return self._book.digest

    def log_since(self, offset: int) -> bytes:
        """Entries from number ``offset`` on, as ``binary_runtime_measurements`` holds them.

        Raises:
            InputError: ``ima.offset``.
        """
        with self._lock:
            return self._book.since(offset)

    def measure(self) -> int:
        """Enter whatever is new or changed below the roots; how many entries that made.

        Raises:
            HostError: ``launcher.file`` for what cannot be measured, ``launcher.log_file``,
                ``tpm.rc``.
        """
        with self._lock:
            if self._unsure:
                self._reload()
            before = self._book.count
            if not before:
                self._enter([boot_aggregate(self._tpm.read_pcrs(range(10)))])
            found = [file for root in self._roots for file in find(root)]
            found += self._loaded()
            changed = [f for f in found if self._stamps.get(f.path) != f.stamp]
            batch: list[tuple[Found, str]] = []
            for done, measured in enumerate(digests(changed), 1):
                batch.append(measured)
                if len(batch) == _BATCH or done == len(changed):
                    self._enter_files(batch)
                    batch = []
                    if self._progress is not None:
                        self._progress(done, len(changed))
            return self._book.count - before

    def _enter_files(self, batch: Iterable[tuple[Found, str]]) -> None:
        new: dict[tuple[str, str], bytes] = {}
        for file, value in batch:
            key = (file.path, value)
            if key not in self._entered:
                new[key] = build_entry(file.path, value)
        self._enter(list(new.values()))
        self._entered.update(new)
        # Only now: had entering failed, these files would have to be entered the next time.
        self._stamps.update((file.path, file.stamp) for file, _ in batch)

    def _enter(self, entries: list[bytes]) -> None:
        if not entries:
            return
        data = memoryview(b"".join(entries))
        try:
            os.ftruncate(self._file, self._book.size)  # what an earlier try may have left
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError as e:
            raise self._bad_file(e) from e
        # A TPM that fails may have extended all the same: then the PCR and the file decide.
        self._unsure = True
        for entry in entries:
            self._tpm.extend(MEASUREMENT_PCR, extension(entry))
            self._book.append(entry)
        self._unsure = False

    # -- the log file -------------------------------------------------------------------------

    def _bad_file(self, e: OSError) -> HostError:
        return HostError(
            "launcher.log_file",
            expected=f"to write the measurement log at {self._path}",
            observed=e.strerror or e,
            next_step="make room or mend the rights, then restart the agent and, if it then says"
            " launcher.log_lost, the machine",
        )

    def _reload(self) -> None:
        """Go on with the log of an agent that stopped, if PCR 10 still is what it led to."""
        pcr = self._tpm.read_pcrs([MEASUREMENT_PCR])[MEASUREMENT_PCR]
        self._book, self._entered, self._unsure = Book(), set(), False
        if pcr == _ZERO:
            return  # the TPM was reset: a new log, and the file begins anew
        try:
            with self._path.open("rb") as f:
                data = f.read(MAX_LOG_BYTES + 1)
            whole = _whole(data)
            entries = parse_log(whole)
            proven = replay(entries, _ZERO, pcr)
        except (OSError, SvetovidError) as e:
            raise HostError(
                "launcher.log_lost",
                expected=f"the log at {self._path} to explain PCR {MEASUREMENT_PCR}",
                observed=e,
                next_step="reboot the machine: that resets the PCR, and a new log begins",
            ) from e
        self._book.extend(whole)
        self._book.keep(proven)
        self._entered = {(e.path, e.named_digest) for e in entries[:proven]}

    def _open(self) -> int:
        """The log file, holding exactly what was reloaded, open at its end."""
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(self._path, flags, 0o600)
            os.fchmod(fd, 0o600)
            os.ftruncate(fd, self._book.size)
            os.fsync(fd)
        except OSError as e:
            raise self._bad_file(e) from e
        return fd

    def catch_up(self) -> None:
        """Nothing to do: this log grows by :meth:`measure` alone."""

    def close(self) -> None:
        """Close the log file. The TPM stays open: it is the caller's."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _whole(data: bytes) -> bytes:
    """``data`` without an entry that a crash cut off at its end."""
    at = 0
    while at + 28 <= len(data):
        name = int.from_bytes(data[at + 24 : at + 28], "little")
        size = int.from_bytes(data[at + 28 + name : at + 32 + name], "little")
        end = at + 32 + name + size
        if end > len(data):
            break
        at = end
    return data[:at]
