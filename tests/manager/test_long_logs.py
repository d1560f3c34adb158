"""Long measurement logs: what an ordinary server has goes all the way to a receipt (T13, D1)."""

from __future__ import annotations

import hashlib

import pytest

import managerworld
from evidence.ima_bytes import fields, raw_entry
from manager.test_release import finish
from managerworld import SoftHost, World, sha
from svetovid.crypto import b64encode
from svetovid.errors import LimitError, ParseError, SvetovidError
from svetovid.evidence.documents import MAX_EVIDENCE_LOG_BYTES, evidence_log
from svetovid.evidence.ima import MAX_LOG_BYTES
from svetovid.evidence.ima import state as state_module
from svetovid.manager.service import MAX_BODY_BYTES
from svetovid.policy.documents import Job
from svetovid.protocol import EvidenceRequest
from svetovid.protocol.messages import Answer
from svetovid.transparency import MAX_BUNDLE_BYTES, ReceiptBundle, verify_receipt
from svetovid.transparency import receipt as receipt_module
from svetovid.transparency.receipt import assemble

LIBRARY = "/usr/lib/x86_64-linux-gnu/perl/5.36.0/lib".ljust(56, "x")


def loaded(host: SoftHost, count: int, path: str = LIBRARY) -> None:
    """The same library, over and over: as long a log as that of ``count`` libraries."""
    body = fields(b"sha256:\0" + hashlib.sha256(b"library").digest(), path.encode() + b"\0")
    entry, extension = raw_entry(body=body), hashlib.sha256(body).digest()
    pcr = host.tpm.pcrs[10]
    for _ in range(count):
        pcr = hashlib.sha256(pcr + extension).digest()
    host.tpm.entries += [entry] * count
    host.tpm.pcrs[10] = pcr


@pytest.fixture
def ready(world: World) -> tuple[SoftHost, str]:
    world.files = {**managerworld.FILES, LIBRARY: sha(b"library")}
    job = world.ready()
    return world.host(), job


def test_fifty_thousand_entries_reach_a_receipt(
    monkeypatch: pytest.MonkeyPatch, world: World, ready: tuple[SoftHost, str]
) -> None:
    """Sent at once, and verified by somebody who has nothing else."""
    host, job = ready
    loaded(host, 50_000)
    whole = host.tpm.log(0)
    assert 7_000_000 < len(whole) < MAX_EVIDENCE_LOG_BYTES
    release = host.release(job)
    end, signed, hand_in = finish(world, host, release)
    given = {
        "job": release.job.peek(Job),
        "consents": release.consents,
        "host": host.record,
        "start": host.start,
        "end": end,
        "countersignature": hand_in(),
    }
    bundle = assemble(signed, log=b64encode(whole), **given)
    data = bundle.canonical()
    verdict = verify_receipt(
        ReceiptBundle.parse(data, max_bytes=MAX_BUNDLE_BYTES),
        anchors=world.anchors,
        references=[world.references],
        manager=world.identity.key_id,
        now=world.now,
    )
    assert verdict.affirmed
    monkeypatch.setattr(receipt_module, "MAX_LOG_BYTES", len(whole) - 3)
    with pytest.raises(LimitError, match=r"receipt\.log_size"):
        assemble(signed, log=b64encode(whole), **given)


def test_a_log_may_grow_beyond_what_is_sent_at_once(
    monkeypatch: pytest.MonkeyPatch, world: World, ready: tuple[SoftHost, str]
) -> None:
    """Each renewal brings what is new; the whole is bounded by what a receipt carries."""
    host, job = ready
    lease = host.release(job).lease.id
    loaded(host, 100)
    host.renew(job, lease)
    monkeypatch.setattr(state_module, "MAX_LOG_BYTES", len(host.tpm.log(0)))
    loaded(host, 1)
    with pytest.raises(SvetovidError) as e:
        host.renew(job, lease)
    assert "ima.log_size" in str(e.value)


def test_a_log_that_is_too_long_is_refused_before_a_release(
    world: World, ready: tuple[SoftHost, str]
) -> None:
    host, job = ready
    loaded(host, MAX_EVIDENCE_LOG_BYTES // 143 + 1000)
    with pytest.raises(LimitError, match=r"evidence\.log_size"):
        evidence_log(host.tpm.log(0))
    challenge = host.client.challenge(host.host_id, job, "release")
    short = host.evidence(challenge, log="")
    body = short.to_json() | {"log": b64encode(host.tpm.log(0))}
    with pytest.raises(ParseError, match=r"document\.invalid"):
        EvidenceRequest.from_json({"evidence": body})


def test_the_bounds_fit_into_one_another() -> None:
    log = evidence_log(bytes(MAX_EVIDENCE_LOG_BYTES))
    boot_log = b64encode(bytes(1 << 20))
    assert len(log) + len(boot_log) + (1 << 20) < min(MAX_BODY_BYTES, Answer.MAX_BYTES)
    assert MAX_EVIDENCE_LOG_BYTES <= MAX_LOG_BYTES
    countersignature = 4 * 12_000_000 // 3
    assert len(b64encode(bytes(MAX_LOG_BYTES))) + countersignature + (4 << 20) < MAX_BUNDLE_BYTES
