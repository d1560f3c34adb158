"""From a software TPM to a verdict: what this wing proves is what the other one accepts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from svetovid.crypto import Identity, b64encode, digest, sign
from svetovid.errors import EvidenceError
from svetovid.evidence import Proven, appraise, verify_evidence
from svetovid.evidence.documents import (
    NO_SUBJECT,
    Challenge,
    HostRecord,
    HostStatement,
    JobKeys,
    TpmEvidence,
    TrustAnchor,
    TrustAnchors,
    binding,
)
from svetovid.evidence.enrolment import check_enrolment
from svetovid.host.measure import Launcher
from svetovid.host.runtime import reference_values
from svetovid.host.tpm import Tpm, create_ca, issue_ek_certificate

CHANNEL = digest(b"certificate")


@dataclass
class Host:
    """An enrolled host and the one who asks it."""

    tpm: Tpm
    log: Launcher
    record: HostRecord
    manager: Identity
    now: int

    def answer(self, challenge: Challenge) -> TpmEvidence:
        keys = JobKeys(receiving=b64encode(b"key"), signing=self.manager.key_id)
        quote = self.tpm.quote(binding(challenge, keys, CHANNEL))
        return TpmEvidence(
            challenge=sign(challenge, self.manager),
            host=self.record.host_id,
            keys=keys,
            channel=CHANNEL,
            subject=NO_SUBJECT,
            quote=b64encode(quote.attest),
            signature=b64encode(quote.signature),
            pcrs={str(i): v.hex() for i, v in quote.pcrs.items()},
            log=b64encode(self.log.log_since(challenge.log_offset)),
            log_offset=challenge.log_offset,
        )

    def challenge(self, offset: int = 0) -> Challenge:
        return Challenge(
            nonce=b64encode(bytes(32)),
            manager=self.manager.key_id,
            host=self.record.host_id,
            job=digest(b"job"),
            role="release",
            issued_at=self.now,
            expires_at=self.now + 60,
            log_offset=offset,
        )

    def proven(self, before: Proven | None = None) -> Proven:
        challenge = self.challenge(before.log.count if before and before.log else 0)
        return verify_evidence(
            self.answer(challenge),
            self.record,
            challenge=challenge,
            channel=CHANNEL,
            subject=NO_SUBJECT,
            log=before.log if before else None,
            now=self.now,
        )


@pytest.fixture
def host(tpm: Tpm, tmp_path: Path) -> Host:
    tree = tmp_path / "tree"
    (tree / "lib").mkdir(parents=True)
    (tree / "lib" / "os.py").write_text("os")
    operator, manager = Identity.generate("operator"), Identity.generate("manager")
    ek, now = tpm.ek(), int(time.time())
    certificate = issue_ek_certificate(tmp_path / "ca", ek)
    statement = HostStatement(
        host="h1",
        operator=operator.key_id,
        machine_owner="a tester",
        kind="tpm",
        device=digest(ek),
        agent=manager.key_id,
        issued_at=now,
    )
    envelope = sign(statement, operator)
    check_enrolment(envelope, [certificate], ek, tpm.ak(), now)
    record = HostRecord(
        statement=envelope,
        device_certificates=(b64encode(certificate),),
        ek_public=b64encode(ek),
        ak_public=b64encode(tpm.ak()),
    )
    log = Launcher(tpm, tree, tmp_path / "log")
    log.measure()
    return Host(tpm, log, record, manager, now)


@pytest.fixture
def anchors(tmp_path: Path) -> TrustAnchors:
    anchor = TrustAnchor(
        kind="tpm-ek",
        name="a software TPM",
        certificate=b64encode(create_ca(tmp_path / "ca").der),
        simulated=True,
    )
    return TrustAnchors(product="anchors", version=1, anchors=(anchor,))


def test_a_measured_host_is_affirmed_by_name(
    host: Host, anchors: TrustAnchors, tmp_path: Path
) -> None:
    """T4."""
    values = reference_values(tmp_path / "tree", "runtime", 1)
    verdict = appraise(host.proven(), host.record, anchors, [values], now=host.now)
    assert verdict.affirmed, verdict.reasons()
    facts = verdict.facts()
    assert (facts["measurement"], facts["simulated"]) == ("launcher", True)
    assert facts["log_entries"] == host.log.count


def test_a_file_that_nobody_listed_ends_it(
    host: Host, anchors: TrustAnchors, tmp_path: Path
) -> None:
    values = reference_values(tmp_path / "tree", "runtime", 1)
    first = host.proven()
    (tmp_path / "tree" / "evil.py").write_text("evil")
    assert host.log.measure() == 1
    later = host.proven(first)  # only the new entries travel
    verdict = appraise(later, host.record, anchors, [values], now=host.now)
    assert not verdict.affirmed
    assert "ima.unlisted" in {r.code for r in verdict.reasons()}


def test_a_quote_for_another_channel_or_an_extended_pcr_is_refused(host: Host) -> None:
    """T6."""
    challenge = host.challenge()
    evidence = host.answer(challenge)
    with pytest.raises(EvidenceError, match=r"channel\.binding"):
        verify_evidence(
            evidence,
            host.record,
            challenge=challenge,
            channel=digest(b"another"),
            subject=NO_SUBJECT,
            log=None,
            now=host.now,
        )
    host.tpm.extend(10, bytes(32))  # behind the log's back
    with pytest.raises(EvidenceError, match=r"ima\.replay"):
        host.proven()
