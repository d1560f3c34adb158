"""The card follows from what is set up, and sinks to none with it (T17)."""

from __future__ import annotations

import pytest

from svetovid.offload.card import Seat, bound, card
from svetovid.offload.field import FIELDS, M31, P21
from svetovid.offload.protocols import CODED, CODED_CHECKED, GOTEN, SCHEMES, Scheme


def seats(scheme: Scheme, *operators: str, link: str = "tls") -> list[Seat]:
    names = operators or tuple(f"operator {i}" for i in range(len(scheme.workers)))
    return [Seat(f"worker {i}", name, link) for i, name in enumerate(names)]


@pytest.mark.parametrize("scheme", list(SCHEMES.values()), ids=lambda s: s.name)
def test_one_operator_learns_nothing_and_two_all(scheme: Scheme) -> None:
    assert bound(scheme, seats(scheme), M31) == 1
    found = card(scheme, seats(scheme), M31, checked=True, trusted="simulated TEE")
    assert found.collusion_bound == 1
    assert "weights" in found.hidden
    assert "simulated TEE" in found.assumptions[0]


def test_t17_two_workers_of_one_operator_lower_the_bound_to_none() -> None:
    for operators in (("a", "a", "b"), ("a", "b", "a"), ("a", "a", "a")):
        assert bound(CODED, seats(CODED, *operators), M31) == 0
    found = card(CODED, seats(CODED, "a", "a", "b"), M31, checked=True, trusted="TDX")
    assert found.hidden == ()
    assert "one operator alone" in found.assumptions[1]


def test_t17_links_that_can_be_read_lower_the_bound() -> None:
    one = [Seat("worker 0", "a", "open"), *seats(CODED, "-", "b", "c")[1:]]
    assert bound(CODED, one, M31) == 0  # its reader and any other operator
    assert bound(CODED, seats(CODED, link="open"), M31) == -1
    assert bound(GOTEN, seats(GOTEN, link="memory"), M31) == 1


def test_checks_are_as_sure_as_they_must_be() -> None:
    for field in FIELDS.values():
        found = card(CODED, seats(CODED), field, checked=True, trusted="TDX")
        assert found.integrity_bits >= 40
        assert any(f"2^-{found.integrity_bits}" in attack for attack in found.attacks)
    unchecked = card(CODED_CHECKED, seats(CODED_CHECKED), P21, checked=False, trusted="TDX")
    assert unchecked.integrity_bits == 0
    assert any("unnoticed" in attack for attack in unchecked.attacks)


def test_every_worker_is_named_with_its_operator() -> None:
    found = card(GOTEN, seats(GOTEN), M31, checked=True, trusted="TDX").to_dict()
    assert found["sees"] == {
        "worker 0": "2 of 4 points of each tensor, run by operator 0, over tls",
        "worker 1": "2 of 4 points of each tensor, run by operator 1, over tls",
        "worker 2": "1 of 4 points of each tensor, run by operator 2, over tls",
    }
