"""Evidence for keys: the walk, and what must not get through it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from managerworld import SoftHost, World, fake_manifest, refused, sha
from softtpm import SoftCa, SoftTpm
from svetovid.assets.manifest import Manifest
from svetovid.crypto import Identity, ReceivingKey, b64encode, sign
from svetovid.crypto.canonical import b64decode
from svetovid.errors import SvetovidError
from svetovid.evidence.documents import NO_JOB, Challenge, TrustAnchors
from svetovid.manager import Settings
from svetovid.manager import deciding as deciding_module
from svetovid.manager import freshness as freshness_module
from svetovid.policy.documents import Consent, Export, Grant, Import, Job, JobLimits, Limits, Pin
from svetovid.policy.outputs import Recipient
from svetovid.protocol import (
    EvidenceRequest,
    HeadUpdate,
    LeaseEnd,
    checkpoint_context,
    release_context,
)
from svetovid.transparency.entries import verify_proof
from svetovid.transparency.receipt import (
    METRICS,
    Countersignature,
    Receipt,
    final_subject,
    make_receipt,
)

D = "sha256:" + "%064d"


def last(world: World, who: str = "alice") -> Any:
    client = world.clients[who]
    size = client.status().entries
    return client.records(size - 1, 1).records[0]


def test_keys_open_for_the_evidence_and_nobody_else(world: World) -> None:
    """K8: sealed to the key in the evidence, for this job, host and challenge."""
    job = world.ready()
    host = world.host()
    release = host.release(job)
    challenge = host.start.challenge.payload_digest()
    me = world.identity.key_id
    assert {k.slot for k in release.keys} == {"left", "right", "code"}
    for key in release.keys:
        name = world.assets[key.slot].manifest
        context = release_context(name, job, host.host_id, challenge, me)
        assert host.keys.open(key.sealed, context) == world.keys[name]
        with pytest.raises(SvetovidError, match=re.escape("hpke.open")):
            ReceivingKey.generate().open(key.sealed, context)
        with pytest.raises(SvetovidError, match=re.escape("hpke.open")):
            host.keys.open(key.sealed, {**context, "job": D % 1})
    assert len(release.consents) == 3
    assert release.job.payload_digest() == job
    assert last(world).entry.kind == "release"
    assert last(world).index == release.decision


def test_a_replayed_quote_is_refused_also_after_a_restart(world: World) -> None:
    """F1, F2."""
    job = world.ready()
    host = world.host()
    host.release(job)
    size = world.clients["alice"].status().entries
    assert refused(host.client.release, host.start).code == "challenge.used"
    world.stop()
    world.start()
    assert refused(host.client.release, host.start).code == "challenge.used"
    assert world.clients["alice"].status().entries == size


def test_a_challenge_of_ones_own_making(world: World) -> None:
    """F3, F4."""
    job = world.ready()
    host = world.host()
    challenge = host.client.challenge(host.host_id, job, "release").peek(Challenge)
    forged = sign(challenge, Identity.generate("mallory"))
    assert refused(host.client.release, host.evidence(forged)).code == "challenge.unknown"
    longer = challenge.model_copy(update={"expires_at": challenge.expires_at + 60})
    asked = host.client.challenge(host.host_id, job, "release")
    altered = asked.model_copy(update={"payload": b64encode(longer.canonical())})
    assert refused(host.client.release, host.evidence(altered)).code == "challenge.unknown"


def test_a_challenge_for_another_host_or_purpose(world: World) -> None:
    """F5, K2."""
    job = world.ready()
    one, two = world.host("one"), world.host("two")
    challenge = one.client.challenge(one.host_id, job, "release")
    assert refused(two.client.release, two.evidence(challenge)).code == "challenge.scope"
    release = one.release(job)
    renewal = one.client.challenge(one.host_id, job, "renew")
    assert refused(one.client.release, one.evidence(renewal)).code == "challenge.scope"
    start = one.client.challenge(one.host_id, job, "release")
    late = refused(one.client.renew, release.lease.id, one.evidence(start))
    assert late.code == "challenge.scope"


@pytest.mark.parametrize("step", [60, 61, -1, -3600])
def test_a_challenge_outside_its_time(world: World, step: int) -> None:
    """F6: over, or from the future of a clock that was set back."""
    job = world.ready()
    host = world.host()
    challenge = host.client.challenge(host.host_id, job, "release")
    world.now += step
    assert refused(host.client.release, host.evidence(challenge)).code == "challenge.expired"


def test_a_verdict_lasts_as_long_as_its_challenge(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K5: an appraisal that took too long is worth nothing."""
    job = world.ready()
    host = world.host()
    challenge = host.client.challenge(host.host_id, job, "release")
    verify = freshness_module.verify_evidence

    def slow(*args: Any, **more: Any) -> Any:
        proven = verify(*args, **more)
        world.now += 60
        return proven

    monkeypatch.setattr(freshness_module, "verify_evidence", slow)
    assert refused(host.client.release, host.evidence(challenge)).code == "challenge.expired"
    assert last(world).entry.kind == "refusal"


