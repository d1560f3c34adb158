"""A manager's records in words: about what, and why; whatever a manager puts into them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from svetovid.protocol.messages import PrivatePart, Reasons
from svetovid.protocol.records import EntryKind, LogEntry, Record
from svetovid.stakeholder import Labels, Told, tell

ANN, BOB = ("ed25519:" + c * 64 for c in "ab")
JOB, HOST, ASSET = ("sha256:" + c * 64 for c in "123")
LABELS = Labels({ANN: "ann", BOB: "bob", JOB: "job train", ASSET: "records v2"})


def _record(kind: EntryKind, body: dict[str, JsonValue], **more: Any) -> Record:
    entry = LogEntry(kind=kind, at=1, parties=(ANN,), body=body)
    return Record(index=0, leaf="sha256:" + "0" * 64, entry=entry, **more)


def _private(**fields: Any) -> PrivatePart:
    return PrivatePart(salt="AAAA", owner=ANN, **fields)


@pytest.mark.parametrize(
    ("kind", "body", "about", "why"),
    [
        ("identity", {"key": ANN}, "ann (ed25519:aaaa", ""),
        ("asset", {"asset": ASSET}, "records v2 (sha256:3333", ""),
        ("policy", {"name": "p", "sequence": 3}, "p, edition 3", ""),
        ("job", {"document": JOB, "by": BOB}, "job train (", "proposed by bob (ed25519:bbbb"),
        ("consent", {"owner": BOB, "job": JOB, "policy": ASSET}, "bob (ed25519:", "under policy"),
        ("document", {"product": "cas", "version": 1, "type": "trust-anchors", "signer": ANN},
         "cas v1", "trust-anchors, signed by ann"),
        ("host", {"name": "lab1", "host": HOST, "operator": BOB}, "lab1: sha256:22", "is bob ("),
        ("head", {"head": {"sequence": 4, "job": JOB}}, "checkpoint 4 of job train", ""),
        ("lease-end", {"job": JOB, "why": "sandbox.start"}, "job train (", "sandbox.start"),
        ("rotation", {"key": ANN}, "ann (", ""),
        ("revocation", {"revoked": BOB, "key": ANN}, "bob (", ""),
    ],
)  # fmt: skip
def test_about_and_why(kind: EntryKind, body: dict[str, JsonValue], about: str, why: str) -> None:
    told = tell(_record(kind, body), LABELS)
    assert told.about.startswith(about)
    assert why in told.why
    assert bool(why) == bool(told.why)


def test_a_refusal_gives_own_reasons_in_full_and_the_codes_of_others() -> None:
    reason = Reasons(
        code="grant.code",
        clause="policy ann-policy grants[0].code",
        expected=ASSET,
        observed="sha256:" + "9" * 64,
        next_step="ask the owner",
    )
    body: dict[str, JsonValue] = {
        "job": JOB, "host": HOST, "codes": ["grant.code", "limit.runs"]
    }  # fmt: skip
    told = tell(_record("refusal", body, private=_private(reasons=(reason,))), LABELS)
    assert told.about == f"job train (sha256:{'1' * 16}…) on sha256:{'2' * 16}…"
    own, other = told.why.split("\n")
    assert own == (
        "grant.code (policy ann-policy grants[0].code); "
        f"expected: records v2 (sha256:{'3' * 16}…); observed: sha256:{'9' * 64}; "
        "next: ask the owner"
    )
    assert other.startswith("limit.runs: a clause of another party's")
    assert "limit.runs" in tell(_record("refusal", body), LABELS).why


def test_a_release_tells_what_the_evidence_showed() -> None:
    claims = {
        "host_name": "lab1", "measurement": "launcher", "simulated": True, "operator": BOB
    }  # fmt: skip
    told = tell(_record("release", {"job": JOB}, private=_private(claims=claims)), LABELS)
    assert told.why == f"lab1, launcher, simulated, operator bob (ed25519:{'b' * 16}…)"


def test_what_may_not_be_seen_is_not_told() -> None:
    assert tell(Record(index=0, leaf="sha256:" + "0" * 64), LABELS) == Told("", "")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)
_FIELDS = st.sampled_from(["job", "host", "key", "head", "codes", "name", "why", "owner", "asset"])


@given(
    kind=st.sampled_from(EntryKind.__args__),
    body=st.dictionaries(_FIELDS, _JSON),
    claims=st.dictionaries(st.sampled_from(["host_name", "operator", "simulated"]), _JSON),
)
def test_a_manager_may_write_what_it_likes(
    kind: EntryKind, body: dict[str, Any], claims: dict[str, Any]
) -> None:
    for private in (None, _private(claims=claims)):
        told = tell(_record(kind, body, private=private), LABELS)
        assert isinstance(told.about + told.why, str)
