"""Protocols as data: what they come to, and what each worker can know, by arithmetic of its own."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, product

import pytest

from svetovid.offload.field import FIELDS, M31
from svetovid.offload.protocols import (
    CODED,
    CODED_CHECKED,
    GOTEN,
    GOTEN_PUBLISHED,
    PACKED,
    SCHEMES,
    Scheme,
)
from svetovid.offload.protocols.scheme import Share

EVERY = list(SCHEMES.values())
SMALL = 7
"""A field in which everything can be counted, and large enough: two blocks and five workers have
seven different points of the eight of its projective line."""
Blocks = tuple[int, ...]
"""One number of each block of a batch."""


def points(scheme: Scheme, q: Blocks, masks: dict[str, int], p: int) -> dict[str, int]:
    return masks | {
        s.point: (s.alpha * masks[s.mask] + sum(n * m for n, m in zip(s.betas, q, strict=True))) % p
        for s in scheme.shares
    }


def every(scheme: Scheme) -> list[Blocks]:
    return list(product(range(SMALL), repeat=scheme.blocks))


def drawn(scheme: Scheme, p: int, chance: random.Random) -> dict[str, int]:
    return {m: chance.randrange(p) for m in scheme.masks}


def summed(terms: tuple[tuple[int, str], ...], held: dict[str, int]) -> int:
    return sum(sign * held[point] for sign, point in terms)


@pytest.mark.parametrize("scheme", EVERY, ids=lambda s: s.name)
@pytest.mark.parametrize("p", [SMALL, *sorted(FIELDS)])
def test_answers_come_to_the_product_of_each_block(scheme: Scheme, p: int) -> None:
    chance = random.Random(1)
    assert scheme.multiplies(p)
    for n in range(50):
        a, b = (tuple(chance.randrange(-128, 129) for _ in range(scheme.blocks)) for _ in range(2))
        if n % 2:
            b = (b[0],) * scheme.blocks  # the same for the whole batch
        left = points(scheme, a, drawn(scheme, p, chance), p)
        right = points(scheme, b, drawn(scheme, p, chance), p)
        answers = [
            sum(sign * summed(x, left) * summed(y, right) for sign, x, y in worker.terms)
            for worker in scheme.workers
        ]
        for block in range(scheme.blocks):
            times = scheme.answers([block], p)
            total = sum(n * z for n, z in zip(times, answers, strict=True))
            assert total % p == a[block] * b[block] % p
        total = sum(
            n * z for n, z in zip(scheme.answers(range(scheme.blocks), p), answers, strict=True)
        )
        assert total % p == sum(x * y for x, y in zip(a, b, strict=True)) % p
        if scheme.parity:
            assert sum(c * z for c, z in zip(scheme.parity, answers, strict=True)) % p == 0


def views(scheme: Scheme, workers: tuple[int, ...], q: Blocks) -> list[tuple[int, ...]]:
    """All that these workers can see of a tensor, over every draw of the masks, in ``Z_7``."""
    held = sorted({p for i in workers for p in scheme.workers[i].points})
    found = []
    for masks in product(range(SMALL), repeat=len(scheme.masks)):
        seen = points(scheme, q, dict(zip(scheme.masks, masks, strict=True)), SMALL)
        found.append(tuple(seen[p] for p in held))
    return sorted(found)


@pytest.mark.parametrize("scheme", EVERY, ids=lambda s: s.name)
def test_t17_one_worker_sees_the_same_whatever_the_tensor_and_two_see_it(scheme: Scheme) -> None:
    """The bound is honest: any two workers hold the tensor itself, or of two blocks one sum, and
    any three both."""
    for i in range(len(scheme.workers)):
        seen = views(scheme, (i,), every(scheme)[0])
        assert all(views(scheme, (i,), q) == seen for q in every(scheme))
        assert scheme.hides([i], SMALL)
        held = len(scheme.workers[i].points)
        assert set(seen) == set(product(range(SMALL), repeat=held))  # uniform, not only the same
    for size in range(2, scheme.blocks + 2):
        for together in combinations(range(len(scheme.workers)), size):
            told = {tuple(views(scheme, together, q)) for q in every(scheme)}
            assert len(told) == SMALL ** (size - 1)
            assert len({view for views in told for view in views}) == sum(map(len, map(set, told)))
            for p in (SMALL, M31.p):
                assert scheme.learned(together, p) == size - 1
                assert not scheme.hides(together, p)


def test_a_scheme_that_gives_too_much_or_multiplies_wrongly_is_seen() -> None:
    open_ = replace(CODED, shares=(Share("2", "1", 0, (1,)), CODED.shares[1]))
    assert not open_.hides([1], M31.p)
    assert open_.hides([0], M31.p)
    wrong = replace(
        CODED, workers=(replace(CODED.workers[0], coefficients=(2,)), *CODED.workers[1:])
    )
    assert not wrong.multiplies(M31.p)
    both = replace(
        CODED, workers=(replace(CODED.workers[0], points=("1", "2")), *CODED.workers[1:])
    )
    assert not both.hides([0], M31.p)
    shared = PACKED.shares
    for betas in ((-1, 3), (0, 2)):
        other = replace(PACKED, shares=(replace(shared[0], betas=betas), *shared[1:]))
        assert not other.multiplies(M31.p)
    for times in ((-2, 2), (-3, 3)):
        first = replace(PACKED.workers[0], coefficients=times)
        assert not replace(PACKED, workers=(first, *PACKED.workers[1:])).multiplies(M31.p)
    crossed = [replace(w, coefficients=w.coefficients[::-1]) for w in PACKED.workers]
    assert not replace(PACKED, workers=tuple(crossed)).multiplies(M31.p)


def test_what_they_cost() -> None:
    assert [s.products for s in EVERY] == [3, 4, 5, 6, 2.5]
    assert PACKED.products / len(PACKED.workers) == CODED.products / len(CODED.workers) / 2
    assert PACKED.sent == CODED.sent == 2
    assert CODED.products / GOTEN.products <= 0.6
    assert CODED.sent / GOTEN.sent <= 0.75
    assert [len(s.masks) for s in (CODED, GOTEN)] == [1, 2]
    assert [s.per_product for s in (CODED, GOTEN, GOTEN_PUBLISHED)] == [False, False, True]


def test_a_line_through_every_share() -> None:
    """The points of coded sharing are those of the line through (0, q) and (1, s)."""
    for share in CODED_CHECKED.shares:
        x = int(share.point)
        assert (share.alpha, share.betas) == (x, (1 - x,))


def test_points_of_one_polynomial_of_two_blocks() -> None:
    """By Lagrange: through (0, q0) and (1, q1), with the mask as leading coefficient; five points
    of a product give it at 0 and at 1."""
    scales = {"2": 1, "-1": 1, "1/2": 4, "3": 1}
    at = {name: Fraction(name) for name in scales}
    for share in PACKED.shares:
        x = at[share.point]
        point = (x * (x - 1), 1 - x, x)
        assert (share.alpha, *share.betas) == tuple(scales[share.point] * n for n in point)
    rest = {"inf": Fraction(1)} | {name: Fraction(1, scales[name] ** 2) for name in scales}
    for block in range(2):
        for worker in PACKED.workers:
            (name,) = worker.points
            found = Fraction(1)
            for other, x in at.items():
                if other != name:
                    found *= (block - x) / (1 if name == "inf" else at[name] - x)
            assert worker.coefficients[block] == found * rest[name]


def test_liars_that_the_fourth_point_does_not_see() -> None:
    """One liar is seen and not named; e at point 2 and 3 e at point 1 are not seen at all."""
    parity = CODED_CHECKED.parity
    for place in range(4):
        assert parity[place] % M31.p
    assert (parity[0] * 3 + parity[1] * 1) % M31.p == 0
    assert (parity[0] * 7) % M31.p == (parity[3] * -7) % M31.p  # as well the first as the fourth
