"""A receipt, verified by somebody who has nothing else; and every part of it, changed (T13)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.authorities import Authority, anchors
from maskedjob import offload
from svetovid.crypto import Identity, b64decode, b64encode, digest, sign
from svetovid.errors import EvidenceError, IntegrityError, ParseError, SvetovidError
from svetovid.evidence import Challenge, ReferenceValues
from svetovid.policy import Consent, Job
from svetovid.transparency import (
    MAX_BUNDLE_BYTES,
    Countersignature,
    Receipt,
    ReceiptBundle,
    assemble,
    final_subject,
    verify_receipt,
)
from transparency.receipt_world import (
    ALICE,
    CARA,
    JOB_KEY,
    MANAGER,
    NOW,
    RITA,
    Log,
    Story,
    make_job,
    open_receipt,
    tee_story,
)

MALLORY = Identity.generate("mallory")


def refused(bundle: ReceiptBundle, story: Story, code: str, **change: Any) -> SvetovidError:
    with pytest.raises(SvetovidError) as e:
        verify_receipt(bundle, **story.reader(**change))
    assert e.value.code == code
    return e.value


def with_receipt(story: Story, bundle: ReceiptBundle, **change: Any) -> ReceiptBundle:
    """A receipt the job's own key signed, and the manager countersigned, saying otherwise."""
    signed = sign(open_receipt(bundle).model_copy(update=change), story.signer)
    assert story.host is not None
    counter = story.countersign(signed, story.host.record.host_id)
    return bundle.model_copy(update={"receipt": signed, "countersignature": counter})


def with_counter(bundle: ReceiptBundle, by: Identity = MANAGER, **change: Any) -> ReceiptBundle:
    signed = bundle.countersignature.peek(Countersignature).model_copy(update=change)
    return bundle.model_copy(update={"countersignature": sign(signed, by)})


@pytest.mark.parametrize(
    "story",
    [
        Story(),
        Story(later=True),
        Story(offsets=(0, 6)),
        Story(offsets=(3, 6), later=True),
        Story(outputs={"model": digest(b"model")}),
    ],
)
def test_a_third_party_verifies_it(story: Story) -> None:
    sent = story.bundle().canonical()
    bundle = ReceiptBundle.parse(sent, max_bytes=MAX_BUNDLE_BYTES)
    verdict = verify_receipt(bundle, **story.reader())
    assert verdict.affirmed
    assert verdict.reasons() == ()
    assert verdict.code == story.job.code.manifest
    assert verdict.data == {"images": digest(b"images")}
    assert verdict.outputs == story.outputs
    assert verdict.recipients == (RITA.key_id,)
    assert verdict.consents == {ALICE.key_id: ("images",), CARA.key_id: ("code",)}
    assert (verdict.released_at, verdict.finished_at) == (NOW + 1, NOW + 100)
    assert verdict.measurement == "launcher"  # T4: repeated in plain words
    assert any(w.startswith("launcher:") for w in verdict.words)
    assert not verdict.simulated
    assert json.loads(json.dumps(verdict.to_dict()))["affirmed"] is True


def test_a_simulated_enclave_says_so() -> None:
    _, bundle, reader = tee_story()
    verdict = verify_receipt(bundle, **reader)
    assert verdict.affirmed
    assert verdict.simulated
    assert verdict.measurement == "enclave"
    assert any(w.startswith("simulated:") for w in verdict.words)


def masked_story(*operators: str) -> Story:
    return Story(job=Job.from_json(make_job().to_json() | masked_fields(*operators)))


def masked_fields(*operators: str) -> dict[str, Any]:
    return {"mode": "masked", "offload": offload(*operators).to_json()}


