"""A counter that cannot go back, and the order in which a store and it move (T15)."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from svetovid.manager.rootkey import RootSealer
from svetovid.manager.store_faults import older, unavailable

__all__ = ["AT_START", "Anchor"]

AT_START = 2
"""How many values a start goes ahead: see ``Store._anchor_at_start``."""
_WAIT_S = 10.0
"""As long as one manager waits for another's transaction without a counter."""
_POLL_S = 0.002


def _locked(fd: int, end: float) -> bool:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(_POLL_S)
        else:
            return True


class Anchor:
    """The counter of a sealer, beside one store; without a counter nothing of this does anything.

    Args:
        sealer: has the counter, or none.
        store: the store's file; the lock lies beside it.

    Attributes:
        there: whether there is a counter: whether an older copy would be noticed at the start.
    """

    def __init__(self, sealer: RootSealer, store: Path) -> None:
        self._sealer = sealer
        self.there = sealer.counter() is not None
        self._lock = store.with_suffix(".lock")

    @contextmanager
    def one_writer(self, wait_s: float | None = None) -> Iterator[bool]:
        """From before a commit until the counter followed it: among all managers on this store.

        Args:
            wait_s: how long another may take, by default ten seconds. Where it takes longer, False,
                and nothing is held.

        Raises:
            HostError: ``store.unavailable``.
        """
        if not self.there:
            yield True
            return
        try:
            fd = os.open(self._lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise unavailable(type(e).__name__) from e
        try:
            yield _locked(fd, time.monotonic() + (_WAIT_S if wait_s is None else wait_s))
        finally:
            os.close(fd)

    def value(self, ahead: int) -> int | None:
        """What a checkpoint is signed for, ``ahead`` of the counter."""
        counter = self._sealer.counter()
        return None if counter is None else counter + ahead

    def stands_for(self, signed: int | None) -> bool:
        """Whether the counter has followed a checkpoint that was signed for ``signed``."""
        counter = self._sealer.counter()
        return counter is None or (signed is not None and signed <= counter)

    def follow(self, times: int = 1) -> None:
        """Move the counter up to what was just committed."""
        if self.there:
            for _ in range(times):
                self._sealer.increment()

    def settle(self, signed: int | None) -> None:
        """Move it up to a commit whose writer was stopped, or failed, before it did.

        Args:
            signed: the value that the newest checkpoint was signed for.

        Raises:
            IntegrityError: ``store.rollback`` for a store that this counter does not stand for.
        """
        counter = self._sealer.counter()
        if counter is None:
            return
        if signed is None or not counter <= signed <= counter + AT_START:
            raise older(f"a store signed for counter {counter}", f"one signed for {signed}")
        self.follow(signed - counter)
