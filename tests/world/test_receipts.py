"""Receipts (T13): what somebody who has nothing else can say of a model."""

from __future__ import annotations

from typing import Any

import pytest

from softtpm import SoftCa
from svetovid.assets import Manifest
from svetovid.crypto import Identity, b64encode, digest, sign
from svetovid.errors import IntegrityError, SvetovidError
from svetovid.host.deliver import deliver
from svetovid.policy import Consent, Import, Policy
from svetovid.transparency import (
    MAX_BUNDLE_BYTES,
    Countersignature,
    Receipt,
    ReceiptBundle,
    Verdict,
    final_subject,
    make_receipt,
    verify_receipt,
)
from world.test_agreement import export, importer_consents
from world.world import NOW, World

D = "sha256:" + "5" * 64


def verify(world: World, bundle: Any, **changes: Any) -> Verdict:
    fields = {
        "anchors": world.anchors["alice"],
        "references": world.references["alice"],
        "manager": world.manager.key_id,
        "now": world.clock(),
    }
    return verify_receipt(bundle, **(fields | changes))


def test_t13_verified_with_nothing_else(world: World) -> None:
    """T13: offline, and in words that repeat what the evidence is worth."""
    job = world.agreed()
    run = world.run(job)
    world.clock.advance(30)
    run.renew()
    (bundle,) = run.finish()
    world.manager.stop()
    verdict = verify(world, bundle)
    world.manager.start()
    assert verdict.affirmed
    assert verdict.simulated
    assert verdict.measurement == "launcher"
    assert any(w.startswith("simulated") for w in verdict.words)
    assert any(w.startswith("launcher") for w in verdict.words)
    assert verdict.data == {s: world.assets[s].manifest for s in ("left", "right")}
    assert verdict.outputs["model"] == run.packages["model"].asset
    assert set(verdict.consents) == {world.key(o) for o in ("alice", "bob", "carol")}


def test_t13_the_reader_brings_anchors_and_time(world: World) -> None:
    """T13, A5: whom the owners believed binds no reader."""
    (bundle,) = world.run(world.agreed()).finish()
    verdict = verify(world, bundle, anchors=world.anchors_of(SoftCa("mine")))
    assert not verdict.affirmed
    assert "ek.untrusted" in {r.code for r in verdict.reasons()}
    late = verify(world, bundle, now=world.clock() + 100 * 366 * 86400)
    assert not late.affirmed
    with pytest.raises(SvetovidError, match=r"receipt\.time"):
        verify(world, bundle, now=world.clock() - 86400)
    with pytest.raises(SvetovidError, match=r"receipt\.manager"):
        verify(world, bundle, manager=Identity.generate("other").key_id)


def altered(world: World, bundle: Any) -> dict[str, Any]:
    """Every part of a bundle, each changed in its turn."""
    foreign = Identity.generate("eve")
    (second,) = world.run(world.agreed()).finish(b"other weights")
    return {
        "receipt": second.receipt,
        "job": bundle.job.model_copy(update={"seed": 99}),
        "consents": bundle.consents[1:],
        "host": sign(foreign.card, foreign),
        "start": second.start,
        "end": second.end,
        "log": b64encode(b""),
        "countersignature": second.countersignature,
    }


PARTS = ("receipt", "job", "consents", "host", "start", "end", "log", "countersignature")


@pytest.mark.parametrize("part", PARTS)
def test_t13_l6_every_part_counts(world: World, part: str) -> None:
    """T13, L6: nothing is left out of a receipt, swapped into it, or changed."""
    (bundle,) = world.run(world.agreed()).finish()
    verify(world, bundle)
    parts = altered(world, bundle)
    assert set(parts) == set(PARTS)
    with pytest.raises(SvetovidError):
        verify(world, bundle.model_copy(update={part: parts[part]}))


def test_t13_a_receipt_by_another_key(world: World) -> None:
    (bundle,) = world.run(world.agreed()).finish()
    forged = sign(bundle.receipt.peek(Receipt), Identity.generate("eve"))
    with pytest.raises(SvetovidError, match=r"signature\.missing"):
        verify(world, bundle.model_copy(update={"receipt": forged}))


def test_t13_t9_outputs_that_were_not_agreed(world: World) -> None:
    """T9: the manager countersigns only the outputs of the job."""
    run = world.run(world.agreed())
    log = digest(run.attester.log())
    url = f"file://{world.folder}/other.sealed"
    manifest = Manifest.from_json(deliver(run.job, "other", b"data", url).manifest)
    end = run.main.final(final_subject({"other": manifest.digest()}, log, D))
    receipt = make_receipt(
        run.job,
        manager=world.manager.key_id,
        consents=run.main.release.consents,
        start=run.main.start,
        end=end,
        outputs={"other": manifest.digest()},
        metrics=D,
        log=log,
    )
    with world.refuses("output.schema"):
        run.main.finish(end, sign(receipt, run.signer), {"other": manifest})


