from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from offload.reference import product_of
from svetovid.errors import SvetovidError
from svetovid.offload.exact import multiply
from svetovid.offload.field import FIELDS, P24, Field
from svetovid.offload.limbs import SCHEMES
from svetovid.offload.product import Product

KERNELS = sorted(SCHEMES)
fields = st.sampled_from(list(FIELDS.values()))
kernels = st.sampled_from(KERNELS)


@st.composite
def matmuls(draw: Any) -> Product:
    g, m, k, n = (draw(st.integers(1, most)) for most in (3, 6, 40, 6))
    across = draw(st.tuples(st.booleans(), st.booleans()))
    a = (g, k, m) if across[0] else (g, m, k)
    b = (g, n, k) if across[1] else (g, k, n)
    return Product("matmul", a, b, (g, m, n), transpose=across)


@st.composite
def convs(draw: Any) -> Product:
    dims = draw(st.integers(1, 3))

    def each(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(least, most), min_size=dims, max_size=dims)))

    y, k, stride, dilation, padding = each(1, 4), each(1, 3), each(1, 3), each(1, 3), each(0, 3)
    # Sizes that give y, some with a rest that no window reaches.
    rest = tuple(draw(st.integers(0, s - 1)) for s in stride)
    x = tuple(
        (n - 1) * s + d * (t - 1) + 1 - 2 * p + r
        for n, s, d, t, p, r in zip(y, stride, dilation, k, padding, rest, strict=True)
    )
    if min(x) < 1:
        padding, x = (0,) * dims, tuple(n + 2 * p for n, p in zip(x, padding, strict=True))
    groups, n, c, o = (draw(st.integers(1, most)) for most in (3, 3, 3, 3))
    images, weight = (n, c * groups, *x), (o * groups, c, *k)
    back = (n, o * groups, *y)
    how: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    kind = draw(st.sampled_from(["conv", "conv_input", "conv_weight"]))
    shapes = {
        "conv": (images, weight, back),
        "conv_input": (back, weight, images),
        "conv_weight": (images, back, weight),
    }[kind]
    return Product(kind, *shapes, **how, groups=groups)


products = matmuls() | convs()


def residues(field: Field, shape: tuple[int, ...], kind: str, seed: int) -> torch.Tensor:
    r = np.random.default_rng(seed)
    if kind == "random":
        return torch.from_numpy(r.integers(0, field.p, shape, dtype=np.int32))
    ends = {"ends": [0, 1, field.half, field.half + 1, field.p - 1], "plus": [field.half]}
    return torch.from_numpy(r.choice(np.array(ends[kind], dtype=np.int32), shape))


@given(
    products, fields, kernels, st.sampled_from(["random", "ends", "plus"]), st.integers(0, 2**32)
)
@settings(max_examples=150, deadline=None)
def test_product_is_exact(
    product: Product, field: Field, kernel: str, kind: str, seed: int
) -> None:
    a, b = (residues(field, s, kind, seed + i) for i, s in enumerate((product.a, product.b)))
    got = multiply(product, a.flatten(), b, field.p, 1, kernel=kernel)
    assert got.dtype == torch.int32
    assert got.shape == (1, *product.out)
    assert np.array_equal(got[0].numpy(), product_of(product, a, b) % field.p)


@pytest.mark.parametrize("wrong", ["below", "above", "few", "dtype"])
def test_operand_that_is_not_residues_is_refused(wrong: str) -> None:
    product = Product("matmul", (1, 2, 3), (1, 3, 2), (1, 2, 2))
    good = torch.zeros(6, dtype=torch.int32)
    bad = {
        "below": torch.tensor([0, 0, 0, 0, 0, -1], dtype=torch.int32),
        "above": torch.tensor([0, 0, 0, 0, 0, P24.p], dtype=torch.int32),
        "few": good[:5],
        "dtype": good.long(),
    }[wrong]
    for a, b in ((bad, good), (good, bad)):
        with pytest.raises(SvetovidError) as refused:
            multiply(product, a, b, P24.p, 1)
        assert refused.value.code == "worker.operand"
