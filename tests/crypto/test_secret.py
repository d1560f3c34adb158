"""A secret shows itself through ``reveal`` and through nothing else."""

from __future__ import annotations

import copy
import json
import pickle
import traceback

import pytest

from svetovid.crypto import Secret
from svetovid.errors import ParseError

CANARY = b"canary-4711"


def test_no_text_of_it() -> None:
    secret = Secret(CANARY)
    for text in (
        repr(secret),
        str(secret),
        f"{secret}",
        repr([secret]),
        ascii(secret),
    ):
        assert "canary" not in text
    assert repr(secret) == "<Secret: 11 bytes>"
    assert secret.reveal() == CANARY
    assert len(secret) == 11


def test_no_copy_of_it() -> None:
    secret = Secret(CANARY)
    for act in (pickle.dumps, copy.copy, copy.deepcopy, hash, json.dumps, bytes, vars, iter):
        with pytest.raises(TypeError):
            act(secret)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError):
            pickle.dumps({"a": secret}, protocol)


def test_no_trace_of_it() -> None:
    def fail(key: Secret) -> None:
        raise ParseError("json.value", observed=key)

    with pytest.raises(ParseError) as e:
        fail(Secret(CANARY))
    shown = traceback.TracebackException.from_exception(e.value, capture_locals=True)
    assert "canary" not in "".join(shown.format())
    assert "canary" not in str(e.value)


def test_equality_is_by_value() -> None:
    assert Secret(CANARY) == Secret(bytearray(CANARY))
    assert Secret(CANARY) != Secret(CANARY + b"!")
    assert Secret(CANARY) != CANARY
    assert not Secret(b"")


def test_random_secrets_differ() -> None:
    assert len(Secret.random()) == 32
    assert Secret.random(16) != Secret.random(16)


def test_it_keeps_its_own_copy() -> None:
    buffer = bytearray(CANARY)
    secret = Secret(buffer)
    buffer[0] = 0
    assert secret.reveal() == CANARY
    with pytest.raises(AttributeError):
        secret.extra = 1  # type: ignore[attr-defined]