def test_t13_the_end_covers_the_whole_log(world: World) -> None:
    """T13: what was measured while the job ran is part of the last quote."""
    run = world.run(world.agreed())
    world.host.log.append("/tmp/evil.so")
    with world.refuses("ima.unlisted"):
        run.finish()


def imported(world: World) -> ReceiptBundle:
    """Alice exports her data to Bob; he consents in her stead, and the job runs to its end."""
    export(world)
    job = world.propose()
    importer_consents(world, job)
    (bundle,) = world.run(job).finish()
    return bundle


def test_t13_t5_an_import_verified_by_a_stranger(world: World) -> None:
    """T13, T5: the owner never saw the job; its policy and the importer's say that it may be."""
    bundle = imported(world)
    world.manager.stop()
    sent = ReceiptBundle.parse(bundle.canonical(), max_bytes=MAX_BUNDLE_BYTES)
    verdict = verify(world, sent)
    world.manager.start()
    assert verdict.affirmed
    assert verdict.imports == {"left": world.key("bob")}
    assert verdict.consents[world.key("bob")] == ("left", "right")
    assert world.key("alice") not in verdict.consents
    assert any(w.startswith("imported") and "left" in w for w in verdict.words)


def test_t13_policies_that_changed_since_the_release(world: World) -> None:
    """T13: the receipt brings the editions that were decided by."""
    export(world)
    job = world.propose()
    importer_consents(world, job)
    run = world.run(job)
    world.policy("alice", exports=())
    with world.refuses("consent.missing"):  # she ended it: nobody else gets a key
        world.run(world.propose())
    (bundle,) = run.finish()
    assert verify(world, bundle).imports == {"left": world.key("bob")}


@pytest.mark.parametrize("names", ["nothing", "a job"])
def test_t13_a_consent_that_names_nonsense_stops_no_receipt(world: World, names: str) -> None:
    """T13: an importer whose consent counts for nothing cannot keep others from their receipt."""
    (given,) = export(world).exports
    opal = world.people["opal"]
    alice = world.policy("alice", exports=(given, given.model_copy(update={"to": opal.key_id})))
    world.policy("bob", imports=(Import(policy=alice.digest(), asset=given.asset),))
    job = world.propose()
    importer_consents(world, job)
    fields = {"owner": opal.key_id, "sequence": 1, "predecessor": None, "grants": ()}
    own = world.policies["bob"].model_copy(update=fields)
    world.client("opal").put_policy(sign(own, opal))
    policy = {"nothing": D, "a job": job.digest()}[names]
    said = {"job": job.digest(), "owner": opal.key_id, "slots": ("left",), "issued_at": NOW}
    world.client("opal").consent(sign(Consent(policy=policy, **said), opal))
    (bundle,) = world.run(job).finish()
    assert verify(world, bundle).imports == {"left": world.key("bob")}


def test_t13_an_importer_brings_nobody_elses_policy(world: World) -> None:
    """T13: what else an importer pins is not shown to whoever reads the receipt."""
    alice = export(world)
    left, carol = world.assets["left"].manifest, world.policies["carol"].digest()
    pins = tuple(Import(policy=p, asset=left) for p in (carol, alice.digest()))
    bob = world.policy("bob", imports=pins)
    job = world.propose()
    importer_consents(world, job)
    (bundle,) = world.run(job).finish()
    shown = {p.payload_digest() for p in bundle.countersignature.peek(Countersignature).policies}
    assert shown == {alice.digest(), bob.digest()}
    assert verify(world, bundle).imports == {"left": world.key("bob")}


def countersigned(world: World, bundle: ReceiptBundle, policies: Any) -> ReceiptBundle:
    """What a manager that lies would countersign."""
    said = bundle.countersignature.peek(Countersignature)
    signed = sign(said.model_copy(update={"policies": tuple(policies)}), world.manager.identity)
    return bundle.model_copy(update={"countersignature": signed})


def test_t13_an_import_without_its_policies(world: World) -> None:
    """T13: a manager that releases what nobody exported cannot make a receipt of it."""
    bundle = imported(world)
    both = bundle.countersignature.peek(Countersignature).policies
    assert {p.peek(Policy).owner for p in both} == {world.key("alice"), world.key("bob")}
    for kept in ((), both[:1], both[1:]):
        with pytest.raises(IntegrityError, match=r"receipt\.policy"):
            verify(world, countersigned(world, bundle, kept))


def test_t13_an_export_that_the_manager_made_up(world: World) -> None:
    bundle = imported(world)
    both = bundle.countersignature.peek(Countersignature).policies
    forged = [sign(p.peek(Policy), world.manager.identity) for p in both]
    with pytest.raises(IntegrityError, match=r"signature\.missing"):
        verify(world, countersigned(world, bundle, forged))
