"""Packed sharing: a batch in two blocks, each worker half of it, and the simulator's bits."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.memory_link import MemoryLink
from offload.test_masking import CONV, ROUNDINGS, drawn, masker
from svetovid.errors import InputError, IntegrityError
from svetovid.offload.blocks import blocks_of
from svetovid.offload.field import FIELDS, M31, P21, Field
from svetovid.offload.plain import PlainMultiplier
from svetovid.offload.product import Product
from svetovid.offload.protocols import CODED, PACKED, Scheme


@st.composite
def layers(draw: st.DrawFn) -> list[Product]:
    """The three products of one layer, whose batch may be of any size."""
    kind, some = draw(st.sampled_from(("conv", "rows", "groups"))), st.integers(1, 5)
    if kind != "conv":
        groups = 1 if kind == "rows" else draw(st.integers(2, 5))
        m, k, n = draw(some), draw(some), draw(some)
        left, right, out = (groups, m, k), (groups, k, n), (groups, m, n)
        return [
            Product("matmul", left, right, out),
            Product("matmul", out, right, left, transpose=(False, True)),
            Product("matmul", left, out, right, transpose=(True, False)),
        ]
    dims, groups = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    each = [draw(st.integers(1, 2)) for _ in range(3)]
    stride, padding, dilation = ((n,) * dims for n in each)
    x = (draw(some), groups * draw(some), *(draw(st.integers(3, 6)) for _ in range(dims)))
    w = (groups * draw(some), x[1] // groups, *[draw(st.integers(1, 2))] * dims)
    y = (x[0], w[0], *((n + 2 * each[1] - each[2] * (w[2] - 1) - 1) // each[0] + 1 for n in x[2:]))
    how: dict[str, Any] = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
    }
    return [
        Product("conv", x, w, y, **how),
        Product("conv_input", y, w, x, **how),
        Product("conv_weight", x, y, w, **how),
    ]


def links(scheme: Scheme = PACKED) -> list[MemoryLink]:
    return [MemoryLink(f"worker {i}") for i in range(len(scheme.workers))]


@settings(max_examples=30, deadline=None)
@given(layers(), st.sampled_from(sorted(FIELDS)), st.integers(0, 2**31))
def test_a_layers_three_products_are_the_simulators(
    tmp_path_factory: pytest.TempPathFactory, products: list[Product], p: int, seed: int
) -> None:
    """Each operand serves two products, in the same points; batches of one, odd and even."""
    forward, to_input, to_weight = products
    masked = masker(tmp_path_factory.mktemp("run"), PACKED, links(), FIELDS[p])
    plain = PlainMultiplier("run", ROUNDINGS)
    shapes = {"x": forward.a, "w": forward.b, "dy": forward.out}
    found = []
    for multiplier in (masked, plain):
        multiplier.begin(0)
        x, w, dy = (
            multiplier.operand(name, drawn(shape, seed + i))
            for i, (name, shape) in enumerate(shapes.items())
        )
        found.append(
            [
                multiplier.multiply(forward, x, w),
                multiplier.multiply(to_input, dy, w),
                multiplier.multiply(to_weight, x, dy),
            ]
        )
    for ours, theirs in zip(*found, strict=True):
        assert ours.shape == theirs.shape
        assert torch.equal(ours, theirs)


EVEN = [
    Product("conv", (6, 4, 5, 5), (6, 2, 3, 3), (6, 6, 5, 5), groups=2, **CONV),
    Product("conv_input", (6, 6, 5, 5), (6, 2, 3, 3), (6, 4, 5, 5), groups=2, **CONV),
    Product("conv_weight", (6, 4, 5, 5), (6, 6, 5, 5), (6, 2, 3, 3), groups=2, **CONV),
    Product("matmul", (1, 6, 5), (1, 5, 4), (1, 6, 4)),
    Product("matmul", (1, 6, 5), (1, 4, 5), (1, 6, 4), transpose=(False, True)),
    Product("matmul", (1, 6, 5), (1, 6, 4), (1, 5, 4), transpose=(True, False)),
    Product("matmul", (4, 6, 5), (4, 5, 3), (4, 6, 3)),
]


@pytest.mark.parametrize("product", EVEN, ids=lambda p: f"{p.kind}{p.out}")
def test_a_worker_does_half_of_what_one_of_coded_does(tmp_path: Path, product: Product) -> None:
    did = {}
    for scheme in (CODED, PACKED):
        to = links(scheme)
        (tmp_path / scheme.name).mkdir()
        trusted = masker(tmp_path / scheme.name, scheme, to)
        trusted.begin(0)
        a, b = trusted.operand("a", drawn(product.a, 1)), trusted.operand("b", drawn(product.b, 2))
        trusted.multiply(product, a, b)
        did[scheme.name] = [sum(w.product.macs for w in link.works) for link in to]
    each = did["coded"][0]
    assert did["coded"] == [each] * 3
    # What sums over the batch is the same at 0 and 1 together without the fifth point.
    summed = product.kind == "conv_weight" or product.transpose[0]
    assert did["packed"] == [each / 2] * 4 + [0 if summed else each / 2]


def test_half_a_random_number_for_an_element_of_a_batch(tmp_path: Path) -> None:
    to, product = links(), EVEN[0]
    trusted = masker(tmp_path, PACKED, to)
    trusted.begin(0)
    x, w = trusted.operand("x", drawn(product.a, 1)), trusted.operand("w", drawn(product.b, 2))
    assert not any(link.seen for link in to)  # what becomes of it is not known yet
    trusted.multiply(product, x, w)
    trusted.multiply(EVEN[2], x, trusted.operand("dy", drawn(product.out, 3)))
    sizes = [math.prod(product.a) // 2, math.prod(product.b), math.prod(product.out) // 2]
    for link in to:  # x is sent once
        assert [seen.size for _, seen in link.seen] == sizes


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (EVEN[3], Product("matmul", (1, 4, 5), (1, 5, 6), (1, 4, 6))),  # w, cut after it was not
        (EVEN[3], Product("matmul", (1, 3, 10), (1, 10, 4), (1, 3, 4))),  # other rows
        (EVEN[3], Product("matmul", (1, 6, 4), (1, 4, 4), (1, 6, 4))),  # fewer numbers
    ],
)
def test_a_use_in_another_form_is_refused(tmp_path: Path, first: Product, then: Product) -> None:
    trusted = masker(tmp_path, PACKED, links())
    trusted.begin(0)
    x, w = trusted.operand("x", drawn(first.a, 1)), trusted.operand("w", drawn(first.b, 2))
    trusted.multiply(first, x, w)
    works = [len(link.works) for link in trusted.links]  # type: ignore[attr-defined]
    again = x if math.prod(then.a) != w.q.size else w
    other = trusted.operand("other", drawn(then.b, 3))
    with pytest.raises(InputError, match=re.escape("offload.shape")):
        trusted.multiply(then, again, other)
    assert works == [len(link.works) for link in trusted.links]  # type: ignore[attr-defined]


def test_a_batch_that_was_filled_up_is_not_a_longer_one(tmp_path: Path) -> None:
    """Five rows are kept as blocks of three and three; nobody may ask for the sixth."""
    trusted = masker(tmp_path, PACKED, links())
    trusted.begin(0)
    x, w = trusted.operand("x", drawn((5, 5), 1)), trusted.operand("w", drawn((5, 4), 2))
    five = Product("matmul", (1, 5, 5), (1, 5, 4), (1, 5, 4))
    assert trusted.multiply(five, x, w).shape == five.out
    with pytest.raises(InputError, match=re.escape("offload.shape")):
        trusted.multiply(EVEN[3], x, w)


TIGHT = CONV | {"padding": (0, 0)}
ONE_SIGN = [
    Product("matmul", (1, 600, 3), (1, 600, 2), (1, 3, 2), transpose=(True, False)),
    Product("matmul", (1, 601, 3), (1, 601, 2), (1, 3, 2), transpose=(True, False)),
    Product(
        "conv_weight", (7, 2, 6, 6), (7, 3, 6, 6), (3, 2, 1, 1), **(CONV | {"padding": (0, 0)})
    ),
    Product(
        "conv_weight", (4, 2, 7, 7), (4, 3, 7, 7), (3, 2, 1, 1), **(CONV | {"padding": (0, 0)})
    ),
    Product("matmul", (1, 5, 300), (1, 300, 2), (1, 5, 2)),
]


@pytest.mark.parametrize("product", ONE_SIGN, ids=lambda p: f"{p.kind}{p.a}")
@pytest.mark.parametrize("p", sorted(FIELDS))
def test_sums_of_one_sign_as_large_as_can_be(tmp_path: Path, p: int, product: Product) -> None:
    """Both blocks' parts together are just short of wrapping, in Goten's field often."""
    trusted = masker(tmp_path, PACKED, links(), FIELDS[p])
    for step, sign in enumerate((1, -1)):
        trusted.begin(step)
        a = trusted.operand("a", sign * torch.ones(product.a))
        b = trusted.operand("b", torch.ones(product.b))
        assert set(np.abs(a.q)) == {128}
        assert (trusted.multiply(product, a, b) == sign * product.reduction).all()


@pytest.mark.parametrize("p", sorted(FIELDS))
@pytest.mark.parametrize("product", [*EVEN, *ONE_SIGN], ids=lambda p: f"{p.kind}{p.a}")
def test_no_sum_that_is_put_together_can_wrap(p: int, product: Product) -> None:
    longest = FIELDS[p].longest
    blocks = blocks_of(product, 2, longest)
    parts = blocks.product.split(blocks.parts)
    most = max(end - begin for begin, end in parts) * blocks.product.least
    assert all(most * len(summed) <= longest for summed in blocks.results)


def test_an_image_too_large_for_half_a_sum_is_added_as_integers(tmp_path: Path) -> None:
    """49 products at least, of at most 63: two blocks' together could wrap, and stay apart."""
    product = ONE_SIGN[3]
    assert P21.longest // 2 < product.least <= P21.longest
    assert blocks_of(product, 2, P21.longest).join == "sum"
    assert blocks_of(product, 2, M31.longest).join == "rows"
    for step, size in enumerate((1e-30, 1.0, 1e30)):  # of which the products are 0 and infinite
        folder = tmp_path / str(step)
        folder.mkdir()
        trusted, plain = masker(folder, PACKED, links(), P21), PlainMultiplier("run", ROUNDINGS)
        found = []
        for multiplier in (trusted, plain):
            multiplier.begin(0)
            a = multiplier.operand("a", drawn(product.a, 1) * size)
            b = multiplier.operand("b", drawn(product.b, 2) * size)
            found.append(multiplier.multiply(product, a, b))
        assert torch.equal(*found)


