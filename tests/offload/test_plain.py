"""The plain simulator against products by definition, and what it holds a step to."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.reference import product_of
from svetovid.crypto import Secret
from svetovid.errors import InputError, RefusalError
from svetovid.offload.plain import PlainMultiplier, exact
from svetovid.offload.product import Product

MASTER = Secret(bytes(32))
SQUARE = Product("matmul", (1, 2, 2), (1, 2, 2), (1, 2, 2))


def begun(run: str = "run") -> PlainMultiplier:
    multiplier = PlainMultiplier(run, MASTER)
    multiplier.begin(0)
    return multiplier


@st.composite
def products(draw: st.DrawFn) -> Product:
    small = st.integers(1, 3)
    if draw(st.booleans()):
        g, m, k, n = (draw(small) for _ in range(4))
        turned = draw(st.tuples(st.booleans(), st.booleans()))
        left = (g, k, m) if turned[0] else (g, m, k)
        right = (g, n, k) if turned[1] else (g, k, n)
        return Product("matmul", left, right, (g, m, n), transpose=turned)
    dims, groups = draw(small), draw(st.integers(1, 2))
    each = st.tuples(*[small] * dims)
    stride, dilation, kernel = draw(each), draw(each), draw(each)
    padding = draw(st.tuples(*[st.integers(0, 2)] * dims))
    out = draw(each)
    over = tuple(draw(st.integers(0, s - 1)) for s in stride)
    size = tuple(
        max((y - 1) * s + d * (k - 1) + 1 - 2 * p + o, 1)
        for y, s, d, k, p, o in zip(out, stride, dilation, kernel, padding, over, strict=True)
    )
    out = tuple(
        (x + 2 * p - d * (k - 1) - 1) // s + 1
        for x, s, d, k, p in zip(size, stride, dilation, kernel, padding, strict=True)
    )
    batch, c, o = draw(small), draw(small), draw(small)
    shapes = {
        "x": (batch, c * groups, *size),
        "w": (o * groups, c, *kernel),
        "y": (batch, o * groups, *out),
    }
    kind, a, b, result = draw(
        st.sampled_from(
            [
                ("conv", "x", "w", "y"),
                ("conv_input", "y", "w", "x"),
                ("conv_weight", "x", "y", "w"),
            ]
        )
    )
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return Product(kind, shapes[a], shapes[b], shapes[result], **how)  # type: ignore[arg-type]


@settings(max_examples=150)
@given(product=products(), seed=st.integers(0, 2**32 - 1), extreme=st.booleans())
def test_products_are_exact(product: Product, seed: int, extreme: bool) -> None:
    rng = np.random.default_rng(seed)
    values = [-128, 128] if extreme else list(range(-128, 129))
    a = rng.choice(values, product.a).astype(np.int16)
    b = rng.choice(values, product.b).astype(np.int16)
    found = exact(product, a, b)
    assert found.shape == product.out
    assert (found.numpy().astype(np.int64) == product_of(product, a, b, np.int64)).all()


def test_a_long_sum_of_extremes_is_exact() -> None:
    n = 524_288
    a = np.full(n, 128, np.int16)
    b = np.full(n, -128, np.int16)
    b[-1] = 127
    found = exact(Product("matmul", (1, 1, n), (1, n, 1), (1, 1, 1)), a, b)
    assert int(found.item()) == -(n - 1) * 128 * 128 + 128 * 127


def test_the_result_is_rounded_once() -> None:
    multiplier = begun()
    n = 4099
    a = torch.full((1, n), 127.0)
    a[0, :3] = torch.tensor([1.0, -1.0, 100.0])
    b = torch.full((n, 1), 2.0**-9 * 125)
    x, w = multiplier.operand("x", a), multiplier.operand("w", b)
    y = multiplier.multiply(Product("matmul", (1, 1, n), (1, n, 1), (1, 1, 1)), x, w)
    whole = sum(int(v) * 125 for v in a[0].tolist())
    assert whole > 2**24
    assert y.dtype == torch.float32
    assert y.item() == np.float32(float(Fraction(whole, 2**9)))


def test_a_step_that_is_done_again_has_the_same_bits() -> None:
    value = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    multiplier = PlainMultiplier("run", MASTER)
    seen = []
    for step in (0, 1, 1):
        multiplier.begin(step)
        seen.append(multiplier.operand("x", value).integers)
        multiplier.end()
    assert multiplier.begun == 3
    assert (seen[1] == seen[2]).all()
    assert (seen[0] != seen[1]).any()
    assert (begun("other").operand("x", value).integers != seen[0]).any()
    assert (begun().operand("y", value).integers != seen[0]).any()
    assert (begun().operand("x", value).integers == seen[0]).all()


def test_a_name_is_used_once_in_a_step() -> None:
    multiplier = begun()
    multiplier.operand("x", torch.ones(2, 2))
    with pytest.raises(RefusalError) as said:
        multiplier.operand("x", torch.ones(2, 2))
    assert said.value.code == "offload.reuse"
    multiplier.end()
    multiplier.begin(1)
    multiplier.operand("x", torch.ones(2, 2))


def test_nothing_outlives_its_step() -> None:
    multiplier = begun()
    old = multiplier.operand("x", torch.ones(2, 2))
    with pytest.raises(RefusalError, match=r"offload\.step"):
        multiplier.begin(1)
    multiplier.end()
    with pytest.raises(RefusalError, match=r"offload\.step"):
        multiplier.operand("y", torch.ones(2, 2))
    with pytest.raises(RefusalError, match=r"offload\.step"):
        multiplier.multiply(SQUARE, old, old)
    multiplier.begin(1)
    new = multiplier.operand("x", torch.ones(2, 2))
    for pair in ((old, new), (new, old)):
        with pytest.raises(RefusalError, match=r"offload\.step"):
            multiplier.multiply(SQUARE, *pair)
    assert multiplier.multiply(SQUARE, new, new).tolist() == [[[2.0, 2.0], [2.0, 2.0]]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match=r"offload\.nonfinite"):
        begun().operand("x", torch.tensor([1.0, bad]))


def test_shapes_must_hold_as_many_numbers() -> None:
    multiplier = begun()
    x, w = multiplier.operand("x", torch.ones(3)), multiplier.operand("w", torch.ones(4))
    for pair in ((x, w), (w, x)):
        with pytest.raises(InputError, match=r"offload\.shape"):
            multiplier.multiply(SQUARE, *pair)
    assert multiplier.multiply(SQUARE, w, w).shape == (1, 2, 2)


def test_zeros_are_zeros() -> None:
    multiplier = begun()
    x = multiplier.operand("x", torch.zeros(2, 2))
    w = multiplier.operand("w", torch.full((2, 2), 2.0**-149))
    assert not multiplier.multiply(SQUARE, x, w).any()


def test_what_is_too_large_becomes_infinite_as_it_does_in_the_plain_layer() -> None:
    multiplier = begun()
    x = multiplier.operand("x", torch.full((2, 2), 3e38))
    assert multiplier.multiply(SQUARE, x, x).tolist() == (torch.full((1, 2, 2), 3e38) ** 2).tolist()
