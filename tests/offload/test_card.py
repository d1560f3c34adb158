"""The card follows from what is set up, and sinks to none with it (T17)."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svetovid.offload.card import Agreed, Seat, bound, card
from svetovid.offload.field import FIELDS, M31, P21
from svetovid.offload.protocols import CODED, CODED_CHECKED, GOTEN, PACKED, SCHEMES, Scheme


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


def test_t17_the_card_says_what_one_too_many_learn() -> None:
    for scheme, learned in (
        (CODED, "2 operators, or readers of as many links, learn every tensor"),
        (PACKED, "learn a sum of every batch's blocks, and 3 every tensor"),
    ):
        found = card(scheme, seats(scheme), M31, checked=True, trusted="TDX")
        assert learned in found.attacks[0]
    assert bound(PACKED, seats(PACKED, *"abcda"), M31) == 0
    assert bound(PACKED, seats(PACKED, *"abcde"), M31) == 1


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


def seatings(count: int, spare: int, start: int) -> Iterator[tuple[int, ...]]:
    """Every way in which places 0 to ``count`` may come to be held, by the seats' numbers: who has
    a place keeps it or makes room for a spare worker that had none."""
    for kept in itertools.product((True, False), repeat=count):
        gone = [i for i in range(count) if not kept[i]]
        for taken in itertools.permutations(range(start, start + spare), len(gone)):
            by = dict(zip(gone, taken, strict=True))
            yield tuple(by.get(i, i) for i in range(count))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(SCHEMES)), st.data())
def test_t17_a_spare_worker_counts_for_every_place_it_may_take(
    name: str, data: st.DataObject
) -> None:
    """Against all seatings that replacing failed workers can lead to, one by one."""
    scheme = SCHEMES[name]
    places = len(scheme.workers)
    several = st.lists(st.sampled_from("abcde"), min_size=places, max_size=places + 2)
    links = st.sampled_from(["tls", "tls", "tls", "open"])
    all_ = [Seat(f"{i}", o, data.draw(links)) for i, o in enumerate(data.draw(several))]
    worst = min(
        bound(scheme, [all_[i] for i in seated], M31)
        for seated in seatings(places, len(all_) - places, places)
    )
    assert bound(scheme, all_, M31) <= worst
    if len({s.operator for s in all_}) == len(all_):
        assert bound(scheme, all_, M31) == worst


def test_t17_a_spare_worker_of_an_operator_that_has_a_place() -> None:
    assert bound(CODED, seats(CODED, "a", "b", "c", "d"), M31) == 1
    assert bound(CODED, seats(CODED, "a", "b", "c", "a"), M31) == 0
    assert bound(CODED, seats(CODED, "a", "b", "c", "d", "d"), M31) == 0
    open_ = Seat("worker 3", "d", "open")
    assert bound(CODED, [*seats(CODED, "a", "b", "c"), open_], M31) == 0
    found = card(CODED, seats(CODED, "a", "b", "c", "d"), M31, checked=True, trusted="TDX")
    assert found.operators == ("a", "b", "c", "d")
    assert found.sees["worker 3"].startswith("as a spare, at most 1 of 3 points")


def test_a_job_bounds_what_its_code_can_signal() -> None:
    alone = card(CODED, seats(CODED), M31, checked=True, trusted="TDX")
    of_job = card(CODED, seats(CODED), M31, checked=True, trusted="TDX", agreed=Agreed(70, 900))
    (signal,) = set(of_job.leaks) - set(alone.leaks)
    assert "70 products over 900 masked numbers" in signal


def test_its_words_say_all_of_it_bound_first() -> None:
    found = card(CODED, seats(CODED), M31, checked=True, trusted="TDX", agreed=Agreed(7, 9))
    first, *words = found.words()
    assert "coded" in first
    assert "collusion bound 1" in first
    assert all(f"operator {i}" in first for i in range(3))
    text = "\n".join(words)
    for part in (*found.hidden, *found.sees, *found.leaks, *found.assumptions, *found.attacks):
        assert part in text
    first, *words = card(
        CODED, seats(CODED, "a", "a", "b"), M31, checked=True, trusted="TDX"
    ).words()
    assert "bound none" in first
    assert "hidden from workers: nothing" in words


def test_a_card_for_fewer_workers_than_the_protocol_has_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="zip"):
        card(CODED, seats(CODED)[:2], M31, checked=True, trusted="TDX")


def test_a_card_needs_nothing_that_multiplies() -> None:
    """Owners and readers of receipts have neither PyTorch nor NumPy."""
    code = "import sys, svetovid.offload.card, svetovid.offload.protocols, svetovid.policy\n"
    code += "sys.exit(bool({'torch', 'numpy'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
