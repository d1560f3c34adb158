"""Waiting for an answer that may never come."""

from __future__ import annotations

import threading
import time

import pytest

from svetovid.host.waiting import answered

WHY = RuntimeError("enough")


def test_an_answer_is_handed_on() -> None:
    assert answered(lambda: 7, lambda: None) == 7


def test_so_is_an_error() -> None:
    def act() -> int:
        raise KeyError("x")

    with pytest.raises(KeyError):
        answered(act, lambda: None)


def test_who_stays_silent_is_left_to_it_and_what_comes_too_late_is_discarded() -> None:
    speak = threading.Event()
    late: list[str] = []
    came = threading.Event()

    def act() -> str:
        speak.wait(10)
        return "late"

    def discard(result: str) -> None:
        late.append(result)
        came.set()

    begun = time.monotonic()
    with pytest.raises(RuntimeError, match="enough"):
        answered(act, lambda: WHY, discard=discard)
    assert time.monotonic() - begun < 5
    assert not late
    speak.set()
    assert came.wait(10)
    assert late == ["late"]


def test_an_error_that_comes_too_late_is_nobodys() -> None:
    speak = threading.Event()
    ended = threading.Event()

    def act() -> str:
        speak.wait(10)
        ended.set()
        raise KeyError("x")

    with pytest.raises(RuntimeError, match="enough"):
        answered(act, lambda: WHY)
    speak.set()
    assert ended.wait(10)