def test_a_longer_field_is_not_needed_for_two_blocks() -> None:
    tiny = Field(2 * 128**2 * 9 + 1)  # 9 products
    product = Product(
        "conv_weight", (8, 1, 3), (8, 1, 3), (1, 1, 1), (False, False), (1,), (0,), (1,)
    )
    assert blocks_of(product, 2, tiny.longest).parts == 4  # of one image each, 3 products
    with pytest.raises(InputError, match=re.escape("offload.shape")):
        blocks_of(replace(product, a=(8, 1, 10), b=(8, 1, 10)), 2, tiny.longest)


ASKED = [(EVEN[0], 5), (EVEN[2], 4), (ONE_SIGN[3], 5)]


@pytest.mark.parametrize(
    ("product", "place"), [(product, i) for product, places in ASKED for i in range(places)]
)
def test_a_liar_is_named_whatever_becomes_of_the_blocks(
    tmp_path: Path, product: Product, place: int
) -> None:
    to = links()

    def change(_: object, answer: np.ndarray) -> np.ndarray:
        answer[-1] = (answer[-1] + 1) % P21.p
        return answer

    to[place].change = change
    trusted = masker(tmp_path, PACKED, to, P21)
    trusted.begin(0)
    a, b = trusted.operand("a", drawn(product.a, 1)), trusted.operand("b", drawn(product.b, 2))
    with pytest.raises(IntegrityError, match=re.escape("worker.wrong")):
        trusted.multiply(product, a, b)
    assert trusted.failed == {place}


