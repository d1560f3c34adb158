"""Quantisation against exact rational arithmetic and single AES blocks."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from svetovid.errors import InputError
from svetovid.offload.quantise import SHIFTS, greatest, quantised, shift_of

KEY = bytes(range(32))
LARGEST = float(np.finfo(np.float32).max)
FLOATS = st.floats(-LARGEST, LARGEST, width=32)


def word(key: bytes, i: int) -> int:
    """Number i of the stream, by the block cipher alone."""
    block = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
    made = block.update((i // 8).to_bytes(16, "big"))
    return int.from_bytes(made[2 * (i % 8) : 2 * (i % 8) + 2], "little")


@given(values=st.lists(FLOATS, min_size=1, max_size=40), key=st.binary(min_size=32, max_size=32))
def test_it_is_the_floor_of_the_exact_sum(values: list[float], key: bytes) -> None:
    x = np.array(values, np.float32)
    shift = shift_of(greatest(x))
    scale = Fraction(2) ** shift
    expected = [
        math.floor(Fraction(v) * scale + Fraction(word(key, i), 2**16))
        for i, v in enumerate(x.tolist())
    ]
    assert quantised(x, shift, key).tolist() == expected


@given(m=st.floats(0, LARGEST, width=32, exclude_min=True))
def test_the_greatest_magnitude_fills_the_range(m: float) -> None:
    shift = shift_of(m)
    assert SHIFTS[0] <= shift <= SHIFTS[1]
    scaled = Fraction(m) * Fraction(2) ** shift
    assert scaled <= 128
    assert scaled > 64 or shift == SHIFTS[1]


@pytest.mark.parametrize(
    ("m", "shift"),
    [(0.0, 0), (1.0, 7), (128.0, 0), (129.0, -1), (64.0, 1), (LARGEST, -121), (2.0**-149, 94)],
)
def test_shifts_at_the_edges(m: float, shift: int) -> None:
    assert shift_of(m) == shift


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(InputError) as said:
        shift_of(greatest(np.array([1.0, bad, 2.0], np.float32)))
    assert said.value.code == "offload.nonfinite"


def test_a_tiny_negative_number_may_round_down() -> None:
    x = np.array([LARGEST, -(2.0**-149)], np.float32)
    keys = [i.to_bytes(32, "big") for i in range(200_000)]
    key = next(k for k in keys if word(k, 1) == 0)
    assert quantised(x, shift_of(greatest(x)), key)[1] == -1


def test_strides_do_not_matter() -> None:
    x = np.random.default_rng(0).standard_normal((5, 7), np.float32)
    turned = np.ascontiguousarray(x.T).T
    assert turned.strides != x.strides
    assert (quantised(turned, 5, KEY) == quantised(x, 5, KEY)).all()


def test_on_average_nothing_is_lost() -> None:
    x = np.linspace(-1, 1, 1001, dtype=np.float32)
    runs = [quantised(x, 7, i.to_bytes(32, "big")) for i in range(400)]
    error = np.mean(runs, axis=0) - x * 128.0
    assert np.abs(error).max() < 4.5 * 0.5 / math.sqrt(400)
    assert abs(error.mean()) < 4.5 * 0.5 / math.sqrt(400 * x.size)


def test_nothing_has_no_greatest() -> None:
    empty = np.zeros((0, 3), np.float32)
    assert greatest(empty) == 0
    assert quantised(empty, 0, KEY).shape == (0, 3)
