"""Masked jobs: which workers they may name, and what their owners ask of them (T17)."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from maskedjob import in_mode, offload, worker
from policy.policy_world import (
    ALICE,
    BOB,
    CARA,
    CODE,
    IMAGES,
    LABELS,
    World,
    condition,
    grant,
    policy,
)
from policy.policy_world import job as make_job
from svetovid.crypto import digest
from svetovid.errors import ParseError
from svetovid.offload.protocols import SCHEMES
from svetovid.policy import (
    Job,
    Offload,
    OffloadWorker,
    Policy,
    collusion_bound,
    decide,
    evaluate,
    guarantees,
    job_view,
    lint,
    load_job,
    require_sound,
)
from svetovid.policy.conditions import OFFLOAD_FIELDS
from svetovid.policy.offload import Protocol, strongest

JOB = make_job(**in_mode("masked"))
GOOD = offload().to_json()


def test_every_protocol_can_be_named() -> None:
    assert sorted(get_args(Protocol)) == sorted(SCHEMES)


def test_offload_belongs_to_masked_mode_and_to_no_other() -> None:
    plain = make_job().to_json()
    assert "offload" not in plain
    assert Job.from_json(JOB.to_json()) == JOB
    for mode in ("plain", "attested", "enclave", "permuted", "verified"):
        with pytest.raises(ParseError, match="masked mode, and to no other"):
            Job.from_json(plain | {"mode": mode, "offload": GOOD})
    with pytest.raises(ParseError, match="masked mode, and to no other"):
        Job.from_json(plain | {"mode": "masked"})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"protocol": "other"}, "protocol"),
        ({"protocol": "coded-4"}, "takes 4 workers"),
        ({"workers": GOOD["workers"][:2]}, "workers"),
        ({"workers": [worker(i, "Ada Ltd").to_json() for i in range(17)]}, "workers"),
        (
            {"workers": [*GOOD["workers"], worker(0, "D", url="tls://d:1").to_json()]},
            "two workers of one certificate",
        ),
        (
            {"workers": [*GOOD["workers"], worker(0, "D", certificate=digest(b"d")).to_json()]},
            "two workers of one url",
        ),
        ({"products": 0}, "products"),
        ({"products": 2**53}, "products"),
        ({"numbers": 0}, "numbers"),
        ({"plan": {}}, "plan"),
    ],
)
def test_workers_that_no_job_may_name(change: dict[str, Any], why: str) -> None:
    with pytest.raises(ParseError, match=why):
        Offload.from_json(GOOD | change)


@pytest.mark.parametrize(
    "operator", ["", " Ada", "Ada ", "A  B", "A\nB", "\N{CYRILLIC CAPITAL LETTER A}da", "x" * 129]
)
def test_operators_have_no_look_alikes(operator: str) -> None:
    with pytest.raises(ParseError, match="operator"):
        worker(1, operator)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "worker:1",
        "https://worker:1",
        "tls://worker",
        "tls://:1",
        "tls://worker:0",
        "tls://worker:65536",
        "tls://worker:99999",
        "tls://Worker:1",
        "tls://user@worker:1",
        "tls://worker:1/path",
        "tls://worker:1\n",
        "tls://::1:7401",
        "tls://" + "w" * 300 + ":1",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ParseError, match=r"document\.invalid"):
        worker(1, "Ada Ltd", url=url)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("tls://worker-1.example:7401", ("worker-1.example", 7401)),
        ("tls://127.0.0.1:65535", ("127.0.0.1", 65535)),
        ("tls://[::1]:1", ("::1", 1)),
    ],
)
def test_an_address(url: str, address: tuple[str, int]) -> None:
    assert worker(1, "Ada Ltd", url=url).address == address


def test_what_a_proposer_writes() -> None:
    text = b"""
version: svetovid.job/v1
name: train
mode: masked
offload:
  protocol: coded
  workers:
    - {certificate: $ada, operator: Ada Ltd, url: "tls://ada.example:7401"}
    - {certificate: $bell, operator: Bell Labs, url: "tls://bell.example:7401"}
    - {certificate: $cray, operator: Cray & Sons, url: "tls://cray.example:7401"}
  products: 1000
  numbers: 1000000
