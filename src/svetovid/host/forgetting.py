"""Errors outlive jobs, in reports and in whoever handles them; what their frames hold must not."""

from __future__ import annotations

import traceback

__all__ = ["forget"]


def forget(error: BaseException) -> None:
    """Have the frames that ``error``, its causes and contexts passed through let go of their
    variables: plaintext, and views of memory that is to be freed (T12). Frames that still run keep
    theirs."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            traceback.clear_frames(one.__traceback__)
            waiting += [one.__cause__, one.__context__]
