"""A lease goes on by better-or-equal evidence only (T12, K4); a job ends within its bounds (T9)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from policy.policy_world import ALICE, FACTS, IMAGES, MALLORY, NOW, World
from svetovid.crypto import digest
from svetovid.policy import GrantUse, History, decide_renewal


def world() -> World:
    w = World()
    w.role = "renew"
    w.history = History(
        started=True, live=True, resumes=1, uses={(ALICE.key_id, IMAGES, ""): GrantUse(runs=3)}
    )
    return w


def released(w: World) -> dict[str, dict]:
    return {k: dict(FACTS) for k in w.appraisals}


def test_a_lease_goes_on_without_counting_a_run() -> None:
    w = world()
    w.appraisals[ALICE.key_id].values["log_entries"] = 150
    decision = decide_renewal(w.request(), released_on=released(w))
    assert decision.granted
    assert decision.assets


def test_a_renewal_is_not_charged_but_keeps_to_the_limit() -> None:
    """L5: its release took all there was; less than that was never granted."""
    w = world()
    for used, granted in ((100_000, True), (100_001, False)):
        uses = {(ALICE.key_id, IMAGES, ""): GrantUse(runs=3, output_bytes=used)}
        w.history = History(started=True, live=True, resumes=1, uses=uses)
        assert decide_renewal(w.request(), released_on=released(w)).granted is granted


@pytest.mark.parametrize(
    ("fact", "value", "code"),
    [
        ("log_entries", 99, "renew.weaker"),
        ("log_entries", None, "renew.weaker"),
        ("host", digest(b"other"), "renew.weaker"),
        ("kind", "simulated-tee", "renew.weaker"),
        ("anchor", "another maker", "renew.weaker"),
        ("reset_count", 2, "renew.reset"),
        ("restart_count", 1, "renew.reset"),
        ("restart_count", None, "renew.reset"),
    ],
)
def test_weaker_evidence_ends_it(fact: str, value: object, code: str) -> None:
    """K4"""
    w = world()
    w.appraisals[ALICE.key_id].values[fact] = value
    decision = decide_renewal(w.request(), released_on=released(w))
    assert {r.code for r in decision.reasons} == {code}


@pytest.mark.parametrize(
    ("before", "now", "code"),
    [
        ({"measurement": "kernel"}, {"measurement": "launcher"}, "renew.weaker"),
        ({"simulated": False}, {"simulated": True}, "renew.weaker"),
        ({"measurement": "launcher"}, {"measurement": "kernel"}, None),
        ({"simulated": True}, {"simulated": False}, None),
    ],
)
def test_weaker_even_where_a_policy_accepts_it(before, now, code) -> None:
    w = world()
    for owner, p in w.policies.items():
        changed = {"profile": "test", "accepts": ("simulated", "launcher")}
        w.policies[owner] = p.model_copy(update=changed)
        w.appraisals[owner].values |= now
    then = dict.fromkeys(w.appraisals, FACTS | before)
    decision = decide_renewal(w.request(), released_on=then)
    assert {r.code for r in decision.reasons} == ({code} if code else set())


def test_nothing_known_of_the_release_is_a_no() -> None:
    w = world()
    codes = {r.code for r in decide_renewal(w.request(), released_on={}).reasons}
    assert codes == {"renew.weaker", "renew.reset"}


def test_what_ends_a_lease_beside_evidence() -> None:
    w = world()
    w.now = NOW + 1000
    assert {r.code for r in decide_renewal(w.request(), released_on=released(w)).reasons} == {
        "limit.expired"
    }
    w = world()
    w.history = History(started=True)
    assert [r.code for r in decide_renewal(w.request(), released_on=released(w)).reasons] == [
        "job.not_live"
    ]
    w = world()
    w.history = replace(w.history, finished=True)
    assert [r.code for r in decide_renewal(w.request(), released_on=released(w)).reasons] == [
        "job.finished"
    ]
    w = world()
    w.role = "release"
    assert [r.code for r in decide_renewal(w.request(), released_on=released(w)).reasons] == [
        "release.purpose"
    ]


def test_a_revoked_party_ends_it() -> None:
    w = world()
    w.revoked = frozenset({MALLORY.key_id})
    assert decide_renewal(w.request(), released_on=released(w)).granted
    w.revoked = frozenset({ALICE.key_id})
    codes = {r.code for r in decide_renewal(w.request(), released_on=released(w)).reasons}
    assert codes == {"consent.revoked", "policy.key"}
