"""The check of a product, for every kind: it never doubts a right one, and sees every wrong one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.reference import product_of
from svetovid.offload import freivalds
from svetovid.offload.field import FIELDS, M31, Field
from svetovid.offload.product import Product
from svetovid.offload.soundness import ERROR


@st.composite
def products(draw: st.DrawFn) -> Product:
    size = st.integers(1, 4)
    kind = draw(st.sampled_from(["matmul", "conv", "conv_input", "conv_weight"]))
    if kind == "matmul":
        g, m, k, n = (draw(size) for _ in range(4))
        ta, tb = draw(st.booleans()), draw(st.booleans())
        a, b = (g, k, m) if ta else (g, m, k), (g, n, k) if tb else (g, k, n)
        return Product("matmul", a, b, (g, m, n), transpose=(ta, tb))
    dims, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    stride, padding, dilation, taps = (
        tuple(draw(st.integers(low, 2)) for _ in range(dims)) for low in (1, 0, 1, 1)
    )
    outs = tuple(draw(st.integers(1, 3)) for _ in range(dims))
    image = tuple(
        (o - 1) * s + d * (t - 1) + 1 - 2 * p + draw(st.integers(0, s - 1))
        for o, s, d, t, p in zip(outs, stride, dilation, taps, padding, strict=True)
    )
    image = tuple(max(i, 1) for i in image)
    outs = tuple(
        (i + 2 * p - d * (t - 1) - 1) // s + 1
        for i, p, d, t, s in zip(image, padding, dilation, taps, stride, strict=True)
    )
    if min(outs) < 1:
        return Product("matmul", (1, 1, 1), (1, 1, 1), (1, 1, 1))
    n, c, o = draw(size), draw(size) * groups, draw(size) * groups
    x, w, y = (n, c, *image), (o, c // groups, *taps), (n, o, *outs)
    a, b, out = {"conv": (x, w, y), "conv_input": (y, w, x), "conv_weight": (x, y, w)}[kind]
    more = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return Product(kind, a, b, out, **more)  # type: ignore[arg-type]


def split(product: Product, a: np.ndarray, b: np.ndarray, parts: int) -> np.ndarray:
    """By the definition, part by part: the operand is zero outside of a part's range."""
    found = []
    for low, end in product.split(parts):
        some = np.zeros_like(a).reshape(product.a)
        whole = a.reshape(product.a)
        if product.kind == "matmul":
            axis = 1 if product.transpose[0] else 2
            at = tuple(slice(low, end) if i == axis else slice(None) for i in range(3))
            some[at] = whole[at]
        elif product.kind == "conv_weight":
            some[low:end] = whole[low:end]
        else:
            each = product.a[1] // product.groups
            for g in range(product.groups):
                some[:, g * each + low : g * each + end] = whole[:, g * each + low : g * each + end]
        found.append(product_of(product, some, b, dtype=np.int64).reshape(-1))
    return np.concatenate(found)


@given(product=products(), seed=st.integers(0, 2**32 - 1), p=st.sampled_from(sorted(FIELDS)))
@settings(max_examples=120, deadline=None)
def test_a_right_product_holds_and_one_wrong_number_does_not(
    product: Product, seed: int, p: int
) -> None:
    rng, field = np.random.default_rng(seed), FIELDS[p]
    a = rng.integers(-128, 129, math.prod(product.a), np.int16)
    b = rng.integers(-128, 129, math.prod(product.b), np.int16)
    parts = len(product.parts(field.longest))
    right = split(product, a, b, parts).astype(np.int32)
    assert freivalds.holds(product, [(1, a, b)], right, parts, field)
    wrong = right.copy()
    wrong[rng.integers(wrong.size)] += rng.choice([-1, 1, 128, -(2**15)])
    assert not freivalds.holds(product, [(1, a, b)], wrong, parts, field)


