"""Waiting: for a descriptor, and for an answer that may never come."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

__all__ = ["answered", "readable"]

T = TypeVar("T")
_TICK_S = 0.05


def readable(fd: int, seconds: float | None = None) -> bool:
    """Whether ``fd`` has something to read, has ended, or (a pidfd) its process has.

    ``poll``, for ``select`` knows no descriptor from 1024 on.

    Args:
        fd: an open descriptor.
        seconds: how long to wait for that; None waits for as long as it takes.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if seconds is None else max(0.0, seconds) * 1000))


def answered(
    act: Callable[[], T],
    given_up: Callable[[], BaseException | None],
    *,
    discard: Callable[[T], object] = lambda _: None,
) -> T:
    """What ``act`` comes to, unless its answer is given up first; it is left to itself then.

    Args:
        act: asks somebody who may stay silent; has a thread of its own.
        given_up: looked at every now and then: why not to wait any longer, or None.
        discard: gets the result that came too late.

    Raises:
        BaseException: what ``act`` raised, or what ``given_up`` returned.
    """
    answer: Future[T] = Future()

    def go() -> None:
        try:
            result = act()
        except BaseException as e:  # noqa: BLE001 - told to whoever waits
            if answer.set_running_or_notify_cancel():
                answer.set_exception(e)
            return
        if answer.set_running_or_notify_cancel():
            answer.set_result(result)
        else:
            discard(result)

    threading.Thread(target=go, name="answer", daemon=True).start()
    while not wait([answer], timeout=_TICK_S).done:
        why = given_up()
        if why is not None and answer.cancel():
            raise why
    return answer.result()