def test_t17_a_masked_job_repeats_its_card() -> None:
    """T17: operators, bound, protocol and what is assumed, as JSON and in words."""
    story = masked_story()
    verdict = verify_receipt(story.bundle(), **story.reader())
    assert verdict.card is not None
    assert verdict.affirmed
    assert verdict.card.operators == ("Ada Ltd", "Bell Labs", "Cray & Sons")
    assert (verdict.card.protocol, verdict.card.collusion_bound) == ("coded", 1)
    assert "measurement: launcher" in verdict.card.assumptions[0]
    assert "simulated" not in verdict.card.assumptions[0]
    assert set(verdict.card.words()) <= set(verdict.words)
    said = json.loads(json.dumps(verdict.to_dict()))["card"]
    assert said["operators"] == ["Ada Ltd", "Bell Labs", "Cray & Sons"]
    assert (said["protocol"], said["collusion_bound"]) == ("coded", 1)
    assert any("Ada Ltd, Bell Labs, Cray & Sons work together" in a for a in said["assumptions"])


def test_t17_a_receipt_over_one_operators_workers_says_that_nothing_is_hidden() -> None:
    """T17: with every owner's own consent, whatever their grants put up with."""
    story = masked_story("Ada Ltd", "Bell Labs", "Ada Ltd")
    verdict = verify_receipt(story.bundle(), **story.reader())
    assert verdict.card is not None
    assert (verdict.card.collusion_bound, verdict.card.hidden) == (0, ())
    assert any("collusion bound none" in word for word in verdict.words)


def test_t17_a_trusted_side_that_is_simulated_says_so_on_the_card() -> None:
    _, bundle, reader = tee_story(masked_story())
    verdict = verify_receipt(bundle, **reader)
    assert verdict.card is not None
    assert "simulated" in verdict.card.assumptions[0]


def test_other_modes_have_no_card() -> None:
    story = Story()
    verdict = verify_receipt(story.bundle(), **story.reader())
    assert verdict.card is None
    assert verdict.to_dict()["card"] is None


def test_the_reader_brings_its_own_anchors_values_and_time() -> None:
    story = Story()
    bundle = story.bundle()
    stranger = anchors(Authority("Another vendor").anchor())
    for change in (
        {"anchors": stranger},
        {"references": [ReferenceValues(product="none", version=1)]},
        {"now": NOW + 5000},
    ):
        verdict = verify_receipt(bundle, **story.reader(**change))
        assert not verdict.affirmed
        assert verdict.reasons()
        assert "NOT" in verdict.words[0]
    assert verify_receipt(bundle, **story.reader(anchors=stranger)).simulated


def test_a_file_measured_during_the_job_counts() -> None:
    story = Story()
    assert story.host is not None
    parts = story.parts()
    story.host.measure("/opt/evil.so", digest(b"evil"))
    log = b"".join(story.host.lines)
    story2 = replace(story, host=story.host)
    parts["log"] = b64encode(log)
    subject = final_subject(story.outputs, digest(log), story.metrics)
    parts["end"] = story2.evidence("finish", NOW + 90, 0, subject)
    verdict = verify_receipt(story2.put_together(**parts), **story2.reader())
    assert not verdict.affirmed
    assert "ima.unlisted" in {r.code for r in verdict.reasons()}


# -- what the receipt says, although the right keys signed it

SAYS = {
    "job": (digest(b"x"), "receipt.job"),
    "manager": (MALLORY.key_id, "receipt.manager"),
    "host": (digest(b"x"), "receipt.host"),
    "environment": (digest(b"x"), "receipt.environment"),
    "consents": ((digest(b"x"),), "receipt.consents"),
    "start": (digest(b"x"), "receipt.evidence"),
    "end": (digest(b"x"), "receipt.evidence"),
    "outputs": ({"model": digest(b"another model")}, "evidence.subject"),
    "metrics": (digest(b"x"), "evidence.subject"),
    "log": (digest(b"x"), "receipt.log"),
}


@pytest.mark.parametrize("field", sorted(SAYS))
def test_every_field_is_held_against_the_rest(field: str) -> None:
    value, code = SAYS[field]
    story = Story()
    refused(with_receipt(story, story.bundle(), **{field: value}), story, code)


def test_no_field_is_forgotten() -> None:
    assert set(SAYS) | {"version"} == set(Receipt.model_fields)


