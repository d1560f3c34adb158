"""Waiting for a descriptor, whatever its number: ``select`` knows none from 1024 on."""

from __future__ import annotations

import select

__all__ = ["readable"]


def readable(fd: int, seconds: float | None = None) -> bool:
    """Whether ``fd`` has something to read, has ended, or (a pidfd) its process has.

    Args:
        fd: an open descriptor.
        seconds: how long to wait for that; None waits for as long as it takes.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if seconds is None else max(0.0, seconds) * 1000))
