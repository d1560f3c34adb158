"""The first process of a sandbox's pid namespace, held from outside: its end is the end of all."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from svetovid.crypto.canonical import load_json
from svetovid.errors import HostError, InputError
from svetovid.host.waiting import readable

__all__ = ["First"]

_MAX_INFO = 4096
_STARTS_S = 30.0


class First:
    """A descriptor of that process, which stays right when its number is given to another.

    Args:
        told: where bubblewrap writes which process it is (``--info-fd``); still the caller's.
        parent: bubblewrap outside, whose child it is. Where that ended before it made one, or both
            have ended, there is nothing to hold.

    Raises:
        HostError: ``sandbox.first`` where somebody may run who could not be held.
    """

    def __init__(self, told: int, parent: int) -> None:
        self._fd = _open(told, parent)

    def kill(self, seconds: float) -> bool:
        """End it, and wait until it and so all others are gone; whether they are by then."""
        if self._fd is None:
            return True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, signal.SIGKILL)
        return readable(self._fd, seconds)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _unknown(observed: str) -> HostError:
    return HostError(
        "sandbox.first",
        expected="bubblewrap to say which process is the first of its sandbox",
        observed=observed,
        next_step="update bubblewrap to 0.8 or later; where /proc is mounted with hidepid, let the "
        "agent have CAP_SYS_PTRACE",
    )


def _open(told: int, parent: int) -> int | None:
    data = _read(told)
    if not data:
        return None  # it ended before it made one
    try:
        info = load_json(data, max_bytes=_MAX_INFO, max_depth=2)
    except InputError as e:
        raise _unknown(e.code) from e
    pid = info.get("child-pid") if isinstance(info, dict) else None
    if type(pid) is not int or pid <= 0:
        raise _unknown("no child-pid")
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None  # it has ended
    except OSError as e:
        raise _unknown(e.strerror or "no descriptor of it") from e
    # The number could be another's by now: but not that of a child of bubblewrap's.
    if _parent(pid) == parent:
        return fd
    ended = readable(fd, 0)
    os.close(fd)
    if not ended:
        raise _unknown(f"process {pid}, which cannot be seen to be a child of bubblewrap's")
    return None


def _read(told: int) -> bytes:
    """bubblewrap's own word, which comes before any foreign code runs."""
    data, end = b"", time.monotonic() + _STARTS_S
    while len(data) <= _MAX_INFO:
        if not readable(told, end - time.monotonic()):
            raise _unknown("nothing in time")
        piece = os.read(told, _MAX_INFO)
        if not piece:
            break
        data += piece
    return data


def _parent(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[1])
