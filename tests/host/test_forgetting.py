"""What the frames of an error hold is let go of, and nothing else is."""

from __future__ import annotations

import weakref

import pytest

from svetovid.host.forgetting import forget


class Plaintext:
    pass


def failing(held: list[weakref.ref[Plaintext]]) -> None:
    plaintext = Plaintext()
    held.append(weakref.ref(plaintext))
    raise ValueError


def chained(held: list[weakref.ref[Plaintext]]) -> None:
    try:
        failing(held)
    except ValueError as e:
        try:
            failing(held)
        except ValueError:
            raise KeyError from e


def test_causes_and_contexts_let_go_too() -> None:
    held: list[weakref.ref[Plaintext]] = []
    with pytest.raises(KeyError) as e:
        chained(held)
    assert all(one() is not None for one in held)
    forget(e.value)
    assert [one() for one in held] == [None, None]


def test_errors_that_name_each_other() -> None:
    one, other = ValueError(), ValueError()
    one.__cause__, other.__cause__ = other, one
    forget(one)


def test_a_frame_that_runs_keeps_what_it_has() -> None:
    mine = Plaintext()
    try:
        raise ValueError
    except ValueError as e:
        forget(e)
    assert isinstance(mine, Plaintext)
