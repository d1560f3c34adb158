"""One manager, one operator, one host with a TPM or a simulated TEE: evidence to break."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from evidence.authorities import NOW, Authority, anchors
from evidence.forger import RSA_EK, Forger
from svetovid.crypto import Identity, b64encode, digest, sign
from svetovid.evidence import (
    NO_SUBJECT,
    Challenge,
    HostRecord,
    HostStatement,
    JobKeys,
    LogState,
    Proven,
    ReferenceValues,
    TeeEvidence,
    TpmEvidence,
    TrustAnchors,
    appraise,
    binding,
    verify_evidence,
)
from svetovid.evidence.appraisal import Appraisal
from svetovid.evidence.ima import boot_aggregate, build_entry, extension
from svetovid.evidence.tee import SimulatedReport
from tpmbytes import ek_public

MANAGER = Identity.generate("manager")
OPERATOR = Identity.generate("operator")
JOB_KEY = Identity.generate("job-key")
CHANNEL = digest(b"tls certificate")
FILES = {f"/opt/runtime/lib{i}.so": digest(b"%d" % i) for i in range(5)}


@dataclass
class World:
    """Change an attribute, then ``verify()``."""

    tpm: Forger = field(default_factory=Forger)
    root: Authority = field(default_factory=Authority)
    files: dict[str, str] = field(default_factory=lambda: dict(FILES))
    now: int = NOW
    channel: str = CHANNEL
    subject: str = NO_SUBJECT
    log_state: LogState | None = None

    def __post_init__(self) -> None:
        self.ek = ek_public(RSA_EK)
        self.keys = JobKeys(receiving=b64encode(b"hpke key"), signing=JOB_KEY.key_id)
        self.statement = HostStatement(
            host="node-1",
            operator=OPERATOR.key_id,
            machine_owner="University",
            kind="tpm",
            device=digest(self.ek),
            agent=JOB_KEY.key_id,
            issued_at=NOW - 100,
        )
        self.record = self.make_record()
        self.lines = [boot_aggregate(self.tpm.pcrs)]
        self.tpm.extend(10, extension(self.lines[0]))
        for path, value in self.files.items():
            self.measure(path, value)
        self.challenge = self.make_challenge()

    def make_record(self, **changes: object) -> HostRecord:
        return HostRecord(
            **{
                "statement": sign(self.statement, OPERATOR),
                "device_certificates": (b64encode(self.root.leaf(RSA_EK.public_key())),),
                "ek_public": b64encode(self.ek),
                "ak_public": b64encode(self.tpm.ak),
                **changes,
            }
        )

    def make_challenge(self, **changes: object) -> Challenge:
        return Challenge(
            **{
                "nonce": b64encode(hashlib.sha256(b"nonce").digest()),
                "manager": MANAGER.key_id,
                "host": self.record.host_id,
                "job": digest(b"job"),
                "role": "release",
                "issued_at": NOW,
                "expires_at": NOW + 60,
                "log_offset": 0,
                **changes,
            }
        )

    def measure(self, path: str, value: str) -> None:
        line = build_entry(path, value)
        self.lines.append(line)
        self.tpm.extend(10, extension(line))

    def append(self, line: bytes, extended: bytes) -> None:
        self.lines.append(line)
        self.tpm.extend(10, extended)

    @property
    def references(self) -> ReferenceValues:
        return ReferenceValues(
            product="runtime", version=1, files={p: (d,) for p, d in FILES.items()}
        )

    @property
    def anchors(self) -> TrustAnchors:
        return anchors(self.root.anchor())

    def evidence(self, form: dict | None = None, **changes: object) -> TpmEvidence:
        """``form`` changes what the TPM signs; ``changes`` what is sent beside it."""
        extra = binding(self.challenge, self.keys, self.channel, self.subject)
        quote, signature = self.tpm.quote(extra, **(form or {}))
        parts = {
            "challenge": sign(self.challenge, MANAGER),
            "host": self.record.host_id,
            "keys": self.keys,
            "channel": self.channel,
            "subject": self.subject,
            "quote": b64encode(quote),
            "signature": b64encode(signature),
            "pcrs": {str(i): v.hex() for i, v in self.tpm.pcrs.items()},
            "log": b64encode(b"".join(self.lines[self.challenge.log_offset :])),
            "log_offset": self.challenge.log_offset,
        }
        return TpmEvidence(**{**parts, **changes})

    def verify(
        self, evidence: TpmEvidence | TeeEvidence | None = None, **changes: object
    ) -> Proven:
        arguments: dict = {
            "challenge": self.challenge,
            "channel": self.channel,
            "subject": self.subject,
            "log": self.log_state,
            "now": self.now,
            **changes,
        }
        return verify_evidence(evidence or self.evidence(), self.record, **arguments)

    def appraise(self, proven: Proven | None = None, **changes: object) -> Appraisal:
        return appraise(
            proven or self.verify(),
            self.record,
            changes.get("anchors", self.anchors),
            changes.get("references", [self.references]),
            now=changes.get("now", self.now),
        )


@dataclass
class TeeWorld:
    """A host with a simulated TEE."""

    root: Authority = field(default_factory=lambda: Authority("SIMULATED TEE root"))
    measurement: str = digest(b"enclave")
    debug: bool = False

    def __post_init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        public = self.key.public_key()
        info = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.statement = HostStatement(
            host="enclave-1",
            operator=OPERATOR.key_id,
            machine_owner="University",
            kind="simulated-tee",
            device=digest(info),
            agent=JOB_KEY.key_id,
            issued_at=NOW,
        )
        self.leaf = self.root.leaf(public, eku=None)
        self.record = HostRecord(
            statement=sign(self.statement, OPERATOR),
            device_certificates=(b64encode(self.leaf),),
        )
        self.keys = JobKeys(receiving=b64encode(b"hpke key"), signing=JOB_KEY.key_id)
        self.challenge = Challenge(
            nonce=b64encode(bytes(32)),
            manager=MANAGER.key_id,
            host=self.record.host_id,
            job=digest(b"job"),
            role="release",
            issued_at=NOW,
            expires_at=NOW + 60,
        )

    def report(self, **changes: object) -> SimulatedReport:
        data = binding(self.challenge, self.keys, CHANNEL, NO_SUBJECT).hex()
        parts = {
            "measurement": self.measurement,
            "report_data": data,
            "debug": self.debug,
            "svn": 1,
        }
        return SimulatedReport(**{**parts, **changes})

    def evidence(self, report: bytes | None = None, **changes: object) -> TeeEvidence:
        report = self.report().canonical() if report is None else report
        parts = {
            "challenge": sign(self.challenge, MANAGER),
            "host": self.record.host_id,
            "keys": self.keys,
            "channel": CHANNEL,
            "subject": NO_SUBJECT,
            "report": b64encode(report),
            "signature": b64encode(self.key.sign(report, ec.ECDSA(hashes.SHA256()))),
        }
        return TeeEvidence(**{**parts, **changes})

    def verify(self, evidence: TeeEvidence | None = None) -> Proven:
        return verify_evidence(
            evidence or self.evidence(),
            self.record,
            challenge=self.challenge,
            channel=CHANNEL,
            subject=NO_SUBJECT,
            log=None,
            now=NOW,
        )