def test_outputs_are_those_of_the_job() -> None:
    """T9, L6: one too many, one left out."""
    for outputs in (
        {"model": digest(b"m"), "extra": digest(b"e")},
        {"metrics": digest(b"m")},
        {"other": digest(b"m")},
    ):
        story = Story(outputs=outputs)
        refused(story.bundle(), story, "receipt.outputs")


# -- parts of another genuine receipt, spliced in


@pytest.mark.parametrize(
    ("part", "code"),
    [
        ("receipt", "receipt.evidence"),
        ("job", "receipt.job"),
        ("consents", "receipt.consents"),
        ("host", "attest.signer"),
        ("start", "receipt.evidence"),
        ("end", "receipt.evidence"),
        ("log", "receipt.log"),
        ("countersignature", "receipt.countersignature"),
    ],
)
def test_a_part_of_another_receipt(part: str, code: str) -> None:
    story = Story()
    other_job = make_job().model_copy(update={"seed": 7})
    same = part in ("receipt", "countersignature")
    other = Story(
        job=story.job if same else other_job,
        outputs={"model": digest(b"other")},
        later=part == "log",
    )
    spliced = story.bundle().model_copy(update={part: getattr(other.bundle(), part)})
    refused(spliced, story, code)


def test_no_part_is_forgotten() -> None:
    parts = {"receipt", "job", "consents", "host", "start", "end", "log", "countersignature"}
    assert parts == set(ReceiptBundle.model_fields)


def test_start_and_end_swapped() -> None:
    story = Story()
    b = story.bundle()
    swapped = b.model_copy(update={"start": b.end, "end": b.start})
    refused(swapped, story, "receipt.evidence")
    relabelled = with_receipt(story, swapped, start=b.end.digest(), end=b.start.digest())
    refused(relabelled, story, "receipt.role")


def test_renewal_evidence_is_no_final_evidence() -> None:
    story = Story(finish_role="renew")
    refused(story.bundle(), story, "receipt.role")


def test_another_job_key() -> None:
    story = Story()
    b = story.bundle()
    keys = b.end.keys.model_copy(update={"signing": MALLORY.key_id})
    other = b.model_copy(update={"end": b.end.model_copy(update={"keys": keys})})
    refused(other, story, "receipt.keys")
    both = other.model_copy(update={"start": b.start.model_copy(update={"keys": keys})})
    refused(both, story, "signature.missing")
    story = Story(signer=MALLORY)
    refused(story.bundle(), story, "signature.missing")
    forged = sign(open_receipt(b), MALLORY)
    b2 = both.model_copy(update={"receipt": forged})
    refused(b2, Story(), "receipt.evidence")


def test_keys_that_the_quote_never_bound() -> None:
    """T6: relabelled with the forger's own key, receipt and digests to match."""
    story = Story(signer=MALLORY)
    b = story.bundle()
    keys = b.end.keys.model_copy(update={"signing": MALLORY.key_id})
    start, end = (e.model_copy(update={"keys": keys}) for e in (b.start, b.end))
    b = b.model_copy(update={"start": start, "end": end})
    refused(
        with_receipt(story, b, start=start.digest(), end=end.digest()), story, "challenge.mismatch"
    )


def test_a_reset_between_start_and_end() -> None:
    """T12"""
    story = Story(form={"resets": 4})
    refused(story.bundle(), story, "tpm.reset")


def test_a_log_that_runs_ahead_of_the_final_quote() -> None:
    """T13: the end proves the log to its last line."""
    story = Story()
    assert story.host is not None
    parts = story.parts()
    extra = story.host.lines[-1]
    log = b64decode(parts["log"]) + extra
    subject = final_subject(story.outputs, digest(log), story.metrics)
    parts["end"] = story.evidence("finish", NOW + 90, 0, subject)
    parts["log"] = b64encode(log)
    refused(story.put_together(**parts), story, "receipt.log")


def test_a_challenge_for_more_log_than_there_is() -> None:
    story = Story(offsets=(0, 60))
    refused(story.bundle(), story, "receipt.log")


