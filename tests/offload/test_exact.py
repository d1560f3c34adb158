from __future__ import annotations

import dataclasses
import itertools
import time
import unittest.mock
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from offload.reference import product_of, terms_of
from svetovid.errors import InputError, SvetovidError
from svetovid.offload import limbs, lowering, packed_limbs, windows
from svetovid.offload.exact import fastest, kernels, multiply, self_test
from svetovid.offload.field import FIELDS, LARGEST, M31, P24, Field
from svetovid.offload.limbs import SCHEMES
from svetovid.offload.product import Product

KERNELS = sorted(SCHEMES)
FP64 = SCHEMES["fp64"]
fields = st.sampled_from(list(FIELDS.values()))
names = st.sampled_from(KERNELS)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tests share the machine: threads that wait for one another would only slow it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
    products,
    fields,
    names,
    st.booleans(),
    st.sampled_from(["random", "ends", "plus"]),
    st.integers(0, 2**32),
)
@settings(max_examples=200, deadline=None)
def test_product_is_exact(
    product: Product, field: Field, kernel: str, packed: bool, kind: str, seed: int
) -> None:
    a, b = (residues(field, s, kind, seed + i) for i, s in enumerate((product.a, product.b)))
    got = multiply(product, a.flatten(), b, field.p, 1, kernel=kernel, packed=packed)
    assert got.dtype == torch.int32
    assert got.shape == (1, *product.out)
    assert np.array_equal(got[0].numpy(), product_of(product, a, b) % field.p)