assets: {code: {manifest: $code, owner: $cara, manager: $cara, use: code}}
entry: train.py
environment: $code
outputs: {model: {tensors: {w: {dtype: float32, shape: [2]}}}}
recipients: [$cara]
"""
    keys = {n: digest(n.encode()) for n in ("ada", "bell", "cray", "code")}
    read = load_job(
        text,
        resolve=keys | {"cara": CARA.key_id},
        cards={"cara": CARA.signed_card()},
        defaults={"proposer": CARA.key_id, "nonce": "AAAA"},
    )
    assert read.offload is not None
    assert read.offload.operators == ("Ada Ltd", "Bell Labs", "Cray & Sons")
    assert read.offload.workers[0] == OffloadWorker(
        certificate=keys["ada"], operator="Ada Ltd", url="tls://ada.example:7401"
    )


# -- what it is worth


@pytest.mark.parametrize(
    ("operators", "bound"),
    [("abc", 1), ("aab", 0), ("aba", 0), ("abcd", 1), ("abca", 0), ("abcdd", 0), ("aaa", 0)],
)
def test_t17_operators_are_counted_spare_workers_too(operators: str, bound: int) -> None:
    for protocol in SCHEMES:
        if len(SCHEMES[protocol].workers) <= len(operators):
            named = offload(*operators, protocol=protocol)
            assert collusion_bound(named) == bound
            assert guarantees(named, trusted="TDX").collusion_bound == bound
    assert strongest() == 1


def test_its_card_is_that_of_a_job() -> None:
    card = guarantees(offload(), trusted="TDX on node-1")
    assert card.integrity_bits >= 40
    assert card.operators == ("Ada Ltd", "Bell Labs", "Cray & Sons")
    assert any("70000 products over 9000000 masked numbers" in leak for leak in card.leaks)
    assert "TDX on node-1" in card.assumptions[0]
    assert all(w.certificate in card.sees for w in offload().workers)


# -- what its owners ask


def masked(*operators: str, **collusion: int) -> World:
    """Agreed by all; each owner's demand by its name, 1 for who has none."""
    w = World()
    w.job = make_job(mode="masked", offload=offload(*operators))
    for who, asset, use in ((ALICE, IMAGES, "data"), (BOB, LABELS, "data"), (CARA, CODE, "code")):
        asked = {"collusion": collusion[who.name]} if who.name in collusion else {}
        w.policies[who.key_id] = policy(who, grant(asset, use, modes=("masked",), **asked))
    return w


def refusals(w: World) -> set[tuple[str, str]]:
    """Code and owner of each, whether this release has the mode or not."""
    found = {(r.code, r.owner) for r in decide(w.request()).reasons}
    return {(code, owner) for code, owner in found if code != "mode.unavailable"}


def test_t17_one_operator_of_two_workers_is_refused_by_every_owner() -> None:
    """With nothing asked for: the default is one."""
    assert refusals(masked()) == set()
    assert refusals(masked("a", "b", "a")) == {
        ("grant.collusion", who.key_id) for who in (ALICE, BOB, CARA)
    }
    assert {code for code, _ in refusals(masked("a", "b", "c", "c"))} == {"grant.collusion"}


def test_t17_each_owner_asks_for_itself() -> None:
    """One puts up with workers that learn everything; the others need not."""
    w = masked("a", "b", "a", alice=0, bob=0, cara=0)
    assert refusals(w) == set()
    assert refusals(masked("a", "b", "a", alice=0, cara=0)) == {("grant.collusion", BOB.key_id)}
    assert refusals(masked(alice=2)) == {("grant.collusion", ALICE.key_id)}


def test_t17_a_refusal_says_what_was_named_and_asked() -> None:
    (reason,) = [r for r in decide(masked(alice=2).request()).reasons if r.owner == ALICE.key_id]
    assert reason.code == "grant.collusion"
    assert reason.clause == "policy alice grants[0].collusion"
    assert (
        reason.observed == "1, with protocol coded and workers of Ada Ltd, Bell Labs, Cray & Sons"
    )
    assert reason.expected == "a collusion bound of at least 2"
    assert reason.next_step