def test_evidence_in_a_bundle_has_no_log_of_its_own() -> None:
    story = Story()
    b = story.bundle()
    start = b.start.model_copy(update={"log": b.log})
    changed = with_receipt(story, b.model_copy(update={"start": start}), start=start.digest())
    refused(changed, story, "receipt.log")


def test_a_challenge_of_another_manager() -> None:
    story = Story()
    b = story.bundle()
    refused(b, story, "receipt.manager", manager=MALLORY.key_id)
    asked = b.start.challenge.peek(Challenge)
    posing = sign(asked.model_copy(update={"manager": MALLORY.key_id}), MANAGER)
    start = b.start.model_copy(update={"challenge": posing})
    changed = b.model_copy(update={"start": start})
    refused(with_receipt(story, changed, start=start.digest()), story, "receipt.manager")
    foreign = sign(asked, MALLORY)
    start = b.start.model_copy(update={"challenge": foreign})
    changed = b.model_copy(update={"start": start})
    refused(with_receipt(story, changed, start=start.digest()), story, "signature.missing")


def test_a_challenge_for_another_job() -> None:
    story = Story()
    b = story.bundle()
    asked = b.start.challenge.peek(Challenge).model_copy(update={"job": digest(b"x")})
    start = b.start.model_copy(update={"challenge": sign(asked, MANAGER)})
    changed = b.model_copy(update={"start": start})
    refused(with_receipt(story, changed, start=start.digest()), story, "receipt.job")


# -- consents


def test_a_slot_without_consent() -> None:
    """L6"""
    story = Story()
    b = story.bundle()
    one = b.consents[:1]
    named = tuple(c.payload_digest() for c in one)
    changed = b.model_copy(update={"consents": one})
    refused(changed, story, "receipt.consents")
    refused(with_receipt(story, changed, consents=named), story, "receipt.consents")


def test_t13_consents_that_the_release_did_not_rest_on() -> None:
    """T13: the manager's log says which consents it released by; a receipt names those."""
    story = Story()
    story.release_changes = {"consents": [c.payload_digest() for c in story.consents()[:1]]}
    refused(story.bundle(), story, "receipt.consents")


@pytest.mark.parametrize("kind", ["forged", "other job", "no consent"])
def test_a_consent_that_is_none(kind: str) -> None:
    story = Story()
    b = story.bundle()
    real = b.consents[0].peek(Consent)
    bad = {
        "forged": sign(real, MALLORY),
        "other job": sign(
            real.model_copy(update={"job": digest(b"x"), "owner": MALLORY.key_id}), MALLORY
        ),
        "no consent": b.countersignature,
    }[kind]
    all_ = (*b.consents, bad) if kind != "forged" else (bad, *b.consents[1:])
    named = tuple(sorted({c.payload_digest() for c in all_}))
    changed = b.model_copy(update={"consents": all_})
    refused(with_receipt(story, changed, consents=named), story, "receipt.consents")


def test_t13_consents_of_a_stranger_to_every_slot() -> None:
    """T5, T13: one key that anybody could make agrees to everything; the owners never did."""
    story = Story()
    b = story.bundle()
    own = Consent(
        job=b.job.digest(),
        policy=digest(b"policy"),
        owner=MALLORY.key_id,
        slots=tuple(sorted(b.job.assets)),
        issued_at=b.consents[0].peek(Consent).issued_at,
    )
    false = sign(own, MALLORY)
    changed = b.model_copy(update={"consents": (false,)})
    named = (false.payload_digest(),)
    refused(with_receipt(story, changed, consents=named), story, "receipt.policy")


# -- the manager's word


def test_no_countersignature_but_the_managers() -> None:
    story = Story()
    refused(with_counter(story.bundle(), by=JOB_KEY), story, "signature.missing")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"manager": MALLORY.key_id}, "receipt.countersignature"),
        ({"job": digest(b"x")}, "receipt.countersignature"),
        ({"receipt": digest(b"x")}, "receipt.countersignature"),
    ],
)
def test_a_countersignature_for_something_else(change: dict[str, Any], code: str) -> None:
    story = Story()
    refused(with_counter(story.bundle(), **change), story, code)


