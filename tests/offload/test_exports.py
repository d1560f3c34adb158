"""What a script imports from the room, and what that costs who wants a name alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

import svetovid.offload as room


def test_every_name_is_there() -> None:
    assert sorted(room._HOME) == sorted(room.__all__)
    assert all(getattr(room, name) is not None for name in room.__all__)
    assert callable(room.protect)


def test_a_name_that_is_not_there_is_said() -> None:
    with pytest.raises(AttributeError, match="no attribute 'unprotect'"):
        room.unprotect  # noqa: B018


def test_a_protocol_is_named_without_pytorch() -> None:
    code = "import sys; from svetovid.offload import SCHEMES; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