@given(product=products(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_sums_of_products_of_residues(product: Product, seed: int) -> None:
    """A worker's own work: terms with signs, residues of any size."""
    rng, p = np.random.default_rng(seed), M31.p
    terms, total = [], np.zeros(math.prod(product.out), object)
    for sign in (1, 1, -1):
        a = rng.integers(0, p, math.prod(product.a), np.int32)
        b = rng.integers(0, p, math.prod(product.b), np.int32)
        terms.append((sign, a, b))
        total = total + sign * product_of(product, a, b).reshape(-1)
    right = (total % p).astype(np.int32)
    assert freivalds.holds(product, terms, right, 1, M31)
    wrong = right.copy()
    wrong[-1] = (int(wrong[-1]) + 1) % p
    assert not freivalds.holds(product, terms, wrong, 1, M31)


def test_ten_thousand_single_changes_are_all_seen() -> None:
    product = Product("matmul", (1, 6, 7), (1, 7, 5), (1, 6, 5))
    rng = np.random.default_rng(1)
    a, b = (rng.integers(-128, 129, math.prod(s), np.int16) for s in (product.a, product.b))
    right = product_of(product, a, b, dtype=np.int64).astype(np.int32).reshape(-1)
    for _ in range(10_000):
        wrong = right.copy()
        wrong[rng.integers(wrong.size)] += rng.choice([-1, 1])
        assert not freivalds.holds(product, [(1, a, b)], wrong, 1, M31)


def test_an_error_that_fixed_weights_would_not_see() -> None:
    """Orthogonal to all ones in rows and columns, so that only random weights see it."""
    product = Product("matmul", (1, 4, 4), (1, 4, 4), (1, 4, 4))
    rng = np.random.default_rng(2)
    a, b = (rng.integers(-128, 129, 16, np.int16) for _ in range(2))
    right = product_of(product, a, b, dtype=np.int64).astype(np.int32).reshape(4, 4)
    error = np.outer([1, -1, 0, 0], [1, -1, 0, 0])
    assert (right + error).sum() == right.sum()
    assert not freivalds.holds(product, [(1, a, b)], (right + error).astype(np.int32), 1, M31)


@pytest.mark.parametrize("field", list(FIELDS.values()), ids=lambda f: str(f.p))
def test_it_is_repeated_as_often_as_the_error_asks_for(field: Field) -> None:
    assert (2 / field.p) ** freivalds.repeats(field) <= ERROR <= 2.0**-40


def test_weights_are_drawn_anew_and_uniform() -> None:
    assert not np.array_equal(freivalds._residues(50, M31.p), freivalds._residues(50, M31.p))
    counts = np.bincount(freivalds._residues(70_000, 7), minlength=7)
    assert abs(counts - 10_000).max() < 700


@pytest.mark.parametrize("field", list(FIELDS.values()), ids=lambda f: str(f.p))
def test_every_repetition_counts(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights of all but one repetition 0 a wrong product is seen all the same."""
    product = Product("matmul", (1, 3, 3), (1, 3, 3), (1, 3, 3))
    a = b = np.ones(9, np.int16)
    wrong = np.full(9, 3, np.int32)
    wrong[4] += 1
    times = freivalds.repeats(field)
    assert times >= 2
    real = freivalds._residues
    for seen in range(times):
        drawn = 0

        def some(count: int, p: int, seen: int = seen) -> np.ndarray:
            nonlocal drawn
            drawn += 1
            mine = (drawn - 1) % times == seen
            return real(count, p) if mine else np.zeros(count, np.int32)

        monkeypatch.setattr(freivalds, "_residues", some)
        assert not freivalds.holds(product, [(1, a, b)], wrong, 1, field)
        assert drawn == 2 * times


@given(product=products(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=80, deadline=None)
def test_the_canonical_form_of_a_product_is_the_same_map(product: Product, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(-9, 10, shape) for shape in (product.a, product.b))
    same = product.canonical
    np.testing.assert_array_equal(product_of(product, a, b), product_of(same, a, b))
    assert same.canonical == same


def test_nothing_that_changes_nothing_is_said() -> None:
    """A script could write to workers in clear by strides that are never taken."""
    x, w, y = (1, 1, 3, 1, 5), (1, 1, 3, 1, 1), (1, 1, 1, 1, 5)
    said = {
        Product(
            kind,  # type: ignore[arg-type]
            *shapes,
            stride=(told, told, 1),
            padding=(0, 0, 0),
            dilation=(1, told, told),
        ).canonical
        for told in (1, 2, 4711, 2**31 - 1)
        for kind, shapes in (
            ("conv", (x, w, y)),
            ("conv_input", (y, w, x)),
            ("conv_weight", (x, y, w)),
        )
    }
    assert len(said) == 3