def test_release_and_finish_stand_in_the_log() -> None:
    """A1, A4"""
    story = Story()
    b = story.bundle()
    signed = b.countersignature.peek(Countersignature)
    swapped = with_counter(b, release=signed.finish, finish=signed.release)
    refused(swapped, story, "receipt.decision")
    moved = signed.finish.model_copy(update={"index": signed.finish.index - 1})
    refused(with_counter(b, finish=moved), story, "log.inclusion")
    earlier = signed.finish.entry.model_copy(update={"at": NOW + 95})
    invented = signed.finish.model_copy(update={"entry": earlier})
    refused(with_counter(b, finish=invented), story, "log.inclusion")
    other = Log(MALLORY)
    other.entries, other.tree = [signed.finish.entry], other.tree
    other.tree.append(signed.finish.entry.leaf)
    refused(with_counter(b, finish=other.proof(0)), story, "signature.missing")


@pytest.mark.parametrize(
    "change",
    [
        {"document": digest(b"another receipt")},
        {"job": digest(b"another job")},
        {"lease": digest(b"another lease")},
    ],
)
def test_a_finish_entry_for_something_else(change: dict[str, str]) -> None:
    story = Story(entry_changes=change)
    refused(story.bundle(), story, "receipt.decision")


def test_a_release_on_another_host() -> None:
    story = Story()
    b = story.bundle()
    counter = story.countersign(b.receipt, digest(b"another host"))
    refused(b.model_copy(update={"countersignature": counter}), story, "receipt.decision")


@pytest.mark.parametrize(
    ("story", "now"),
    [(Story(finish_at=NOW - 400), NOW + 900), (Story(finish_at=NOW + 2000), NOW + 900)],
)
def test_times_that_cannot_be(story: Story, now: int) -> None:
    """A5"""
    refused(story.bundle(), story, "receipt.time", now=now)


# -- bytes


def test_assembling_needs_the_whole_log() -> None:
    story = Story()
    b = story.bundle()
    with pytest.raises(ParseError, match=r"receipt\.log"):
        assemble(
            b.receipt,
            job=b.job,
            consents=b.consents,
            host=b.host,
            start=b.start,
            end=b.end,
            log="",
            countersignature=b.countersignature,
        )


def test_a_quote_changed_by_a_bit() -> None:
    story = Story()
    b = story.bundle()
    raw = bytearray(b64decode(b.end.quote))
    raw[-1] ^= 1
    end = b.end.model_copy(update={"quote": b64encode(bytes(raw))})
    changed = with_receipt(story, b.model_copy(update={"end": end}), end=end.digest())
    with pytest.raises(EvidenceError):
        verify_receipt(changed, **story.reader())
    refused(b.model_copy(update={"end": end}), story, "receipt.evidence")


_STORY = Story()
_BYTES = _STORY.bundle().canonical()


@settings(max_examples=60)
@given(st.integers(0, len(_BYTES) - 1), st.integers(1, 255))
def test_no_byte_can_be_changed(at: int, flip: int) -> None:
    """Any one byte: refused, by one of our errors."""
    data = bytearray(_BYTES)
    data[at] ^= flip
    with pytest.raises(SvetovidError):
        verify_receipt(
            ReceiptBundle.parse(bytes(data), max_bytes=MAX_BUNDLE_BYTES), **_STORY.reader()
        )


def test_truncated() -> None:
    for n in range(0, len(_BYTES), len(_BYTES) // 50):
        with pytest.raises(SvetovidError):
            ReceiptBundle.parse(_BYTES[:n], max_bytes=MAX_BUNDLE_BYTES)


def test_errors_say_what_to_do() -> None:
    story = Story()
    error = refused(story.bundle(), story, "receipt.manager", manager=MALLORY.key_id)
    assert isinstance(error, IntegrityError)
    assert error.reason.next_step
