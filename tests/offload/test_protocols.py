"""Protocols as data: what they come to, and what each worker can know, by arithmetic of its own."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations, product

import pytest

from svetovid.offload.field import FIELDS, M31
from svetovid.offload.protocols import (
    CODED,
    CODED_CHECKED,
    GOTEN,
    GOTEN_PUBLISHED,
    SCHEMES,
    Scheme,
)
from svetovid.offload.protocols.scheme import Share

EVERY = list(SCHEMES.values())
SMALL = 5
"""A field in which everything can be counted."""


def points(scheme: Scheme, q: int, masks: dict[str, int], p: int) -> dict[str, int]:
    return masks | {s.point: (s.alpha * masks[s.mask] + s.beta * q) % p for s in scheme.shares}


def drawn(scheme: Scheme, p: int, chance: random.Random) -> dict[str, int]:
    return {m: chance.randrange(p) for m in scheme.masks}


def summed(terms: tuple[tuple[int, str], ...], held: dict[str, int]) -> int:
    return sum(sign * held[point] for sign, point in terms)


@pytest.mark.parametrize("scheme", EVERY, ids=lambda s: s.name)
@pytest.mark.parametrize("p", sorted(FIELDS))
def test_answers_come_to_the_product(scheme: Scheme, p: int) -> None:
    chance = random.Random(1)
    assert scheme.multiplies(p)
    for _ in range(50):
        a, b = chance.randrange(-128, 129), chance.randrange(-128, 129)
        left = points(scheme, a, drawn(scheme, p, chance), p)
        right = points(scheme, b, drawn(scheme, p, chance), p)
        answers = [
            sum(sign * summed(x, left) * summed(y, right) for sign, x, y in worker.terms)
            for worker in scheme.workers
        ]
        total = sum(w.coefficient * z for w, z in zip(scheme.workers, answers, strict=True))
        assert total % p == a * b % p
        if scheme.parity:
            assert sum(c * z for c, z in zip(scheme.parity, answers, strict=True)) % p == 0


def views(scheme: Scheme, workers: tuple[int, ...], q: int) -> list[tuple[int, ...]]:
    """All that these workers can see of a tensor, over every draw of the masks, in ``Z_5``."""
    held = sorted({p for i in workers for p in scheme.workers[i].points})
    found = []
    for masks in product(range(SMALL), repeat=len(scheme.masks)):
        seen = points(scheme, q, dict(zip(scheme.masks, masks, strict=True)), SMALL)
        found.append(tuple(seen[p] for p in held))
    return sorted(found)


@pytest.mark.parametrize("scheme", EVERY, ids=lambda s: s.name)
def test_t17_one_worker_sees_the_same_whatever_the_tensor_and_two_see_it(scheme: Scheme) -> None:
    """The bound is honest: any two workers hold the tensor itself."""
    for i in range(len(scheme.workers)):
        seen = views(scheme, (i,), 0)
        assert all(views(scheme, (i,), q) == seen for q in range(SMALL))
        assert scheme.hides([i], SMALL)
        held = len(scheme.workers[i].points)
        assert set(seen) == set(product(range(SMALL), repeat=held))  # uniform, not only the same
    for pair in combinations(range(len(scheme.workers)), 2):
        assert not set(views(scheme, pair, 0)) & set(views(scheme, pair, 1))
        assert not scheme.hides(pair, SMALL)
        assert not scheme.hides(pair, M31.p)


def test_a_scheme_that_gives_too_much_or_multiplies_wrongly_is_seen() -> None:
    open_ = replace(CODED, shares=(Share("2", "1", 0, 1), CODED.shares[1]))
    assert not open_.hides([1], M31.p)
    assert open_.hides([0], M31.p)
    wrong = replace(CODED, workers=(replace(CODED.workers[0], coefficient=2), *CODED.workers[1:]))
    assert not wrong.multiplies(M31.p)
    both = replace(
        CODED, workers=(replace(CODED.workers[0], points=("1", "2")), *CODED.workers[1:])
    )
    assert not both.hides([0], M31.p)


def test_what_they_cost() -> None:
    assert [s.products for s in (CODED, CODED_CHECKED, GOTEN, GOTEN_PUBLISHED)] == [3, 4, 5, 6]
    assert CODED.products / GOTEN.products <= 0.6
    assert CODED.sent / GOTEN.sent <= 0.75
    assert [len(s.masks) for s in (CODED, GOTEN)] == [1, 2]
    assert [s.per_product for s in (CODED, GOTEN, GOTEN_PUBLISHED)] == [False, False, True]


def test_a_line_through_every_share() -> None:
    """The points of coded sharing are those of the line through (0, q) and (1, s)."""
    for share in CODED_CHECKED.shares:
        x = int(share.point)
        assert (share.alpha, share.beta) == (x, 1 - x)


def test_liars_that_the_fourth_point_does_not_see() -> None:
    """One liar is seen and not named; e at point 2 and 3 e at point 1 are not seen at all."""
    parity = CODED_CHECKED.parity
    for place in range(4):
        assert parity[place] % M31.p
    assert (parity[0] * 3 + parity[1] * 1) % M31.p == 0
    assert (parity[0] * 7) % M31.p == (parity[3] * -7) % M31.p  # as well the first as the fourth
