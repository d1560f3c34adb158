"""The policy model: strict, and one canonical form (V2)."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.policy_world import ALICE, BOB, CODE, IMAGES, World, condition, grant, job, policy
from svetovid.crypto import sign
from svetovid.errors import IntegrityError, ParseError
from svetovid.policy import Consent, Export, Job, Pin, Policy
from svetovid.policy.documents import MAX_CONDITIONS

FULL = policy(
    ALICE,
    grant(IMAGES, "data", conditions=(condition("claims.affirmed"),), devices=("/dev/nvidia0",)),
    exports=(Export.from_json(grant(CODE, "code").to_json() | {"to": BOB.key_id}),),
).to_json()
JOB = job().to_json()

_junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53) + 1, 2**53 - 1),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.text(max_size=8),
    st.just([]),
    st.just({}),
    st.just(["x"]),
)


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    out = [at] if at else []
    pairs: Any = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    for k, v in pairs:
        out += _places(v, (*at, k))
    return out


def _mutated(original: Any, data: st.DataObject) -> Any:
    value = copy.deepcopy(original)
    *path, last = data.draw(st.sampled_from(_places(value)))
    inner = value
    for k in path:
        inner = inner[k]
    if isinstance(inner, dict) and data.draw(st.booleans()):
        inner[data.draw(st.text(max_size=5))] = inner.pop(last)
    else:
        inner[last] = data.draw(_junk)
    return value


@settings(max_examples=150)
@given(st.data())
def test_a_changed_policy_is_refused_or_another_one(data: st.DataObject) -> None:
    value = _mutated(FULL, data)
    try:
        read = Policy.parse(json.dumps(value).encode())
    except ParseError:
        return
    assert Policy.parse(read.canonical()) == read
    same = read.to_json() == FULL
    assert (read.digest() == Policy.from_json(FULL).digest()) == same


@settings(max_examples=150)
@given(st.data())
def test_a_changed_job_is_refused_or_another_one(data: st.DataObject) -> None:
    value = _mutated(JOB, data)
    try:
        read = Job.parse(json.dumps(value).encode())
    except ParseError:
        return
    assert Job.parse(read.canonical()) == read


def test_exactly_one_asset_is_the_code() -> None:
    assets = JOB["assets"]
    two = JOB | {"assets": assets | {"more": assets["code"]}}
    none = JOB | {"assets": {k: v for k, v in assets.items() if k != "code"}}
    for value in (two, none):
        with pytest.raises(ParseError, match="exactly one asset"):
            Job.from_json(value)


def test_conditions_are_bounded_over_all_grants() -> None:
    condition = {"name": "c", "cel": "true", "because": "of the count"}
    full = FULL["grants"][0] | {"conditions": [condition] * 64}
    policy = FULL | {"grants": [full] * (MAX_CONDITIONS // 64), "exports": [], "imports": []}
    Policy.from_json(policy)
    policy["grants"] = [*policy["grants"], full | {"conditions": [condition]}]
    with pytest.raises(ParseError, match="conditions in all"):
        Policy.from_json(policy)


def test_no_output_is_called_as_the_metrics_are() -> None:
    with pytest.raises(ParseError, match="metrics"):
        Job.from_json(JOB | {"outputs": JOB["outputs"] | {"metrics": JOB["outputs"]["model"]}})


@pytest.mark.parametrize(
    "name", ["A", "\N{CYRILLIC SMALL LETTER A}lice", "..", "a/b", "", "a" * 65]
)
def test_names_have_no_look_alikes(name: str) -> None:
    """K1, V2."""
    with pytest.raises(ParseError):
        Policy.from_json(FULL | {"name": name})
    with pytest.raises(ParseError):
        Job.from_json(JOB | {"parameters": {name: 1}})


@pytest.mark.parametrize("entry", ["../x.py", "/x.py", "a//b.py", ".hidden", "a/../b.py", "a b"])
def test_an_entry_stays_in_its_bundle(entry: str) -> None:
    with pytest.raises(ParseError):
        Job.from_json(JOB | {"entry": entry})


def test_a_pin_has_one_form() -> None:
    for value in ({}, {"document": IMAGES, "min_version": 1}, {"product": "x"}):
        with pytest.raises(ParseError):
            Pin.from_json(value)


def test_a_signature_over_one_kind_is_none_over_another() -> None:
    """V3, C1: a consent is no policy, whatever its bytes."""
    w = World()
    consent = w.all_consents()[0]
    with pytest.raises(IntegrityError, match=r"signature\.type"):
        consent.open(Policy, by=ALICE.key_id)
    relabelled = consent.model_copy(
        update={"payloadType": sign(w.policies[ALICE.key_id], ALICE).payloadType}
    )
    with pytest.raises(IntegrityError, match=r"signature\.invalid"):
        relabelled.open(Policy, by=ALICE.key_id)
    assert consent.open(Consent, by=ALICE.key_id).owner == ALICE.key_id