def test_t17_other_modes_have_no_workers_to_ask_about() -> None:
    w = World()
    w.policies[ALICE.key_id] = policy(ALICE, grant(IMAGES, "data", collusion=8))
    assert refusals(w) == set()


def test_t17_an_export_asks_as_well() -> None:
    for asked, refused in ((1, set()), (2, {("grant.collusion", ALICE.key_id)})):
        w = masked()
        w.export_images_to_bob(modes=["masked"], collusion=asked)
        imports = w.policies[BOB.key_id].imports
        own = grant(LABELS, "data", modes=("masked",))
        w.policies[BOB.key_id] = policy(BOB, own, imports=imports)
        w.consents = [w.consent(BOB, "images", "labels"), w.consent(CARA, "code")]
        assert refusals(w) == refused


# -- conditions

VIEW = job_view(JOB)


def test_the_view_of_the_workers() -> None:
    assert VIEW["offload"] == {
        "collusion_bound": 1,
        "operators": ["Ada Ltd", "Bell Labs", "Cray & Sons"],
        "protocol": "coded",
        "workers": 3,
    }
    for name, kind in OFFLOAD_FIELDS.items():
        assert isinstance(VIEW["offload"][name], kind)
    assert job_view(make_job())["offload"] == {}


SAYING = [
    "job.offload.protocol == 'coded'",
    "job.offload.collusion_bound >= 1",
    "'Ada Ltd' in job.offload.operators",
    "job.offload.operators.all(o, o in ['Ada Ltd', 'Bell Labs', 'Cray & Sons'])",
    "job.offload.workers == 3 && size(job.offload.operators) > 0",
    "has(job.offload.protocol)",
    "job.offload.protocol in ['coded', 'coded-4', 'goten', 'goten-published', 'packed']",
]


@pytest.mark.parametrize("cel", SAYING)
def test_conditions_about_workers(cel: str) -> None:
    """True of this job, and of none in another mode: there they have nothing to read."""
    assert evaluate(cel, {}, VIEW).ok
    assert not evaluate(cel, {}, job_view(make_job())).ok


def with_condition(cel: str) -> Policy:
    return policy(ALICE, grant(IMAGES, "data", conditions=(condition(cel),)))


@pytest.mark.parametrize("cel", SAYING)
def test_the_linter_has_nothing_against_them(cel: str) -> None:
    assert lint(with_condition(cel)) == []


@pytest.mark.parametrize(
    ("cel", "severity", "code"),
    [
        ("job.offload.nosuch == 1", "error", "lint.unknown_field"),
        ("job.plan == 1", "error", "lint.unknown_field"),
        ("job.offload.protocol == 'shamir'", "error", "lint.never"),
        ("job.offload.workers == 'three'", "warning", "lint.never"),
        ("job.offload.operators == 'Ada Ltd'", "warning", "lint.never"),
    ],
)
def test_the_linter_knows_what_they_can_read(cel: str, severity: str, code: str) -> None:
    assert [(f.severity, f.code) for f in lint(with_condition(cel))] == [(severity, code)]


@pytest.mark.parametrize(("asked", "word"), [(0, "learn everything"), (2, "more than 1"), (8, "1")])
def test_the_linter_warns_of_a_bound_that_says_nothing_or_cannot_be(asked: int, word: str) -> None:
    p = policy(ALICE, grant(IMAGES, "data", modes=("masked",), collusion=asked))
    (found,) = [f for f in lint(p) if f.code == "lint.collusion"]
    assert found.severity == "warning"
    assert word in found.message
    assert found.next_step
    require_sound(p)
    for good in (grant(IMAGES, "data", modes=("masked",)), grant(IMAGES, "data", collusion=asked)):
        assert "lint.collusion" not in {f.code for f in lint(policy(ALICE, good))}