@pytest.mark.parametrize("summed", [(0,), (1,), (0, 1)])
def test_errors_of_two_parts_that_come_to_p_are_seen(
    tmp_path: Path, summed: tuple[int, ...]
) -> None:
    """Wrong by p in a result of both blocks, or of one: parts are checked one by one."""
    if len(summed) > 1:
        product = Product("matmul", (1, 900, 2), (1, 900, 2), (1, 2, 2), transpose=(True, False))
    else:
        product = Product("matmul", (1, 4, 900), (1, 900, 2), (1, 4, 2))
    to, times = links(), PACKED.answers(summed, P21.p)[3]

    def change(_: object, answer: np.ndarray) -> np.ndarray:
        parts = answer.reshape(15 if len(summed) == 1 else -1, 4)
        for part, error in ((0, P21.half), (1, P21.half + 1)):
            by = error * pow(times, -1, P21.p)
            parts[part, 0] = (int(parts[part, 0]) + by) % P21.p
        return answer

    to[3].change = change
    trusted = masker(tmp_path, PACKED, to, P21)
    trusted.begin(0)
    a, b = trusted.operand("a", drawn(product.a, 1)), trusted.operand("b", drawn(product.b, 2))
    with pytest.raises(IntegrityError, match=re.escape("worker.wrong")):
        trusted.multiply(product, a, b)
    assert trusted.failed == {3}


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("product", [EVEN[0], EVEN[5], ONE_SIGN[3]], ids=lambda p: f"{p.kind}")
def test_two_liars_whose_errors_only_one_block_has(
    tmp_path: Path, product: Product, block: int
) -> None:
    """Their errors cancel in the other one: each result is checked."""
    to, p = links(), P21.p
    times = PACKED.answers([1 - block], p)
    errors = {1: times[2], 2: -times[1]}
    assert sum(n * times[i] for i, n in errors.items()) % p == 0
    assert sum(n * PACKED.answers([block], p)[i] for i, n in errors.items()) % p

    def lie(link: MemoryLink, by: int) -> None:
        def change(_: object, answer: np.ndarray) -> np.ndarray:
            answer[0] = (int(answer[0]) + by) % p
            return answer

        link.change = change

    for place, by in errors.items():
        lie(to[place], by)
    trusted = masker(tmp_path, PACKED, to, P21)
    trusted.begin(0)
    a, b = trusted.operand("a", drawn(product.a, 1)), trusted.operand("b", drawn(product.b, 2))
    with pytest.raises(IntegrityError, match=re.escape("worker.wrong")):
        trusted.multiply(product, a, b)
    assert trusted.failed == {1, 2}
