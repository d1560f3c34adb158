"""Every family of layers against the plain layer: shapes, strides and settings drawn at random."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from offload.layerworld import assert_same, whole
from svetovid.offload.layers import Matmul

SMALL = st.integers(1, 3)
SEEDS = st.integers(0, 2**32 - 1)
CONVS: list[Any] = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
TRANSPOSED: list[Any] = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def strided(x: torch.Tensor, how: int) -> torch.Tensor:
    """The same numbers in another order of memory."""
    turned = list(range(x.dim()))[::-1]
    if how == 1:
        return x.permute(turned).contiguous().permute(turned)
    if how == 2:
        return torch.stack([x, x], -1)[..., 0]
    return x


@settings(max_examples=40)
@given(
    lead=st.lists(SMALL, max_size=3), i=SMALL, o=SMALL, bias=st.booleans(), how=SMALL, seed=SEEDS
)
def test_linear(lead: list[int], i: int, o: int, bias: bool, how: int, seed: int) -> None:
    generator = seeded(seed)
    x = strided(whole([*lead, i], generator), how - 1)
    seen = assert_same(nn.Linear(i, o, bias=bias), [x], generator)
    assert list(seen.operands) == ["/x", "/w", "/dy"]
    assert [names[:2] for names in seen.asked] == [("/x", "/w"), ("/dy", "/w"), ("/dy", "/x")]


@st.composite
def conv_layers(draw: st.DrawFn) -> tuple[nn.Module, list[int]]:
    dims, groups = draw(SMALL), draw(st.integers(1, 3))
    each = st.tuples(*[SMALL] * dims)
    kernel, dilation = draw(each), draw(st.tuples(*[st.integers(1, 2)] * dims))
    pads = st.tuples(*[st.integers(0, 2)] * dims)
    padding = draw(st.one_of(pads, st.sampled_from(["same", "valid"])))
    stride = (1,) * dims if padding == "same" else draw(each)
    mode = draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]))
    channels, outputs = draw(SMALL) * groups, draw(SMALL) * groups
    layer = CONVS[dims - 1](
        channels,
        outputs,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=mode,
    )
    # Larger than the kernel, and than what is padded with the tensor's own numbers.
    size = [
        max(d * (k - 1) + 1, 5 if mode != "zeros" else 1) + draw(st.integers(0, 2))
        for d, k in zip(dilation, kernel, strict=True)
    ]
    batch = draw(st.lists(SMALL, max_size=1))
    return layer, [*batch, channels, *size]


@settings(max_examples=120)
@given(drawn=conv_layers(), how=SMALL, seed=SEEDS)
def test_convolutions(drawn: tuple[nn.Module, list[int]], how: int, seed: int) -> None:
    layer, shape = drawn
    generator = seeded(seed)
    seen = assert_same(layer, [strided(whole(shape, generator), how - 1)], generator)
    assert [a[2].kind for a in seen.asked] == ["conv", "conv_input", "conv_weight"]


@st.composite
def transposed_layers(draw: st.DrawFn) -> tuple[nn.Module, list[int]]:
    dims, groups = draw(SMALL), draw(st.integers(1, 3))
    each = st.tuples(*[SMALL] * dims)
    kernel, dilation, stride = draw(each), draw(each), draw(each)
    beyond = tuple(
        draw(st.integers(0, max(d, s) - 1)) for d, s in zip(dilation, stride, strict=True)
    )
    channels, outputs = draw(SMALL) * groups, draw(SMALL) * groups
    padding = tuple(
        draw(st.integers(0, min(2, d * (k - 1)))) for d, k in zip(dilation, kernel, strict=True)
    )
    layer = TRANSPOSED[dims - 1](
        channels,
        outputs,
        kernel,
        stride=stride,
        padding=padding,
        output_padding=beyond,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
    )
    size = [
        draw(SMALL) + (2 * p) // s + 1 for p, s in zip(padding, stride, strict=True)
    ]  # so that something is left when the padding was taken away
    return layer, [*draw(st.lists(SMALL, max_size=1)), channels, *size]


@settings(max_examples=120)
@given(drawn=transposed_layers(), how=SMALL, seed=SEEDS)
def test_transposed_convolutions(drawn: tuple[nn.Module, list[int]], how: int, seed: int) -> None:
    layer, shape = drawn
    generator = seeded(seed)
    seen = assert_same(layer, [strided(whole(shape, generator), how - 1)], generator)
    assert [a[2].kind for a in seen.asked] == ["conv_input", "conv", "conv_weight"]


def test_a_transposed_convolution_takes_the_size_that_is_asked_for() -> None:
    generator = seeded(0)
    layer = nn.ConvTranspose2d(2, 3, 3, stride=3, padding=1)
    x = whole((2, 2, 4, 4), generator)
    assert_same(layer, [x], generator, output_size=[12, 11])


@st.composite
def factors(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    lead = draw(st.lists(SMALL, max_size=3))
    m, k, n = draw(SMALL), draw(SMALL), draw(SMALL)
    left = [1 if draw(st.booleans()) else s for s in lead]
    right = [1 if draw(st.booleans()) else s for s in lead]
    right = right[draw(st.integers(0, len(right))) :]
    a, b = [*left, m, k], [*right, k, n]
    one = draw(st.sampled_from(["neither", "neither", "a", "b", "both"]))
    return ([k] if one in ("a", "both") else a), ([k] if one in ("b", "both") else b)


@settings(max_examples=120)
@given(shapes=factors(), how=SMALL, seed=SEEDS)
def test_products_of_tensors(shapes: tuple[list[int], list[int]], how: int, seed: int) -> None:
    generator = seeded(seed)
    a, b = (strided(whole(shape, generator), how - 1) for shape in shapes)
    seen = assert_same(Matmul(), [a, b], generator)
    assert [a[2].kind for a in seen.asked] == ["matmul"] * 3
