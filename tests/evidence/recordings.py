"""A recording to break: a forger's TPM, scripted firmware, an EK of an authority of the tests."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

import firmware as uefi
from evidence.authorities import NOW, Authority
from evidence.forger import RSA_EK, Forger
from evidence.ima_bytes import raw_entry
from firmware import EVENTS, KERNEL, LINE
from svetovid.crypto import b64encode, digest
from svetovid.evidence import BootReferences, ReferenceValues
from svetovid.evidence.ima import boot_aggregate_digest, build_entry, parse_log
from svetovid.evidence.recorded import (
    Authorities,
    Expectations,
    Node,
    RecordedEvidence,
    Verdict,
    appraise_recorded,
    read_authorities,
)
from tpmbytes import ECDSA, SHA256, SHA384, SHA512, bitmap, ecc_public, ek_public

NONCE = b"nonce of the reader"
FILES = {f"/opt/runtime/lib{i}.so": digest(b"%d" % i) for i in range(5)}
BANKS = {"sha256": SHA256, "sha384": SHA384, "sha512": SHA512}


@dataclass
class Recording:
    """Change an attribute or a part, then ``judged()``."""

    bank: str = "sha256"
    scheme: int = ECDSA
    hash: int = SHA256
    curve: ec.EllipticCurve | None = None
    banks: tuple[str, ...] = ("sha256",)
    root: Authority = field(default_factory=Authority)

    def __post_init__(self) -> None:
        self.fw = uefi.linux(banks=self.banks)
        self.tpm = Forger(self.scheme, self.hash)
        if self.curve is not None:
            self.tpm.key = ec.generate_private_key(self.curve)
            form = struct.pack(">HH", self.scheme, self.hash)
            self.tpm.ak = ecc_public(self.tpm.key, scheme=form, curve=4)
        size = hashlib.new(self.bank).digest_size
        values = self.fw.pcrs(self.bank)
        self.tpm.pcrs = dict(sorted({**values, 10: bytes(size)}.items()))
        aggregate = boot_aggregate_digest(values, self.bank)
        self.lines: list[bytes] = []
        name = self.bank.encode() + b":\0"
        self.append(raw_entry(b"boot_aggregate", aggregate, algorithm=name))
        for path, value in FILES.items():
            self.append(build_entry(path, value))
        self.ek = ek_public(RSA_EK)
        self.certificates = [self.root.leaf(RSA_EK.public_key())]

    def append(self, line: bytes) -> None:
        """Write a line and extend it into PCR 10, as the kernel does."""
        self.lines.append(line)
        (entry,) = parse_log(line, self.bank)
        before = self.tpm.pcrs[10]
        self.tpm.pcrs[10] = hashlib.new(self.bank, before + entry.extension).digest()

    def recorded(self, form: dict[str, Any] | None = None, **changes: object) -> RecordedEvidence:
        """``form`` changes what the TPM signs, ``changes`` what was recorded of it."""
        chosen = {"selections": (bitmap(self.tpm.pcrs, BANKS[self.bank]),), **(form or {})}
        quote, signature = self.tpm.quote(NONCE, **chosen)
        parts = {
            "quote": b64encode(quote),
            "sig": b64encode(signature),
            "ak": b64encode(self.tpm.ak),
            "pcrs": {self.bank: {str(i): v.hex() for i, v in self.tpm.pcrs.items()}},
            "ek": b64encode(self.ek),
            "ek_certificates": [b64encode(c) for c in self.certificates],
            "bios": b64encode(self.fw.log()),
            "ima": b64encode(b"".join(self.lines)),
            "nonce": NONCE.hex(),
            "cmdline": LINE,
        }
        given = {**parts, **changes}
        return RecordedEvidence.from_json({k: v for k, v in given.items() if v is not None})

    @property
    def authorities(self) -> Authorities:
        return read_authorities(self.root.certificate.public_bytes(Encoding.PEM))

    @property
    def references(self) -> ReferenceValues:
        return ReferenceValues(
            product="runtime", version=1, files={p: (d,) for p, d in FILES.items()}
        )

    @property
    def boot_references(self) -> ReferenceValues:
        allowed = {
            "kernels": {"linux": (uefi.sha(KERNEL),)},
            "command_lines": (LINE,),
            "events": EVENTS,
            "measured": ("/opt/runtime/lib0.so",),
        }
        boot = BootReferences.from_json(allowed)
        return self.references.model_copy(update={"boot": boot})

    def wanted(self, **changes: object) -> Expectations:
        parts: dict[str, Any] = {
            "now": NOW,
            "nonce": NONCE,
            "references": [self.references],
            "authorities": self.authorities,
        }
        return Expectations(**{**parts, **changes})

    def judged(
        self,
        evidence: RecordedEvidence | None = None,
        *,
        form: dict[str, Any] | None = None,
        wants: dict[str, Any] | None = None,
        **changes: object,
    ) -> Verdict:
        recorded = evidence or self.recorded(form, **changes)
        return appraise_recorded(recorded, self.wanted(**(wants or {})))


def claim(verdict: Verdict, name: str) -> Node:
    return next(n for c in verdict.claims for n in c.walk() if n.name == name)


def codes(verdict: Verdict) -> set[str]:
    """Reasons of a refusal, each of which says what was seen, what was wanted, and what to do."""
    assert not verdict.affirmed
    bad = [n for c in verdict.claims for n in c.walk() if n.ok is False]
    assert all(n.code and n.expected and n.next_step and n.source for n in bad), bad
    return set(verdict.reasons())
