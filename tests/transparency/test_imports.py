"""A receipt over an import: the owner's export stands for its consent, and nothing else does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from maskedjob import in_mode, offload
from svetovid.crypto import Envelope, Identity, digest, sign
from svetovid.errors import PolicyError, RefusalError
from svetovid.policy import Consent, Policy
from svetovid.transparency import Verdict, verify_receipt
from transparency.receipt_world import (
    ALICE,
    CARA,
    MANAGER,
    NOW,
    OPERATOR,
    RITA,
    Story,
    make_job,
)

BOB, MALLORY = Identity.generate("bob"), Identity.generate("mallory")
IMAGES, CODE = digest(b"images"), digest(b"code")
EXPORT = {
    "asset": IMAGES,
    "use": "data",
    "code": [CODE],
    "modes": ["attested"],
    "recipients": [RITA.key_id],
    "to": BOB.key_id,
}


def policy(owner: Identity, **changes: Any) -> Policy:
    fields: dict[str, Any] = {
        "version": "svetovid.policy/v1",
        "name": owner.name,
        "owner": owner.key_id,
        "sequence": 1,
        "manager": MANAGER.key_id,
        "profile": "test",
        "anchors": {"document": digest(b"anchors")},
        "references": [{"document": digest(b"values")}],
        "operators": [OPERATOR.key_id],
    }
    return Policy.from_json(fields | changes)


@dataclass
class Chain:
    """Alice exports to Bob, who imports and consents. Change a part, then :meth:`verify`.

    Attributes:
        outer, inner: fields of the two policies that differ from the good ones.
        export: fields of the export; more exports in ``exports``.
        pin: what Bob imports; by default what he should.
        signers: of the exporter's and the importer's policy.
        left_out: owners whose policy the manager does not countersign.
    """

    outer: dict[str, Any] = field(default_factory=dict)
    inner: dict[str, Any] = field(default_factory=dict)
    export: dict[str, Any] = field(default_factory=dict)
    exports: list[dict[str, Any]] | None = None
    pin: dict[str, Any] = field(default_factory=dict)
    signers: tuple[Identity, Identity] = (ALICE, BOB)
    left_out: tuple[str, ...] = ()
    job: dict[str, Any] = field(default_factory=dict)
    slots: tuple[str, ...] = ("images",)
    by: Identity = BOB
    named: str = ""

    def story(self) -> Story:
        exports = [EXPORT | self.export] if self.exports is None else self.exports
        outer = policy(ALICE, **({"exports": exports} | self.outer))
        pin = {"policy": outer.digest(), "asset": IMAGES} | self.pin
        inner = policy(BOB, **({"imports": [pin]} | self.inner))
        job = make_job().model_copy(update=self.job)
        held = [
            sign(p, s)
            for p, s in zip((outer, inner), self.signers, strict=True)
            if p.name not in self.left_out
        ]
        consents = [
            self.consent(job.digest(), self.by, self.named or inner.digest(), self.slots),
            self.consent(job.digest(), CARA, digest(b"policy"), ("code",)),
        ]
        return Story(job=job, agreed=consents, policies=tuple(held))

    @staticmethod
    def consent(job: str, by: Identity, name: str, slots: tuple[str, ...]) -> Envelope:
        said = Consent(job=job, policy=name, owner=by.key_id, slots=slots, issued_at=NOW - 10)
        return sign(said, by)

    def verify(self) -> Verdict:
        story = self.story()
        return verify_receipt(story.bundle(), **story.reader())


def test_an_export_stands_for_the_owners_consent() -> None:
    verdict = Chain().verify()
    assert verdict.affirmed
    assert verdict.imports == {"images": BOB.key_id}
    assert verdict.consents == {BOB.key_id: ("images",), CARA.key_id: ("code",)}
    assert any(w.startswith("imported") for w in verdict.words)


def test_an_export_of_masked_mode() -> None:
    verdict = Chain(job=in_mode("masked"), export={"modes": ["masked"]}).verify()
    assert verdict.imports == {"images": BOB.key_id}
    assert verdict.card is not None


def test_one_of_several_exports_is_enough() -> None:
    worse = EXPORT | {"code": [digest(b"other code")]}
    chain = Chain(exports=[worse, EXPORT])
    assert chain.verify().affirmed
    with pytest.raises(PolicyError, match=r"grant\.code") as e:
        Chain(exports=[worse, EXPORT | {"modes": ["enclave"]}]).verify()
    assert (e.value.reason.owner, e.value.reason.clause) == (
        ALICE.key_id,
        "policy alice exports[0].code",
    )


def test_one_of_several_pins_is_enough() -> None:
    old = {"policy": digest(b"an edition nobody kept"), "asset": IMAGES}
    good = policy(ALICE, exports=[EXPORT])
    pins = [old, {"policy": good.digest(), "asset": IMAGES}]
    assert Chain(inner={"imports": pins}).verify().imports == {"images": BOB.key_id}


def test_an_owner_who_consented_itself_needs_no_export() -> None:
    chain = Chain(by=ALICE, named=digest(b"policy"), left_out=("alice", "bob"))
    assert chain.verify().imports == {}


def test_code_that_grants_itself_can_be_exported() -> None:
    given = EXPORT | {"asset": CODE, "use": "code", "code": []}
    outer = policy(CARA, exports=[given])
    inner = policy(BOB, imports=[{"policy": outer.digest(), "asset": CODE}])
    job = make_job()
    consents = [
        Chain.consent(job.digest(), ALICE, digest(b"policy"), ("images",)),
        Chain.consent(job.digest(), BOB, inner.digest(), ("code",)),
    ]
    held = (sign(outer, CARA), sign(inner, BOB))
    story = Story(job=job, agreed=consents, policies=held)
    assert verify_receipt(story.bundle(), **story.reader()).imports == {"code": BOB.key_id}


SEED = {"seed": 1}
OTHER = digest(b"other")
BROKEN: dict[str, tuple[Chain, str]] = {
    "the importer's policy is left out": (Chain(left_out=("bob",)), "receipt.policy"),
    "the exporter's policy is left out": (Chain(left_out=("alice",)), "receipt.policy"),
    "the importer named another policy": (Chain(named=OTHER), "receipt.policy"),
    "the importer named the exporter's policy": (
        Chain(named=policy(ALICE, exports=[EXPORT]).digest()),
        "receipt.policy",
    ),
    "somebody else consented under the importer's policy": (Chain(by=MALLORY), "receipt.policy"),
    "the exporter did not sign": (Chain(signers=(BOB, BOB)), "signature.missing"),
    "the importer did not sign": (Chain(signers=(ALICE, MALLORY)), "signature.missing"),
    "the importer's policy is for another manager": (
        Chain(inner={"manager": MALLORY.key_id}),
        "receipt.policy",
    ),
    "the exporter's policy is for another manager": (
        Chain(outer={"manager": MALLORY.key_id}),
        "receipt.policy",
    ),
    "nothing is imported": (Chain(inner={"imports": []}), "receipt.import"),
    "another asset is imported": (Chain(pin={"asset": OTHER}), "receipt.import"),
    "another hash is pinned": (Chain(pin={"policy": OTHER}), "receipt.policy"),
    "nothing is exported": (Chain(exports=[]), "receipt.export"),
    "another asset is exported": (Chain(export={"asset": OTHER}), "receipt.export"),
    "it is exported in another use": (Chain(export={"use": "model"}), "receipt.export"),
    "it is exported to somebody else": (Chain(export={"to": MALLORY.key_id}), "receipt.export"),
    "for other code": (Chain(export={"code": [OTHER]}), "grant.code"),
    "in another mode": (Chain(export={"modes": ["enclave"]}), "grant.mode"),
    "for another recipient": (Chain(export={"recipients": [CARA.key_id]}), "grant.recipient"),
    "without the device": (Chain(job={"devices": ("/dev/nvidia0",)}), "grant.device"),
    "with two workers of one operator": (
        Chain(
            job={"mode": "masked", "offload": offload("a", "b", "a")},
            export={"modes": ["masked"]},
        ),
        "grant.collusion",
    ),
    "against more operators than the workers hold": (
        Chain(job=in_mode("masked"), export={"modes": ["masked"], "collusion": 2}),
        "grant.collusion",
    ),
    "until before the release": (Chain(export={"limits": {"expires_at": NOW}}), "limit.expired"),
    "on another operator's hosts": (Chain(outer={"operators": [BOB.key_id]}), "policy.host"),
    "on another host": (Chain(outer={"hosts": [OTHER]}), "policy.host"),
    "on no host at all": (Chain(outer={"operators": []}), "policy.host"),
}


@pytest.mark.parametrize("what", sorted(BROKEN))
def test_t13_t5_a_chain_that_does_not_hold(what: str) -> None:
    """T13, T5: each link is refused by its own code, and says what to do."""
    chain, code = BROKEN[what]
    with pytest.raises(RefusalError) as e:
        chain.verify()
    assert e.value.code == code
    assert e.value.reason.next_step


def test_policies_of_rotated_keys() -> None:
    """A policy put in force after a rotation shows by what right its newest key signed."""
    chain = Chain()
    fresh, rotation = ALICE.rotate(NOW - 50)
    chain.outer["rotations"] = [rotation.to_json()]
    chain.signers = (fresh, BOB)
    assert chain.verify().imports == {"images": BOB.key_id}
    chain.signers = (ALICE, BOB)
    with pytest.raises(RefusalError, match=r"signature\.missing"):
        chain.verify()


def test_nobody_consented_to_the_slot() -> None:
    story = Chain(slots=("code",)).story()
    with pytest.raises(RefusalError, match=r"receipt\.consents"):
        verify_receipt(story.bundle(), **story.reader())