def test_one_challenge_two_answers_at_once(world: World) -> None:
    """F8: exactly one is accepted."""
    job = world.ready()
    host = world.host()
    evidence = host.evidence(host.client.challenge(host.host_id, job, "release"))
    request = EvidenceRequest(evidence=evidence).canonical()
    handle = world.manager.changes["/v1/releases"]
    outcomes: list[str] = []

    def go() -> None:
        try:
            handle(request)
            outcomes.append("released")
        except SvetovidError as e:
            outcomes.append(e.code)

    threads = [threading.Thread(target=go) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(outcomes) == ["challenge.used"] * 7 + ["released"]


def test_a_run_limit_holds_under_a_hundred_at_once(world: World) -> None:
    """K3: five runs are five, whoever comes first."""
    world.settings = Settings(open_challenges=200)
    world.stop()
    world.start()
    world.register()
    world.publish()
    world.seal()
    world.put_policies(limits=Limits(runs=5))
    handle = world.manager.changes["/v1/releases"]
    bodies = []
    for n in range(10):
        host = world.host(f"host-{n}")
        job = world.propose()
        challenges = [host.client.challenge(host.host_id, job, "release") for _ in range(10)]
        bodies += [EvidenceRequest(evidence=host.evidence(c)).canonical() for c in challenges]
    released: list[str] = []

    def go(body: bytes) -> None:
        try:
            handle(body)
            released.append("yes")
        except SvetovidError as e:
            released.append(e.code)

    threads = [threading.Thread(target=go, args=(b,)) for b in bodies]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(released) == 100
    assert released.count("yes") == 5
    assert set(released) <= {"yes", "limit.runs", "job.live"}
    world.stop()
    world.start()
    again, late = world.propose(), world.host("late")
    assert refused(late.release, again).code == "limit.runs"


def test_a_refusal_is_told_in_full_to_its_owner_only(world: World) -> None:
    """The host sees code and next step; another owner sees the entry without the reasons."""
    job = world.ready()
    host = world.host()
    host.tpm.measure("/opt/evil.so", sha(b"evil"))
    e = refused(host.release, job)
    assert all(r.observed == "" and r.expected == "" for r in e.reasons if r.owner)
    assert {r.owner for r in e.reasons} == {i.key_id for i in (world.alice, world.bob, world.carol)}
    seen = last(world)
    assert seen.entry.kind == "refusal"
    assert seen.private.owner == world.alice.key_id
    assert any("/opt/evil.so" in r.observed for r in seen.private.reasons)
    assert {r.owner for r in seen.private.reasons} == {world.alice.key_id}
    outsider = Identity.generate("eve")
    eve = world.client(outsider)
    eve.register_identity(outsider.signed_card())
    assert eve.records(seen.index, 1).records[0].entry is None
    assert eve.records(seen.index, 1).records[0].leaf == seen.leaf
    operator = world.clients["operator"].records(seen.index, 1).records[0]
    assert operator.entry is not None
    assert operator.private is None


def test_evidence_that_does_not_hold_is_recorded_and_uses_its_challenge_up(world: World) -> None:
    job = world.ready()
    host = world.host()
    challenge = host.client.challenge(host.host_id, job, "release")
    evidence = host.evidence(challenge, signature=b64encode(SoftTpm(SoftCa()).quote(b"", (1,))[1]))
    assert refused(host.client.release, evidence).code == "sig.invalid"
    assert last(world).entry.body["codes"] == ["sig.invalid"]
    assert refused(host.client.release, host.evidence(challenge)).code == "challenge.used"


def test_cheap_checks_come_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """D2: nothing of the evidence is looked at while its challenge does not stand."""
    job = world.ready()
    host = world.host()
    host.release(job)
    calls: list[str] = []
    monkeypatch.setattr(
        freshness_module, "verify_evidence", lambda *a, **k: calls.append("verified")
    )
    refused(host.client.release, host.start)
    challenge = host.client.challenge(host.host_id, job, "release")
    world.now += 100
    refused(host.client.release, host.evidence(challenge))
    assert calls == []


def test_open_challenges_are_bounded(world: World) -> None:
    """D1."""
    job = world.ready()
    host = world.host()
    for _ in range(world.settings.open_challenges):
        host.client.challenge(host.host_id, job, "release")
    e = refused(host.client.challenge, host.host_id, job, "release")
    assert e.code == "challenge.limit"
    world.now += 61
    host.client.challenge(host.host_id, job, "release")


def test_challenges_are_for_known_hosts_jobs_and_holders(world: World) -> None:
    job = world.ready()
    host = world.host()
    c = host.client
    assert refused(c.challenge, D % 1, job, "release").code == "host.unknown"
    assert refused(c.challenge, host.host_id, D % 1, "release").code == "job.unknown"
    assert refused(c.challenge, host.host_id, job, "renew").code == "lease.none"
    other = world.client(Identity.generate("x"))
    assert refused(other.challenge, host.host_id, job, "release").code == "signature.missing"
    world.now += 1000
    slow = world.client(host.agent)
    slow._clock = lambda: world.now - 500
    assert refused(slow.challenge, host.host_id, job, "release").code == "request.time"


def test_only_the_new_part_of_the_log_is_asked_for(world: World) -> None:
    """A restarted manager lost challenge and log: the host is asked anew, for all of it."""
    job = world.ready()
    host = world.host()
    host.release(job)
    challenge = host.client.challenge(host.host_id, job, "renew")
    assert challenge.peek(Challenge).log_offset == len(host.tpm.entries)
    world.stop()
    world.start()
    lease = world.manager._core.state.jobs[job].lease
    size = world.clients["alice"].status().entries
    e = refused(host.client.renew, lease, host.evidence(challenge))
    assert e.code == "challenge.unknown"
    assert world.clients["alice"].status().entries == size
    again = host.client.challenge(host.host_id, job, "renew")
    assert again.peek(Challenge).log_offset == 0
    host.client.renew(lease, host.evidence(again))


def test_a_missing_consent(world: World) -> None:
    world.register()
    world.publish()
    world.seal()
    world.put_policies()
    job = world.propose(consent=False)
    host = world.host()
    assert refused(host.release, job).code == "consent.missing"
    assert world.clients["alice"].job(job).state == "waiting"
    assert len(world.clients["alice"].job(job).waiting_for) == 3


def test_one_live_instance_a_job(world: World) -> None:
    """T11; T12: only proof of a restart ends a lease early."""
    job = world.ready()
    one, two = world.host("one"), world.host("two")
    one.release(job)
    assert world.clients["alice"].job(job).state == "running"
    assert refused(two.release, job).code == "job.live"
    assert refused(one.release, job).code == "job.live"
    one.tpm.reset()
    one.boot()
    assert refused(one.release, job).code == "ima.offset"
    one.release(job)
    world.now += 60
    two.release(job)


def test_counters_that_go_back(world: World) -> None:
    """F9: evidence from before what this host proved already."""
    job = world.ready()
    host = world.host()
    host.tpm.reset_count = 7
    host.release(job)
    world.now += 60
    host.tpm.reset_count = 6
    host.client = world.client(host.agent)
    challenge = host.client.challenge(host.host_id, job, "release", fresh=True)
    e = refused(host.client.release, host.evidence(challenge))
    assert e.code == "tpm.clock_rollback"


def test_f9_clocks(world: World) -> None:
    """F9: quotes under way at once come in any order; after them nothing older, fresh or not."""
    job = world.ready()
    host = world.host()
    lease = host.release(job).lease
    challenges = [host.client.challenge(host.host_id, job, "renew") for _ in range(2)]
    first, second = [host.evidence(c) for c in challenges]
    host.client.renew(lease.id, second)
    host.client.renew(lease.id, first)
    host.client.end_lease(lease.id, "given", host.job_key)
    host.tpm.clock -= 100
    for fresh in (False, True):
        challenge = host.client.challenge(host.host_id, job, "release", fresh=fresh)
        e = refused(host.client.release, host.evidence(challenge))
        assert e.code == "tpm.clock_rollback"


def test_f9_a_quote_from_before_a_reset_that_is_proven_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F9, K5: two requests under way at once. The older was looked at first and is decided last:
    what the newer proved meanwhile counts."""
    job = world.ready()
    host = world.host()
    older = host.evidence(host.client.challenge(host.host_id, job, "release", fresh=True))
    host.tpm.reset()
    host.boot()
    asked = host.client.challenge(host.host_id, NO_JOB, "attest", fresh=True)
    newer = EvidenceRequest(evidence=host.evidence(asked)).canonical()
    appraise = deciding_module.appraise
    answers: list[Any] = []

    def meanwhile(*args: Any, **more: Any) -> Any:
        if not answers:
            answers.append(None)
            answers.append(world.manager.changes["/v1/attestations"](newer))
        return appraise(*args, **more)

    monkeypatch.setattr(deciding_module, "appraise", meanwhile)
    assert refused(host.client.release, older).code == "tpm.clock_rollback"
    assert len(answers) == 2


def test_renewal_goes_on_only_with_as_much_as_before(world: World) -> None:
    """T12, K4."""
    job = world.ready()
    host = world.host()
    lease = host.release(job).lease
    world.now += 40
    assert host.renew(job, lease.id).lease.id == lease.id
    world.now += 40
    host.renew(job, lease.id)
    host.tpm.measure("/opt/evil.so", sha(b"evil"))
    refused(host.renew, job, lease.id)
    assert refused(host.renew, job, lease.id).code == "lease.none"
    two = world.host("two")
    assert refused(two.release, job).code == "job.live"
    world.now += 60
    two.release(job)


def test_renewal_after_a_reset_or_with_other_keys(world: World) -> None:
    """T12, K2."""
    job = world.ready()
    host = world.host()
    lease = host.release(job).lease
    keys = host.keys
    host.keys = ReceivingKey.generate()
    assert refused(host.renew, job, lease.id).code == "lease.scope"
    host.keys = keys
    world.now += 60
    lease = host.release(job).lease
    host.tpm.reset()
    host.boot()
    challenge = host.client.challenge(host.host_id, job, "renew", fresh=True)
    e = refused(host.client.renew, lease.id, host.evidence(challenge))
    assert "renew.reset" in {r.code for r in e.reasons}
    world.now += 61
    assert refused(host.client.challenge, host.host_id, job, "renew").code == "lease.none"


def update(world: World, lease: str, job: str, n: int, before: int | None) -> HeadUpdate:
    return HeadUpdate(
        manager=world.identity.key_id,
        lease=lease,
        job=job,
        sequence=n,
        checkpoint=D % n,
        predecessor=None if before is None else D % before,
    )


def test_a_resume_takes_the_recorded_head_and_the_same_checkpoint_key(world: World) -> None:
    """T11."""
    job = world.ready()
    host = world.host()
    first = host.release(job)
    lease, me = first.lease.id, world.identity.key_id
    record = host.client.record_head
    assert refused(record, update(world, lease, job, 2, 1), host.job_key).code == (
        "checkpoint.sequence"
    )
    record(update(world, lease, job, 1, None), host.job_key)
    record(update(world, lease, job, 1, None), host.job_key)
    assert refused(record, update(world, lease, job, 2, 7), host.job_key).code == (
        "checkpoint.predecessor"
    )
    assert refused(record, update(world, lease, D % 9, 2, 1), host.job_key).code == (
        "checkpoint.job"
    )
    other = Identity.generate("x")
    assert refused(record, update(world, lease, job, 2, 1), other).code == "signature.missing"
    record(update(world, lease, job, 2, 1), host.job_key)
    before = host.start.challenge.payload_digest()
    world.now += 60
    assert refused(record, update(world, lease, job, 3, 2), host.job_key).code == "lease.none"
    world.stop()
    world.start()
    second = host.release(job)
    assert second.head is not None
    assert (second.head.sequence, second.head.checkpoint) == (2, D % 2)
    keys = []
    for release, challenge in ((first, before), (second, host.start.challenge.payload_digest())):
        context = checkpoint_context(job, host.host_id, challenge, me)
        keys.append(host.keys.open(release.checkpoint_key, context))
    assert keys[0] == keys[1]


def test_a_lease_given_back_frees_the_job(world: World) -> None:
    job = world.ready()
    one, two = world.host("one"), world.host("two")
    lease = one.release(job).lease.id
    assert refused(one.client.end_lease, lease, "done", two.job_key).code == "signature.missing"
    one.client.end_lease(lease, "done", one.job_key)
    one.client.end_lease(lease, "done", one.job_key)
    two.release(job)
    message = LeaseEnd(manager=world.alice.key_id, lease=lease, why="x")
    body = sign(message, one.job_key).canonical()
    assert refused(world.manager.changes["/v1/lease-ends"], body).code == "request.manager"


def sealed(world: World, name: str = "model", **changes: Any) -> Manifest:
    made = fake_manifest("output", world.recipient.key_id, world.me, name)
    return made.model_copy(update=changes)


def finish(world: World, machine: SoftHost, release: Any, /, **changes: Any) -> Any:
    host = machine
    job = release.job.peek(Job)
    log = sha(host.tpm.log(0))
    manifests = changes.pop("manifests", {n: sealed(world, n) for n in ("model", METRICS)})
    outputs = changes.pop("outputs", {n: m.digest() for n, m in manifests.items()})
    subject = final_subject(outputs, log, D % 2)
    challenge = host.client.challenge(host.host_id, job.digest(), "finish")
    end = host.evidence(challenge, changes.pop("subject", subject))
    receipt = make_receipt(
        job,
        manager=world.identity.key_id,
        consents=release.consents,
        start=host.start,
        end=end,
        outputs=outputs,
        metrics=D % 2,
        log=log,
    ).model_copy(update=changes)
    signed = sign(receipt, host.job_key)
    return end, signed, lambda: host.client.finish(release.lease.id, end, signed, manifests)


def test_a_receipt_is_countersigned_once_and_again(world: World) -> None:
    """T13: the same receipt again gives the same countersignature; nothing runs after it."""
    job = world.ready()
    host = world.host()
    release = host.release(job)
    end, receipt, hand_in = finish(world, host, release)
    me = world.identity.key_id
    signed = hand_in().open(Countersignature, by=me)
    assert signed.receipt == receipt.payload_digest()
    forged = sign(receipt.peek(Receipt), world.bob)
    model = {"model": sealed(world, "model")}
    found = refused(host.client.finish, release.lease.id, end, forged, model)
    assert found.code == "signature.missing"
    assert verify_proof(signed.finish, log=me).size >= verify_proof(signed.release, log=me).size - 1
    assert hand_in().open(Countersignature, by=me).finish.index == signed.finish.index
    assert world.clients["alice"].job(job).state == "finished"
    assert refused(host.client.challenge, host.host_id, job, "release").code == "job.finished"
    world.stop()
    world.start()
    assert hand_in().open(Countersignature, by=me).receipt == signed.receipt


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"log": D % 5}, "evidence.subject"),
        ({"start": D % 5}, "receipt.scope"),
        ({"environment": D % 5}, "receipt.scope"),
        ({"host": D % 5}, "receipt.scope"),
        ({"outputs": {"other": D % 1}}, "output.schema"),
        ({"subject": D % 8}, "evidence.subject"),
        ({"consents": (D % 5,)}, "receipt.scope"),
    ],
)
def test_a_receipt_of_something_else(world: World, changes: Any, code: str) -> None:
    """T13, T9."""
    job = world.ready()
    host = world.host()
    release = host.release(job)
    _, _, hand_in = finish(world, host, release, **changes)
    assert refused(hand_in).code == code
    assert world.clients["alice"].job(job).state == "running"


@pytest.mark.parametrize(
    ("name", "changes", "code"),
    [
        ("model", {"kind": "model"}, "output.scope"),
        ("model", {"name": "other"}, "output.scope"),
        ("model", {"owner": "ed25519:" + "1" * 64}, "output.scope"),
        ("model", {"manager": "ed25519:" + "1" * 64}, "output.scope"),
        ("model", {"size": 1001, "chunks": 1}, "output.limit"),
        (METRICS, {"name": "model"}, "output.scope"),
        (METRICS, {"size": 129, "chunks": 1}, "output.limit"),
    ],
)
def test_t9_a_sealed_output_that_is_not_the_jobs(
    world: World, name: str, changes: Any, code: str
) -> None:
    """T9, L5: the receipt names it well; what it names is another's, or too large."""
    world.register()
    world.publish()
    world.seal()
    world.put_policies()
    limits = JobLimits(output_bytes=1000)
    job = world.propose(world.job_document(limits=limits))
    host = world.host()
    release = host.release(job)
    manifests = {
        "model": sealed(world, size=1000),
        METRICS: sealed(world, METRICS, size=128),
    }
    assert world.job_document().metrics_bytes == 128
    manifests[name] = manifests[name].model_copy(update=changes)
    _, _, hand_in = finish(world, host, release, manifests=manifests)
    assert refused(hand_in).code == code
    assert world.clients["alice"].job(job).state == "running"


def test_t9_sizes_up_to_the_limit_are_countersigned(world: World) -> None:
    world.register()
    world.publish()
    world.seal()
    world.put_policies()
    limits = JobLimits(output_bytes=1000)
    outputs = {n: world.job_document().outputs["model"] for n in ("model", "more")}
    job = world.propose(world.job_document(limits=limits, outputs=outputs))
    host = world.host()
    release = host.release(job)
    parts = {"model": 400, "more": 600, METRICS: 128}
    manifests = {n: sealed(world, n, size=s) for n, s in parts.items()}
    finish(world, host, release, manifests=manifests)[2]()
    assert world.clients["alice"].job(job).state == "finished"
    other = world.propose(world.job_document(limits=limits, outputs=outputs))
    release = host.release(other)
    manifests["more"] = sealed(world, "more", size=601)
    assert refused(finish(world, host, release, manifests=manifests)[2]).code == "output.limit"


@pytest.mark.parametrize("missing", ["model", METRICS, "another"])
def test_t9_every_output_the_receipt_names_comes_with_its_manifest(
    world: World, missing: str
) -> None:
    job = world.ready()
    host = world.host()
    release = host.release(job)
    manifests = {n: sealed(world, n) for n in ("model", METRICS)}
    outputs = {n: m.digest() for n, m in manifests.items()}
    if missing == "another":
        manifests["model"] = sealed(world, root=D % 6)
    else:
        manifests.pop(missing)
    _, _, hand_in = finish(world, host, release, outputs=outputs, manifests=manifests)
    assert refused(hand_in).code == "output.manifest"
    assert world.clients["alice"].job(job).state == "running"


def test_t13_a_consent_given_again_during_a_run_ends_nothing(world: World) -> None:
    """T13, T5: the receipt is about the consents that the keys were released on."""
    job = world.ready()
    host = world.host()
    release = host.release(job)
    size = world.clients["alice"].status().entries
    world.now += 1
    world.consent(world.alice, job)  # the same words, later: the held one stays
    assert world.clients["alice"].status().entries == size
    policy = world.policy_of(world.bob, sequence=2, predecessor=world.policies["bob"].digest())
    world.clients["bob"].put_policy(sign(policy, world.bob))
    world.policies["bob"] = policy
    world.consent(world.bob, job)
    world.stop()
    world.start()
    assert host.renew(job, release.lease.id)
    _, receipt, hand_in = finish(world, host, release)
    hand_in()
    named = receipt.peek(Receipt).consents
    assert named == tuple(sorted(c.payload_digest() for c in release.consents))
    held = {c.payload_digest() for c in world.clients["alice"].job(job).consents}
    assert len(held - set(named)) == 1


def test_t5_a_consent_from_the_future_gives_way_to_one_of_now(world: World) -> None:
    """T5: one that counts for nothing is not kept for saying the same."""
    world.register()
    world.publish()
    world.seal()
    world.put_policies()
    job = world.propose(consent=False)
    host = world.host()
    world.now += 10_000
    world.consent(world.alice, job)
    world.now -= 10_000
    for owner in (world.bob, world.carol):
        world.consent(owner, job)
    assert refused(host.release, job).code == "consent.time"
    world.consent(world.alice, job)
    host.release(job)


def test_t12_no_end_in_another_boot(world: World) -> None:
    """T12: no receipt over two boots verifies, so none is countersigned, and nothing used up."""
    job = world.ready()
    host = world.host()
    release = host.release(job)
    host.tpm.reset()
    host.boot()
    world.restart()  # so that it asks for the whole log
    _, _, hand_in = finish(world, host, release)
    assert refused(hand_in).code == "tpm.reset"
    assert world.clients["alice"].job(job).state == "running"


def test_a_replica_knows_what_was_decided_a_moment_ago(world: World) -> None:
    """F2, V6: whichever manager over the store is asked."""
    job = world.ready()
    host = world.host()
    first = world.manager
    lease = host.release(job).lease.id
    world.start()  # another over the same store, and the way leads to it
    release = world.manager._core.state.jobs[job].release
    host.client.end_lease(lease, "measured", host.job_key)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(world, "manager", first)
        world._started.reverse()
        lease = host.release(job).lease.id
        world.clients["bob"].revoke(world.bob.revoke(world.bob.key_id, "stolen", world.now))
        world._started.reverse()
    assert world.manager._core.state.jobs[job].release == release
    assert refused(world.clients["bob"].job, job).code == "key.revoked"
    assert world.manager._core.state.jobs[job].lease == lease
    first.close()


def test_v6_a_rotated_key_receives_in_no_new_job(world: World) -> None:
    """V6: whoever stole it could make a card with a receiving key of its own."""
    job = world.ready()
    world.client(world.recipient).register_identity(world.recipient.signed_card())
    _, rotation = world.recipient.rotate(world.now)
    world.client(world.recipient).rotate(rotation)
    thief = Identity("rita", world.recipient.signing_seed, ReceivingKey.generate())
    stolen = world.job_document(recipients=(Recipient(card=thief.signed_card()),))
    assert refused(world.propose, stolen).code == "recipient.rotated"
    world.host().release(job)  # what was agreed before stays


def test_a_receipt_on_a_host_gone_bad(world: World) -> None:
    job = world.ready()
    host = world.host()
    release = host.release(job)
    host.tpm.measure("/opt/evil.so", sha(b"evil"))
    _, _, hand_in = finish(world, host, release)
    assert refused(hand_in).code.startswith("ima.")
    assert world.clients["alice"].job(job).state == "running"


def test_l5_every_release_is_charged_for_good(world: World) -> None:
    """L5: whoever drops the end of a run, or finishes it, does not get its bytes back."""
    world.register()
    world.publish()
    world.seal()
    document = world.job_document()
    world.put_policies(limits=Limits(output_bytes=3 * document.bytes_out - 1))
    first, second = world.propose(document), world.propose()
    host = world.host()
    for _ in range(2):
        release = host.release(first)
        host.client.end_lease(release.lease.id, "dropped", host.job_key)
    for _ in range(2):
        for job in (first, second):
            e = refused(host.release, job)
            assert {r.code for r in e.reasons} == {"limit.output_bytes"}
            assert all(r.observed == "" for r in e.reasons)
        seen = last(world).private.reasons[0]
        assert seen.observed.startswith(f"{2 * document.bytes_out} used")
        assert f"{3 * document.bytes_out} would admit this release" in seen.expected
        world.stop()
        world.start()


def test_l5_a_finished_run_stays_charged(world: World) -> None:
    world.register()
    world.publish()
    world.seal()
    document = world.job_document()
    world.put_policies(limits=Limits(output_bytes=document.bytes_out))
    first, second = world.propose(document), world.propose()
    host = world.host()
    finish(world, host, host.release(first))[2]()
    assert refused(host.release, second).code == "limit.output_bytes"


def test_l5_a_budget_holds_under_many_at_once(world: World) -> None:
    """K3, L5: counted in the transaction that releases."""
    world.settings = Settings(open_challenges=200)
    world.stop()
    world.start()
    world.register()
    world.publish()
    world.seal()
    document = world.job_document()
    world.put_policies(limits=Limits(output_bytes=3 * document.bytes_out))
    handle = world.manager.changes["/v1/releases"]
    bodies = []
    for n in range(8):
        host, job = world.host(f"host-{n}"), world.propose()
        challenge = host.client.challenge(host.host_id, job, "release")
        bodies.append(EvidenceRequest(evidence=host.evidence(challenge)).canonical())
    outcomes: list[str] = []

    def go(body: bytes) -> None:
        try:
            handle(body)
            outcomes.append("released")
        except SvetovidError as e:
            outcomes.append(e.code)

    threads = [threading.Thread(target=go, args=(b,)) for b in bodies]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(outcomes) == ["limit.output_bytes"] * 5 + ["released"] * 3


def test_a_pin_that_nobody_published(world: World) -> None:
    """T2: an owner's own anchors, or no release; the host learns the code alone."""
    world.register()
    world.publish()
    world.seal()
    from svetovid.policy.documents import Pin

    world.put_policies(references=(Pin(document=D % 4),))
    job = world.propose()
    host = world.host()
    e = refused(host.release, job)
    assert "policy.pin" in {r.code for r in e.reasons}


def test_a_quote_for_another_channel(world: World) -> None:
    """C4: evidence relayed by whoever ends TLS in between."""
    job = world.ready()
    host = world.host()
    challenge = host.client.challenge(host.host_id, job, "release")
    host.client.channel = D % 3
    assert refused(host.client.release, host.evidence(challenge)).code == "channel.binding"


def test_a_log_from_after_a_reboot_with_a_quote_from_before(world: World) -> None:
    """F10."""
    job = world.ready()
    host = world.host()
    challenge = host.client.challenge(host.host_id, job, "release")
    before = host.evidence(challenge)
    host.tpm.reset()
    host.boot()
    host.tpm.measure("/usr/bin/new", sha(b"new"))
    host.tpm.entries = host.tpm.entries[2:]
    spliced = before.model_copy(update={"log": b64encode(host.tpm.log(0))})
    assert refused(host.client.release, spliced).code.startswith("ima.")
    assert b64decode(before.log) != host.tpm.log(0)


def test_two_managers_each_release_their_own(world: World) -> None:
    """T1: what another manager holds is its to give; its owner's consent counts here."""
    world.register()
    world.publish()
    world.seal()
    other = Identity.generate("other-manager")
    right = world.assets["right"].model_copy(update={"manager": other.key_id})
    stranger = Identity.generate("dora")
    world.assets["right"] = right.model_copy(update={"owner": stranger.key_id})
    world.put_policies()
    job = world.propose(consent=False)
    for owner in (world.alice, world.carol):
        world.consent(owner, job)
    host = world.host()
    assert "consent.missing" in {r.code for r in refused(host.release, job).reasons}
    consent = Consent(
        job=job, policy=D % 1, owner=stranger.key_id, slots=("right",), issued_at=world.now
    )
    world.clients["carol"].consent(sign(consent, stranger))
    assert [k.slot for k in host.release(job).keys] == ["code", "left"]


def test_a_challenge_answered_at_another_manager_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F2: two managers over one store; the transaction decides."""
    job = world.ready()
    host = world.host()
    evidence = host.evidence(host.client.challenge(host.host_id, job, "release", fresh=True))
    replica = world.open()
    body = EvidenceRequest(evidence=evidence).canonical()
    verify = freshness_module.verify_evidence
    first: list[bool] = []

    def meanwhile(*args: Any, **more: Any) -> Any:
        if not first:
            first.append(True)
            replica.changes["/v1/releases"](body)
        return verify(*args, **more)

    monkeypatch.setattr(freshness_module, "verify_evidence", meanwhile)
    assert refused(host.client.release, evidence).code == "challenge.used"
    replica.close()


def test_an_importer_consents_in_the_owners_stead(world: World) -> None:
    """T5: and its use of the grant is counted."""
    world.register()
    world.publish()
    world.seal()
    left = world.assets["left"]
    grant = world.policy_of(world.alice).grants[0]
    export = Export(**{n: getattr(grant, n) for n in Grant.model_fields}, to=world.bob.key_id)
    alices = world.policy_of(world.alice, grants=(), exports=(export,))
    world.clients["alice"].put_policy(sign(alices, world.alice))
    wanted = Import(policy=alices.digest(), asset=left.manifest)
    for owner in (world.bob, world.carol):
        more = {"imports": (wanted,)} if owner is world.bob else {}
        policy = world.policy_of(owner, **more)
        world.policies = {**getattr(world, "policies", {}), owner.name: policy}
        world.clients[owner.name].put_policy(sign(policy, owner))
    assert world.clients["bob"].policy(world.alice.key_id, "main") is not None
    job = world.propose(consent=False)
    for owner, slots in ((world.bob, ("left", "right")), (world.carol, ("code",))):
        consent = Consent(
            job=job,
            policy=world.policies[owner.name].digest(),
            owner=owner.key_id,
            slots=slots,
            issued_at=world.now,
        )
        world.clients[owner.name].consent(sign(consent, owner))
    host = world.host()
    assert len(host.release(job).keys) == 3
    runs = world.manager._core.state.runs
    assert runs[world.bob.key_id, left.manifest, ""] == 1
    assert runs[world.alice.key_id, left.manifest, world.bob.key_id] == 1


@contextmanager
def meanwhile_published(
    world: World, monkeypatch: pytest.MonkeyPatch, anchors: TrustAnchors
) -> Iterator[None]:
    """After evidence was appraised and before it is decided on, Alice publishes ``anchors``."""
    appraise = deciding_module.appraise

    def meanwhile(*args: Any, **more: Any) -> Any:
        found = appraise(*args, **more)
        registry = world.manager._registry
        registry.publish(sign(anchors, world.alice), frozenset({world.alice.key_id}))
        return found

    with monkeypatch.context() as m:
        m.setattr(deciding_module, "appraise", meanwhile)
        yield


def test_a_policy_replaced_while_evidence_is_examined(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K5, V12: what an owner stopped a moment ago stays stopped."""
    job = world.ready()
    host = world.host()
    verify = freshness_module.verify_evidence

    def meanwhile(*args: Any, **more: Any) -> Any:
        policy = world.policy_of(
            world.alice, sequence=2, predecessor=world.policies["alice"].digest()
        )
        world.manager.changes["/v1/policies"](sign(policy, world.alice).canonical())
        return verify(*args, **more)

    monkeypatch.setattr(freshness_module, "verify_evidence", meanwhile)
    assert refused(host.release, job).code == "policy.changed"


def test_a_document_withdrawn_while_evidence_is_examined(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K5, T2: what was appraised by values of before counts for nothing any more; nor is it held
    against the host, which asks again."""
    world.register()
    pin = Pin(signer=world.alice.key_id, product="test-anchors", min_version=1)
    job = world.ready(anchors=pin)
    host = world.host()
    lease = host.release(job).lease.id
    newest = world.anchors.model_copy(update={"version": 2})
    with meanwhile_published(world, monkeypatch, newest):
        assert refused(host.renew, job, lease).code == "policy.changed"
    store = world.manager._core.store
    assert store.entry(store.size - 1).body["payload"] == newest.digest()
    host.renew(job, lease)


def test_v12_what_strangers_publish_meanwhile_is_nobodys_business(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V12: nobody ends other people's leases by publishing something."""
    job = world.ready()
    host = world.host()
    lease = host.release(job).lease.id
    other = world.anchors.model_copy(update={"product": "something-else"})
    with meanwhile_published(world, monkeypatch, other):
        host.renew(job, lease)


def test_v12_copies_of_what_an_owner_pins_are_not_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V12, D2: strangers publish an owner's own values under throwaway keys, which costs them
    little and each decision a lot if all are read."""
    job = world.ready()
    host = world.host()
    lease = host.release(job).lease.id
    read: list[int] = []
    resolve = deciding_module.resolve_policy

    def counted(policy: Any, held: Any) -> Any:
        found = list(held)
        read.append(len(found))
        return resolve(policy, found)

    monkeypatch.setattr(deciding_module, "resolve_policy", counted)
    for n in range(3):
        stranger = Identity.generate(f"stranger {n}")
        for document in (world.references, world.anchors):
            world.clients["bob"].publish(sign(document, stranger))
        host.renew(job, lease)
    assert read == []
    world.stop()
    world.start()
    host.renew(job, lease)
    assert set(read) == {2}


def test_only_the_newest_edition_of_a_product_is_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T2: whatever came before it is of no use, and costs nothing."""
    world.register()
    pin = Pin(signer=world.alice.key_id, product="test-anchors", min_version=1)
    job = world.ready(anchors=pin)
    host = world.host()
    for version in (3, 2):
        edition = world.anchors.model_copy(update={"version": version})
        world.clients["alice"].publish(sign(edition, world.alice))
    host.release(job)
    deciding = world.manager._leasing._deciding
    alice = world.policies["alice"]
    choice = deciding._choice(alice.digest(), alice)
    assert choice.anchors.version == 3
    assert len(deciding._pinned(alice.digest(), alice)) == 2, "anchors and reference values"
