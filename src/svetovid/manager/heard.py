"""When hosts attested at their interval, as all managers over one store know it.

Nothing is decided by it but who is overdue, so it is in no log, and may be lost. It has a database
of its own beside the store: SQLite copies a write-ahead log back on whichever connection commits,
so a commit that need not wait for the disk must be in no file with one that must. Where the file is
gone or broken it is made anew, and hosts stand in it again as they push.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

__all__ = ["Heard"]

T = TypeVar("T")

_MANY = 500
_TABLE = "CREATE TABLE IF NOT EXISTS heard (host TEXT PRIMARY KEY, at INTEGER NOT NULL)"
_PUT = "INSERT INTO heard VALUES (?, ?) ON CONFLICT (host) DO UPDATE SET at = max(at, excluded.at)"
_SIDES = ("-wal", "-shm", "")
_log = logging.getLogger(__name__)


class Heard:
    """A file beside the store, under the store's permissions. Threads may share it.

    Args:
        store: the store's file.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._path = store.with_suffix(".heard")
        self._lock = threading.Lock()
        self._open: tuple[sqlite3.Connection, int] | None = None
        self._closed = False

    def put(self, heard: Mapping[str, int]) -> None:
        """Note when hosts attested; what another manager noted later stays."""

        def write(connection: sqlite3.Connection) -> None:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(_PUT, heard.items())

        self._with_file(write, None)

    def of(self, hosts: Sequence[str]) -> dict[str, int]:
        """When each of these last attested, Unix seconds, as far as it is known."""

        def read(connection: sqlite3.Connection) -> dict[str, int]:
            found: list[tuple[str, object]] = []
            for first in range(0, len(hosts), _MANY):
                some = hosts[first : first + _MANY]
                marks = ", ".join("?" * len(some))
                query = f"SELECT host, at FROM heard WHERE host IN ({marks})"  # noqa: S608
                found += connection.execute(query, some)
            return {host: at for host, at in found if isinstance(at, int)}

        return self._with_file(read, {})

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._close()

    def _with_file(self, act: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """What ``act`` gives; where the file cannot be used, also not when made anew, the other."""
        with self._lock:
            if self._closed:
                return otherwise
            for again in (True, False):
                try:
                    return act(self._connection())
                except (sqlite3.Error, OSError) as e:
                    self._close()
                    busy = getattr(e, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
                    if busy or not again:
                        _log.warning("when hosts were heard of is not kept: %s", type(e).__name__)
                        break
                    self._remove()
        return otherwise

    def _connection(self) -> sqlite3.Connection:
        """To the file that is there now: another manager may have made it anew."""
        if self._open is not None:
            with contextlib.suppress(FileNotFoundError):
                if self._path.stat().st_ino == self._open[1]:
                    return self._open[0]
            self._close()
        with contextlib.suppress(FileExistsError):
            fd = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.fchmod(fd, self._store.stat().st_mode & 0o777)
            finally:
                os.close(fd)
        connection = sqlite3.connect(
            self._path, timeout=10, isolation_level=None, check_same_thread=False
        )
        self._open = connection, self._path.stat().st_ino
        # A power cut may lose what is newest, and breaks nothing.
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "trusted_schema=OFF"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute(_TABLE)
        return connection

    def _remove(self) -> None:
        for side in _SIDES:
            with contextlib.suppress(OSError):
                Path(f"{self._path}{side}").unlink()

    def _close(self) -> None:
        if self._open is not None:
            self._open[0].close()
            self._open = None
