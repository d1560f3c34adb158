"""Editions of a policy, what its pins mean, who can obtain what."""

from __future__ import annotations

import pytest

from policy.policy_world import ALICE, BOB, IMAGES, MALLORY, OPAL, OTHER, grant, policy
from svetovid.crypto import digest, sign
from svetovid.errors import PolicyError
from svetovid.evidence.documents import ReferenceValues, TrustAnchor, TrustAnchors
from svetovid.policy import Pin, check_successor, resolve_pin, resolve_policy

FIRST = policy(ALICE, grant(IMAGES, "data"))
SECOND = FIRST.model_copy(update={"sequence": 2, "predecessor": FIRST.digest()})


def test_editions_follow_each_other() -> None:
    check_successor(None, FIRST)
    check_successor(FIRST, SECOND)
    check_successor(SECOND, SECOND)


@pytest.mark.parametrize(
    ("old", "change", "code"),
    [
        (SECOND, None, "policy.version"),  # V1: the first edition again
        (None, {"sequence": 2}, "policy.version"),
        (None, {"sequence": 1, "predecessor": digest(b"x")}, "policy.predecessor"),
        (FIRST, {"sequence": 3}, "policy.version"),
        (SECOND, {"sequence": 2, "accepts": ("launcher",)}, "policy.fork"),  # V8
        (FIRST, {"sequence": 2, "predecessor": digest(b"x")}, "policy.predecessor"),
        (FIRST, {"sequence": 2, "predecessor": None}, "policy.predecessor"),
        (FIRST, {"sequence": 2, "owner": MALLORY.key_id}, "policy.owner"),
        (FIRST, {"sequence": 2, "name": "other"}, "policy.owner"),
        (FIRST, {"sequence": 2, "manager": OTHER.key_id}, "policy.owner"),
    ],
)
def test_what_does_not_follow(old, change, code: str) -> None:
    new = FIRST if change is None else SECOND.model_copy(update=change)
    with pytest.raises(PolicyError) as e:
        check_successor(old, new)
    assert e.value.code == code
    assert e.value.reason.next_step


def test_a_fork_has_exactly_one_winner() -> None:
    """V8: whichever comes first stays."""
    left = SECOND.model_copy(update={"operators": (BOB.key_id,)})
    right = SECOND.model_copy(update={"operators": (OPAL.key_id, BOB.key_id)})
    check_successor(FIRST, left)
    with pytest.raises(PolicyError, match=r"policy\.fork"):
        check_successor(left, right)


def values(version: int, **change: object) -> ReferenceValues:
    return ReferenceValues(product="runtime", version=version, **change)


def test_a_pin_by_digest_means_one_document() -> None:
    one, two = values(1), values(2)
    held = [sign(two, OPAL), sign(one, MALLORY)]
    assert resolve_pin(Pin(document=one.digest()), held, ReferenceValues) == one
    with pytest.raises(PolicyError, match=r"policy\.pin"):
        resolve_pin(Pin(document=digest(b"x")), held, ReferenceValues)
    with pytest.raises(PolicyError, match=r"policy\.pin"):
        resolve_pin(Pin(document=one.digest()), held, TrustAnchors)


def test_a_pin_by_signer_means_the_newest_edition() -> None:
    """T2: by signer, product and minimum version."""
    pin = Pin(signer=OPAL.key_id, product="runtime", min_version=2)
    other = ReferenceValues(product="other", version=9)
    held = [
        sign(values(1), OPAL),
        sign(values(3), OPAL),
        sign(values(2), OPAL),
        sign(values(7), MALLORY),
        sign(other, OPAL),
        sign(FIRST, OPAL),
    ]
    assert resolve_pin(pin, held, ReferenceValues).version == 3
    with pytest.raises(PolicyError, match=r"policy\.pin"):
        resolve_pin(pin, held[:1], ReferenceValues)
    twice = [*held, sign(values(3, provenance="another"), OPAL)]
    with pytest.raises(PolicyError, match=r"policy\.pin") as e:
        resolve_pin(pin, twice, ReferenceValues)
    assert e.value.reason.observed.startswith("2")


def test_a_policy_finds_its_own_documents() -> None:
    anchor = TrustAnchor(kind="tpm-ek", name="maker", certificate="AAAA", simulated=False)
    anchors = TrustAnchors(product="anchors", version=1, anchors=(anchor,))
    p = policy(
        ALICE,
        anchors=Pin(document=anchors.digest()),
        references=(Pin(document=values(1).digest()), Pin(document=values(2).digest())),
    )
    held = [sign(anchors, ALICE), sign(values(1), ALICE), sign(values(2), ALICE)]
    found, references = resolve_policy(p, held)
    assert found == anchors
    assert [r.version for r in references] == [1, 2]