@given(products, fields, names, st.booleans(), st.integers(0, 2**32))
@settings(max_examples=80, deadline=None)
def test_product_that_is_gathered_piece_by_piece(
    product: Product, field: Field, kernel: str, packed: bool, seed: int
) -> None:
    a, b = (residues(field, s, "random", seed + i) for i, s in enumerate((product.a, product.b)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lowering, "GATHERED", 100)
        patch.setattr(limbs, "_BLOCK", 8)
        patch.setattr(limbs, "_ROWS", 2)
        patch.setattr(packed_limbs, "LONGEST", 3)
        got = multiply(product, a, b, field.p, 1, kernel=kernel, packed=packed)
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


@given(products)
@settings(max_examples=100, deadline=None)
def test_reference_is_what_torch_means(product: Product) -> None:
    """Against the derivatives that torch takes itself, of numbers so small that it cannot round."""
    a, b = (
        torch.randint(-9, 9, s, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        for i, s in enumerate((product.a, product.b))
    )
    if product.kind == "matmul":
        want = (a.mT if product.transpose[0] else a) @ (b.mT if product.transpose[1] else b)
    else:
        known = {"conv": (a, b, None), "conv_input": (None, b, a), "conv_weight": (a, None, b)}
        x, w, back = known[product.kind]
        x = torch.zeros(product.x, dtype=torch.float64, requires_grad=True) if x is None else x
        w = torch.zeros(product.w, dtype=torch.float64, requires_grad=True) if w is None else w
        conv = (torch.conv1d, torch.conv2d, torch.conv3d)[product.dims - 1]
        how = (product.stride, product.padding, product.dilation, product.groups)
        want = conv(x, w, None, *how)  # type: ignore[operator]
        if back is not None:
            (want,) = torch.autograd.grad(want, x if product.kind == "conv_input" else w, back)
    got = product_of(product, a.long(), b.long(), dtype=np.int64)
    assert np.array_equal(got, want.detach().numpy())


@pytest.mark.parametrize("p", FIELDS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("packed", [True, False])
def test_long_sums_of_one_sign_are_exact(packed: bool, kernel: str, p: int) -> None:
    k, half = 524_288, FIELDS[p].half
    product = Product("matmul", (1, 2, k), (1, k, 2), (1, 2, 2))
    for a, b in ((half, half), (half + 1, half)):
        left, right = (torch.full((2 * k,), v, dtype=torch.int32) for v in (a, b))
        got = multiply(product, left, right, p, 1, kernel=kernel, packed=packed)
        assert got.unique().tolist() == [k * a * b % p]
        parts = product.parts(FIELDS[p].longest) if FIELDS[p] == M31 else product.split(3)
        got = multiply(product, left, right, p, len(parts), kernel=kernel, packed=packed)
        for part, (low, end) in zip(got, parts, strict=True):
            assert part.unique().tolist() == [(end - low) * a * b % p]


@pytest.mark.parametrize("p", FIELDS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_sum_is_reduced_before_it_is_too_long(kernel: str, p: int) -> None:
    """Digits are at their lowest, but for some that make every sum odd."""
    scheme = SCHEMES[kernel](p)
    lowest, _ = scheme.ends
    for k in (scheme.longest, scheme.longest + 1, 2 * scheme.longest):
        product = Product("matmul", (1, 1, k), (1, k, 1), (1, 1, 1))
        a = torch.full((k,), lowest, dtype=torch.int32)
        b = a.clone()
        a[0] = b[0] = (lowest + 1) % p
        wanted = ((k - 1) * lowest * lowest + (lowest + 1) ** 2) % p
        assert int(multiply(product, a, b, p, 1, kernel=kernel, packed=False)) == wanted


@pytest.mark.parametrize("p", FIELDS)
@pytest.mark.parametrize("turned", [False, True])
def test_sum_of_packed_digits_is_reduced_before_it_is_too_long(turned: bool, p: int) -> None:
    lowest, highest = packed_limbs.ends(p)
    multiplied = packed_limbs.columns if turned else packed_limbs.rows
    matmul = SCHEMES["int8"](p).matmul
    for k, low, other in itertools.product(
        (packed_limbs.LONGEST, packed_limbs.LONGEST + 1), (lowest, highest), (lowest, highest)
    ):
        a = torch.full((2, k), low, dtype=torch.int32)
        b = torch.full((k, 3), other, dtype=torch.int32)
        given = (a, packed_limbs.packed(b, p)) if turned else (packed_limbs.packed(a, p), b)
        assert multiplied(matmul, *given, p).unique().tolist() == [k * low * other % p]


@pytest.mark.parametrize("p", FIELDS)
def test_packed_digits_are_bytes_of_the_residue(p: int) -> None:
    residues = torch.tensor([0, 1, p // 2, p - 1, *packed_limbs.ends(p)], dtype=torch.int32)
    digits = packed_limbs.packed(residues, p).view(torch.int8).view(-1, 4).tolist()
    for residue, of_it in zip(residues.tolist(), digits, strict=True):
        assert sum(d * 256**i for i, d in enumerate(of_it)) % p == residue


@given(products, fields, names, st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_parts_are_what_their_range_sums_up(
    product: Product, field: Field, kernel: str, seed: int
) -> None:
    """Operands that are zero outside of a part's range give that part."""
    axis = extent(product)
    ranges = product.split(-(-axis // (1 + seed % axis)))
    a, b = (residues(field, s, "random", seed + i) for i, s in enumerate((product.a, product.b)))
    got = multiply(product, a, b, field.p, len(ranges), kernel=kernel)
    assert got.shape == (len(ranges), *product.out)
    for part, (low, end) in zip(got, ranges, strict=True):
        alone = torch.zeros_like(a)
        kept = kept_by(product, low, end)
        alone[kept] = a[kept]
        assert np.array_equal(part.numpy(), product_of(product, alone, b) % field.p)


def extent(product: Product) -> int:
    """Of the axis that is split."""
    ((_, end),) = product.split(1)
    return end


def kept_by(product: Product, low: int, end: int) -> Any:
    """Index of what of a is in a range of the axis that is split."""
    if product.kind == "matmul":
        return (slice(None), slice(low, end)) if product.transpose[0] else (..., slice(low, end))
    if product.kind == "conv_weight":
        return slice(low, end)
    each = product.a[1] // product.groups
    return (slice(None), [g * each + c for g in range(product.groups) for c in range(low, end)])


@given(products, fields)
@settings(max_examples=80, deadline=None)
def test_no_part_of_a_product_can_wrap(product: Product, field: Field) -> None:
    terms = terms_of(product)
    assert terms <= product.reduction
    if product.kind != "conv_input" and not any(product.padding):
        assert terms == product.reduction
    inner = product.reduction // extent(product)
    with pytest.raises(SvetovidError) as refused:
        product.parts(inner - 1)
    assert refused.value.code == "offload.shape"
    if inner > field.longest:
        return
    ranges = product.parts(field.longest)
    assert [low for low, _ in ranges] == [0, *(end for _, end in ranges[:-1])]
    assert ranges[-1][1] == extent(product)
    assert product.split(len(ranges)) == ranges
    for low, end in ranges:
        a = np.zeros(product.a, dtype=np.int64)
        a[kept_by(product, low, end)] = LARGEST
        b = np.full(product.b, -LARGEST)
        assert np.abs(product_of(product, a, b, dtype=np.int64)).max() <= field.half


@pytest.mark.parametrize("parts", [0, -1, 6, 11])
def test_number_of_parts_that_no_length_makes_is_refused(parts: int) -> None:
    product = Product("matmul", (1, 1, 10), (1, 10, 1), (1, 1, 1))
    with pytest.raises(SvetovidError) as refused:
        product.split(parts)
    assert refused.value.code == "offload.shape"


CPU = torch.device("cpu")


def test_every_kernel_passes_and_one_is_fastest() -> None:
    self_test(CPU)
    assert set(kernels(CPU)) == set(KERNELS)
    assert all(fastest(CPU, p) in KERNELS for p in FIELDS)


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, TypeError])
def test_kernel_that_a_device_lacks_is_not_named(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        raise error

    monkeypatch.setitem(SCHEMES, "fp64", lambda p: dataclasses.replace(FP64(p), matmul=lacking))
    kernels.cache_clear()
    try:
        assert kernels(CPU) == tuple(name for name in SCHEMES if name != "fp64")
    finally:
        kernels.cache_clear()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_bytes_in_the_sizes_that_gpus_take(m: int, k: int, n: int) -> None:
    draws = torch.Generator().manual_seed(m)
    a, b = (
        torch.randint(-128, 128, shape, generator=draws, dtype=torch.int8)
        for shape in ((m, k), (k, n))
    )
    with unittest.mock.patch.object(torch, "_int_mm", wraps=torch._int_mm) as called:
        got = limbs.aligned_matmul(a, b)
    (rows, inner), columns = called.call_args[0][0].shape, called.call_args[0][1].shape[1]
    assert rows > 16
    assert inner % 8 == columns % 8 == 0
    assert torch.equal(got, (a.long() @ b.long()).int())


def rounded(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.float() @ b.float()).double()


def one_bit(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Wrong in the last bit of one number, and of long sums of that many rows only."""
    out = a @ b
    if a.shape[1] >= 8192:
        out[-1, -1] += 1
    return out


def emulated(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Products of 48 bits, as FP64 may be made of smaller numbers."""
    high = (a * 2**-8).round() * 2**8
    return high @ b + (a - high) @ ((b * 2**-9).round() * 2**9)


def saturated(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Wrong at the very end of what fits."""
    return (a @ b).clamp(max=2**53 - 1)


def uneven(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Wrong where not all numbers of a row are the same, which are few."""
    return a @ b + (a != a[:, :1]).any(1, keepdim=True) * (a.shape[1] < 128)


def uneven_long(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a @ b + (a != a[:, :1]).any(1, keepdim=True) * (a.shape[1] >= 8192)


@pytest.mark.parametrize("wrong", [rounded, one_bit, emulated, saturated, uneven, uneven_long])
def test_kernel_that_rounds_is_refused(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCHEMES, "fp64", lambda p: dataclasses.replace(FP64(p), matmul=wrong))
    with pytest.raises(SvetovidError) as refused:
        self_test(CPU)
    assert refused.value.code == "worker.kernel"


def strided(kernel: int, size: int) -> Product:
    """One output that reads all of a kernel, of a tensor that is much larger."""
    how = {"stride": (size - kernel + 1,), "padding": (0,), "dilation": (1,)}
    return Product("conv_input", (1, 1, 1), (1, 1, kernel), (1, 1, size), **how).canonical


def test_a_large_stride_costs_no_more_than_its_taps() -> None:
    begun = time.monotonic()
    phases = list(windows.input_phases(strided(4096, 1 << 22)))
    assert len(phases) == 4096
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    "many",
    [
        lambda: strided(65_535, 1 << 22),
        lambda: Product("matmul", (16_385, 1, 1), (16_385, 1, 1), (16_385, 1, 1)),
        lambda: Product(
            *("conv", (1, 16_385, 1), (16_385, 1, 1), (1, 16_385, 1)),
            stride=(1,),
            padding=(0,),
            dilation=(1,),
            groups=16_385,
        ),
    ],
    ids=["phases", "matrices", "groups"],
)
def test_a_product_of_too_many_pieces_is_refused(many: Callable[[], Product]) -> None:
    """Each takes a worker's time, and its host's, whatever its size."""
    with pytest.raises(InputError, match=r"offload\.shape"):
        many()


def test_a_narrow_product_of_many_rows_takes_bounded_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a worker is sent is bounded; what it makes of that must be as well."""
    most = 0
    real = packed_limbs.rows

    def rows(matmul: Any, a: torch.Tensor, b: torch.Tensor, p: int) -> torch.Tensor:
        nonlocal most
        most = max(most, a.numel() + 8 * len(a) * b.shape[1])
        return real(matmul, a, b, p)

    monkeypatch.setattr(packed_limbs, "rows", rows)
    monkeypatch.setattr(lowering, "GATHERED", 1 << 14)
    product = Product("matmul", (1, 5000, 3), (1, 3, 2), (1, 5000, 2))
    a, b = (residues(M31, shape, "random", 1) for shape in (product.a, product.b))
    got = multiply(product, a, b, M31.p, 1, kernel="int8")
    assert np.array_equal(got[0].numpy(), product_of(product, a, b) % M31.p)
    assert 0 < 4 * most <= 1 << 14
