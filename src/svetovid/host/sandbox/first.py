"""The first process of a sandbox's pid namespace, held from outside: its end is the end of all."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path

from svetovid.crypto.canonical import load_json
from svetovid.errors import InputError

__all__ = ["First"]

_MAX_INFO = 4096
_STARTS_S = 30.0
_GONE_S = 10.0


class First:
    """A descriptor of that process, which stays right when its number is given to another.

    Args:
        told: where bubblewrap writes which process it is (``--info-fd``); still the caller's.
        parent: bubblewrap outside, whose child it is. Where it ended before it made one, there is
            nothing to hold.
    """

    def __init__(self, told: int, parent: int) -> None:
        self._fd = _open(told, parent)

    def kill(self) -> bool:
        """End it, and wait until it and so all others are gone; whether they are."""
        if self._fd is None:
            return True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, signal.SIGKILL)
        return bool(select.select([self._fd], [], [], _GONE_S)[0])

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _open(told: int, parent: int) -> int | None:
    pid = _read(told)
    if pid is None:
        return None
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return None  # it has ended
    # The number could be another's by now: but not that of a child of bubblewrap's.
    if _parent(pid) != parent:
        os.close(fd)
        return None
    return fd


def _read(told: int) -> int | None:
    """The process, by bubblewrap's own word, which comes before any foreign code runs."""
    data, end = b"", time.monotonic() + _STARTS_S
    while len(data) <= _MAX_INFO:
        if not select.select([told], [], [], max(0.0, end - time.monotonic()))[0]:
            return None
        piece = os.read(told, _MAX_INFO)
        if not piece:
            break
        data += piece
    try:
        info = load_json(data, max_bytes=_MAX_INFO, max_depth=2)
    except InputError:
        return None
    pid = info.get("child-pid") if isinstance(info, dict) else None
    return pid if type(pid) is int else None


def _parent(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[1])
