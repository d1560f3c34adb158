"""The trusted side: exact by every protocol, private of every tensor, fooled by nobody."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from offload.memory_link import MemoryLink
from offload.reference import product_of
from svetovid.crypto import Secret
from svetovid.errors import HostError, InputError, IntegrityError, RefusalError, TransportError
from svetovid.offload import exact, kernels
from svetovid.offload.address import Rounding
from svetovid.offload.field import FIELDS, M31, Field
from svetovid.offload.ledger import Ledger
from svetovid.offload.masking import Masker
from svetovid.offload.product import Product
from svetovid.offload.protocols import CODED, CODED_CHECKED, SCHEMES, Scheme
from svetovid.offload.quantise import quantised, shift_of

ROUNDINGS = Secret(bytes(range(32)))
CONV = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
PRODUCTS = [
    Product("matmul", (2, 3, 5), (2, 5, 4), (2, 3, 4)),
    Product("matmul", (1, 5, 3), (1, 4, 5), (1, 3, 4), transpose=(True, True)),
    Product("matmul", (1, 2, 100_000), (1, 100_000, 2), (1, 2, 2)),
    Product("conv", (2, 4, 5, 6), (6, 2, 3, 3), (2, 6, 5, 6), groups=2, **CONV),
    Product("conv_input", (2, 6, 5, 6), (6, 2, 3, 3), (2, 4, 5, 6), groups=2, **CONV),
    Product("conv_weight", (2, 4, 5, 6), (2, 6, 5, 6), (6, 2, 3, 3), groups=2, **CONV),
    Product("conv_weight", (3, 1, 150, 150), (3, 1, 150, 150), (1, 1, 3, 3), **CONV),
]


def masker(
    folder: Path, scheme: Scheme = CODED, links: Sequence[MemoryLink] = (), field: Field = M31
) -> Masker:
    ledger = Ledger(folder / "ledger", "run")
    ledger.begin()
    links = links or [MemoryLink(f"worker {i}") for i in range(len(scheme.workers))]
    return Masker(scheme, links, ledger, run="run", roundings=ROUNDINGS, field=field)


def drawn(shape: Sequence[int], seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def expected(product: Product, a: torch.Tensor, b: torch.Tensor, step: int = 0) -> np.ndarray:
    """By the definition of quantisation, and integers."""
    held, shifts = [], 0
    for name, value in (("a", a), ("b", b)):
        x = value.contiguous().numpy().reshape(-1)
        shift = shift_of(float(np.abs(x).max()))
        held.append(quantised(x, shift, Rounding("run", step, name).key(ROUNDINGS)))
        shifts += shift
    exact = product_of(product, *held, dtype=np.int64)
    return np.ldexp(exact.astype(np.float64), -shifts).astype(np.float32)


@pytest.mark.parametrize("scheme", list(SCHEMES.values()), ids=lambda s: s.name)
@pytest.mark.parametrize("product", PRODUCTS, ids=lambda p: f"{p.kind}{p.out}")
def test_every_protocol_is_exact(tmp_path: Path, scheme: Scheme, product: Product) -> None:
    a, b = drawn(product.a, 1), drawn(product.b, 2)
    trusted = masker(tmp_path, scheme)
    trusted.begin(0)
    found = trusted.multiply(product, trusted.operand("a", a), trusted.operand("b", b))
    assert found.shape == product.out
    np.testing.assert_array_equal(found.numpy(), expected(product, a, b))


@pytest.mark.parametrize("p", sorted(FIELDS))
def test_every_field_is_exact_and_sums_are_split_as_it_needs(tmp_path: Path, p: int) -> None:
    product = Product("matmul", (1, 3, 600), (1, 600, 2), (1, 3, 2))
    field = FIELDS[p]
    trusted = masker(tmp_path, field=field)
    trusted.begin(0)
    a, b = torch.ones(product.a), torch.ones(product.b)  # all of one sign, as large as can be
    found = trusted.multiply(product, trusted.operand("a", a), trusted.operand("b", b))
    assert (found == 600).all()
    link = trusted.links[0]
    assert isinstance(link, MemoryLink)
    assert link.works[0].parts == len(product.parts(field.longest))
    assert (link.works[0].parts == 1) == (field is M31)


@pytest.mark.parametrize("sign", [1, -1])
def test_half_a_million_of_one_sign_is_exact(tmp_path: Path, sign: int) -> None:
    """The weight gradient of a first convolution at batch 512: 524,288 products in each sum."""
    product = Product("matmul", (1, 1, 524_288), (1, 524_288, 2), (1, 1, 2))
    trusted = masker(tmp_path)
    trusted.begin(0)
    a, b = trusted.operand("a", torch.ones(product.a)), trusted.operand("b", torch.ones(product.b))
    c = trusted.operand("c", torch.full(product.b, float(sign)))
    assert (trusted.multiply(product, a, b) == 524_288).all()
    assert (trusted.multiply(product, a, c) == sign * 524_288).all()


def test_five_hundred_random_products_are_those_of_integers(tmp_path: Path) -> None:
    """Every kind, odd sizes, strides, groups; values at the edges of what eight bits hold."""
    chance = random.Random(4)
    for scheme in SCHEMES.values():
        (tmp_path / scheme.name).mkdir()
        trusted = masker(tmp_path / scheme.name, scheme)
        for step in range(500 // len(SCHEMES) + 1):
            product = random_product(chance)
            edge = chance.choice([None, 1.0, -1.0, 127.99])
            a, b = (
                drawn(product.a, chance.getrandbits(30)),
                drawn(product.b, chance.getrandbits(30)),
            )
            if edge is not None:
                a, b = torch.full(product.a, edge), b.sign() * 3e-20
            trusted.begin(step)
            found = trusted.multiply(product, trusted.operand("a", a), trusted.operand("b", b))
            np.testing.assert_array_equal(found.numpy(), expected(product, a, b, step))


def random_product(chance: random.Random) -> Product:
    def some(most: int) -> int:
        return chance.randint(1, most)

    kind = chance.choice(["matmul", "conv", "conv_input", "conv_weight"])
    if kind == "matmul":
        g, m, k, n = some(3), some(7), some(40), some(7)
        ta, tb = chance.random() < 0.5, chance.random() < 0.5
        a, b = (g, k, m) if ta else (g, m, k), (g, n, k) if tb else (g, k, n)
        return Product("matmul", a, b, (g, m, n), transpose=(ta, tb))
    dims, groups = some(2), some(2)
    stride, dilation, taps = (tuple(some(n) for _ in range(dims)) for n in (2, 2, 3))
    padding = tuple(chance.randint(0, 2) for _ in range(dims))
    image = tuple(d * (t - 1) + some(6) for d, t in zip(dilation, taps, strict=True))
    outs = tuple(
        (i + 2 * p - d * (t - 1) - 1) // s + 1
        for i, p, d, t, s in zip(image, padding, dilation, taps, stride, strict=True)
    )
    n, c, o = some(4), some(3) * groups, some(3) * groups
    x, w, y = (n, c, *image), (o, c // groups, *taps), (n, o, *outs)
    a, b, out = {"conv": (x, w, y), "conv_input": (y, w, x), "conv_weight": (x, y, w)}[kind]
    more = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return Product(kind, a, b, out, **more)  # type: ignore[arg-type]


def test_tensors_of_any_strides_and_extremes(tmp_path: Path) -> None:
    trusted = masker(tmp_path)
    product = Product("matmul", (1, 3, 4), (1, 4, 2), (1, 3, 2))
    kinds = [
        torch.zeros(3, 4),
        torch.full((3, 4), -1e38),
        torch.full((3, 4), 1e-40),
        drawn((4, 3), 1).T,
        drawn((3, 8), 1)[:, ::2],
    ]
    for step, a in enumerate(kinds):
        trusted.begin(step)
        b = drawn((4, 2), 2)
        found = trusted.multiply(product, trusted.operand("a", a), trusted.operand("b", b))
        np.testing.assert_array_equal(found.numpy(), expected(product, a, b, step))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused_before_anything_is_sent(tmp_path: Path, bad: float) -> None:
    trusted = masker(tmp_path)
    trusted.begin(0)
    with pytest.raises(InputError, match=re.escape("offload.nonfinite")):
        trusted.operand("a", torch.tensor([1.0, bad]))
    assert not any(link.seen for link in trusted.links)  # type: ignore[attr-defined]


def test_a_name_is_used_once_and_only_in_a_step(tmp_path: Path) -> None:
    trusted = masker(tmp_path)
    reuse = re.escape("offload.reuse")
    with pytest.raises(RefusalError, match=reuse):
        trusted.operand("a", torch.ones(3))
    trusted.begin(4)
    trusted.operand("a", torch.ones(3))
    with pytest.raises(RefusalError, match=reuse):
        trusted.operand("a", torch.zeros(3))
    trusted.begin(4)  # again, without a new attempt: the masks would hide another value
    with pytest.raises(RefusalError, match=reuse):
        trusted.operand("a", torch.zeros(3))
    trusted.begin(3)
    with pytest.raises(RefusalError, match=reuse):
        trusted.operand("a", torch.zeros(3))


def test_the_number_of_workers_is_that_of_the_protocol(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape("offload.workers")):
        masker(tmp_path, CODED, [MemoryLink("a"), MemoryLink("b")])


def test_a_protocol_that_hides_or_multiplies_nothing_is_refused(tmp_path: Path) -> None:
    first, *others = CODED.workers
    wrong = dataclasses.replace(
        CODED, workers=(dataclasses.replace(first, coefficients=(2,)), *others)
    )
    both = dataclasses.replace(
        CODED, workers=(dataclasses.replace(first, points=("1", "2")), *others)
    )
    for scheme in (wrong, both):
        with pytest.raises(InputError, match=re.escape("offload.scheme")):
            masker(tmp_path, scheme)


PRODUCT = Product("matmul", (1, 30, 40), (1, 40, 20), (1, 30, 20))


def lying(place: int, scheme: Scheme = CODED, by: int = 1) -> list[MemoryLink]:
    """Workers of which one is wrong by ``by`` in one number."""
    links = [MemoryLink(f"worker {i}") for i in range(len(scheme.workers))]

    def change(_: object, answer: np.ndarray) -> np.ndarray:
        answer[17] = (answer[17] + by) % M31.p
        return answer

    links[place].change = change
    return links


@pytest.mark.parametrize("scheme", list(SCHEMES.values()), ids=lambda s: s.name)
def test_a_liar_is_seen_and_named(tmp_path: Path, scheme: Scheme) -> None:
    for place in range(len(scheme.workers)):
        folder = tmp_path / str(place)
        folder.mkdir()
        trusted = masker(folder, scheme, lying(place, scheme))
        trusted.begin(0)
        a, b = trusted.operand("a", drawn(PRODUCT.a, 1)), trusted.operand("b", drawn(PRODUCT.b, 2))
        with pytest.raises(IntegrityError, match=re.escape("worker.wrong")) as e:
            trusted.multiply(PRODUCT, a, b)
        assert trusted.failed == {place}
        assert f"worker {place}" in e.value.reason.observed


SMALL = [
    Product("matmul", (2, 3, 5), (2, 5, 4), (2, 3, 4)),
    *(p for p in PRODUCTS[3:6]),
]


@pytest.mark.parametrize(
    "trials", [200, pytest.param(10_000, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_one_number_that_is_wrong_by_one_is_seen_every_time(tmp_path: Path, trials: int) -> None:
    """Of any kind of product, at any worker, in any place, upwards or downwards."""
    draws = random.Random(5)
    links = [MemoryLink(f"worker {i}") for i in range(3)]
    trusted = masker(tmp_path, CODED, links)
    for step in range(trials):
        product, place, by = draws.choice(SMALL), draws.randrange(3), draws.choice((1, -1))

        def change(_: object, answer: np.ndarray, by: int = by) -> np.ndarray:
            at = draws.randrange(answer.size)
            answer[at] = (answer[at] + by) % M31.p
            return answer

        trusted.begin(step)
        a, b = (
            trusted.operand(name, drawn(shape, step))
            for name, shape in (("a", product.a), ("b", product.b))
        )
        links[place].change = change
        with pytest.raises(IntegrityError, match=re.escape("worker.wrong")):
            trusted.multiply(product, a, b)
        links[place].change = None
        assert trusted.failed == {place}


def test_two_liars_that_agree_pass_the_fourth_point_and_not_the_check(tmp_path: Path) -> None:
    links = lying(1, CODED_CHECKED)
    links[0].change = lying(0, by=3)[0].change
    trusted = masker(tmp_path, CODED_CHECKED, links)
    trusted.begin(0)
    a, b = trusted.operand("a", drawn(PRODUCT.a, 1)), trusted.operand("b", drawn(PRODUCT.b, 2))
    with pytest.raises(IntegrityError, match=re.escape("worker.wrong")):
        trusted.multiply(PRODUCT, a, b)
    assert trusted.failed == {0, 1}


def test_the_fourth_point_alone_sees_one_liar_and_not_two(tmp_path: Path) -> None:
    def asked(links: list[MemoryLink], name: str) -> None:
        (tmp_path / name).mkdir()
        ledger = Ledger(tmp_path / name / "ledger", "run")
        ledger.begin()
        trusted = Masker(CODED_CHECKED, links, ledger, run="run", roundings=ROUNDINGS, check=False)
        trusted.begin(0)
        a, b = trusted.operand("a", drawn(PRODUCT.a, 1)), trusted.operand("b", drawn(PRODUCT.b, 2))
        trusted.multiply(PRODUCT, a, b)

    for place in range(4):
        with pytest.raises(IntegrityError, match=re.escape("worker.wrong")):
            asked(lying(place, CODED_CHECKED), f"one {place}")
    together = lying(1, CODED_CHECKED)
    together[0].change = lying(0, by=3)[0].change
    asked(together, "two")


def test_answers_that_are_no_residues_are_refused(tmp_path: Path) -> None:
    for bad in (-1, M31.p, -(2**31)):
        (tmp_path / str(bad)).mkdir()
        links = [MemoryLink(f"worker {i}") for i in range(3)]

        def change(_: object, answer: np.ndarray, bad: int = bad) -> np.ndarray:
            answer[3] = bad
            return answer

        links[2].change = change
        trusted = masker(tmp_path / str(bad), CODED, links)
        trusted.begin(0)
        a, b = trusted.operand("a", drawn(PRODUCT.a, 1)), trusted.operand("b", drawn(PRODUCT.b, 2))
        with pytest.raises(IntegrityError, match=re.escape("worker.wrong")):
            trusted.multiply(PRODUCT, a, b)
        assert trusted.failed == {2}


def test_errors_of_two_parts_that_come_to_p_are_seen(tmp_path: Path) -> None:
    """Parts of a long sum are checked one by one: together they could differ by p."""
    product = PRODUCTS[2]

    def change(_: object, answer: np.ndarray) -> np.ndarray:
        parts = answer.reshape(2, -1)
        parts[0, 0] = (int(parts[0, 0]) + M31.half) % M31.p
        parts[1, 0] = (int(parts[1, 0]) + M31.half + 1) % M31.p
        return answer

    links = [MemoryLink(f"worker {i}") for i in range(3)]
    links[2].change = change
    trusted = masker(tmp_path, CODED, links)
    trusted.begin(0)
    a, b = trusted.operand("a", drawn(product.a, 1)), trusted.operand("b", drawn(product.b, 2))
    with pytest.raises(IntegrityError, match=re.escape("worker.wrong")):
        trusted.multiply(product, a, b)


def test_a_silent_worker_is_named(tmp_path: Path) -> None:
    links = [MemoryLink(f"worker {i}") for i in range(3)]
    links[1].silent = True
    trusted = masker(tmp_path, CODED, links)
    trusted.begin(0)
    a, b = trusted.operand("a", drawn(PRODUCT.a, 1)), trusted.operand("b", drawn(PRODUCT.b, 2))
    with pytest.raises(TransportError, match=re.escape("worker.silent")):
        trusted.multiply(PRODUCT, a, b)
    assert trusted.failed == {1}


def test_a_step_ends_with_operands_forgotten(tmp_path: Path) -> None:
    trusted = masker(tmp_path)
    trusted.begin(0)
    trusted.operand("a", torch.ones(3))
    trusted.end()
    assert [link.drops for link in trusted.links] == [1, 1, 1]  # type: ignore[attr-defined]
    trusted.close()
    assert all(link.closed for link in trusted.links)  # type: ignore[attr-defined]


def test_operands_of_another_step_are_refused(tmp_path: Path) -> None:
    trusted = masker(tmp_path)
    trusted.begin(0)
    a, b = trusted.operand("a", drawn(PRODUCT.a, 1)), trusted.operand("b", drawn(PRODUCT.b, 2))
    trusted.begin(1)
    with pytest.raises(RefusalError, match=re.escape("offload.step")):
        trusted.multiply(PRODUCT, a, b)
    trusted.operand("a", drawn(PRODUCT.a, 1))
    trusted.end()
    with pytest.raises(RefusalError, match=re.escape("offload.step")):
        trusted.multiply(PRODUCT, a, b)


@pytest.mark.parametrize("scheme", list(SCHEMES.values()), ids=lambda s: s.name)
def test_a_tensor_that_changes_afterwards_changes_nothing(tmp_path: Path, scheme: Scheme) -> None:
    """Its owner may write to it as soon as it is an operand: in place, before the backward pass."""
    a, b = drawn(PRODUCT.a, 1), drawn(PRODUCT.b, 2)
    right = expected(PRODUCT, a, b)
    trusted = masker(tmp_path, scheme)
    trusted.begin(0)
    left = trusted.operand("a", a)
    a.zero_()
    other = trusted.operand("b", b)
    for _ in range(2):
        np.testing.assert_array_equal(trusted.multiply(PRODUCT, left, other).numpy(), right)
        b.zero_()


def test_an_empty_tensor_is_refused(tmp_path: Path) -> None:
    trusted = masker(tmp_path)
    trusted.begin(0)
    with pytest.raises(InputError, match=re.escape("offload.shape")):
        trusted.operand("a", torch.empty(0, 3))
    assert not any(link.seen for link in trusted.links)  # type: ignore[attr-defined]


def test_a_scripts_own_fault_is_no_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes out through the memory of every link that was got before it was seen."""

    def changed(*_: object, **__: object) -> None:
        raise InputError("offload.changed")

    trusted = masker(tmp_path)
    trusted.begin(0)
    monkeypatch.setattr(kernels, "share", changed)
    with pytest.raises(InputError, match=re.escape("offload.changed")):
        trusted.operand("a", torch.ones(3))
    assert trusted.failed == set()


def test_who_cannot_multiply_exactly_checks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that rounds would call honest workers liars, or let a lie pass."""

    def rounds(device: torch.device) -> None:
        raise HostError("worker.kernel", expected="exact products")

    monkeypatch.setattr(exact, "self_test", rounds)
    exact.proven.cache_clear()
    with pytest.raises(HostError) as refused:
        masker(tmp_path)
    assert refused.value.code == "worker.kernel"
    monkeypatch.undo()
    exact.proven.cache_clear()
    masker(tmp_path).close()
