"""One owner's view of proven evidence: claims, each with what was seen, wanted, and who wanted it.

The words are derived, never reported (T4):

- ``measurement`` is ``enclave`` for a TEE. For a TPM host it is ``kernel`` where every claim about
  its boot is good (see :mod:`svetovid.evidence.boot.judge`), and there are some, because the
  owner's reference values speak of the boot; otherwise ``launcher``.
- ``simulated`` follows from the anchor and the names in the certificates; it is true where no
  anchor was reached, and always for a simulated TEE.

``affirmed`` says that every claim is good. Whether a good ``launcher`` or ``simulated`` host is
good enough is for the owner's policy, which sees :meth:`Appraisal.facts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from svetovid.crypto.canonical import b64decode
from svetovid.errors import EvidenceError, InputError, Reason
from svetovid.evidence.boot import Boot, judge
from svetovid.evidence.certificates import Path, find_path
from svetovid.evidence.claims import Claim, Fact
from svetovid.evidence.covering import (
    log_claims,
    measurement_claim,
    reference_window,
    sets_named,
    signer_claims,
)
from svetovid.evidence.documents import HostRecord, TrustAnchors
from svetovid.evidence.references import Current, ReferenceValues
from svetovid.evidence.tpm.constants import EK_CERTIFICATE_OID
from svetovid.evidence.verify import Proven

__all__ = ["Appraisal", "Claim", "appraise"]


@dataclass(frozen=True, slots=True)
class Appraisal:
    """All claims, and the facts that a policy's conditions see as ``claims``."""

    claims: tuple[Claim, ...]
    _facts: tuple[tuple[str, Fact], ...]

    @property
    def affirmed(self) -> bool:
        """Whether every claim holds, and there is one."""
        return bool(self.claims) and all(c.ok for c in self.claims)

    def reasons(self) -> list[Reason]:
        """Why it is not affirmed; empty where it is."""
        return [
            Reason(
                code=c.code,
                expected=c.expected,
                observed=c.observed,
                next_step=c.next_step,
                clause=c.source,
            )
            for c in self.claims
            if not c.ok
        ]

    def facts(self) -> dict[str, Fact]:
        """Plain values for CEL; the keys are the same for every kind of evidence."""
        return {**dict(self._facts), "affirmed": self.affirmed}


def _anchor(
    record: HostRecord, anchors: TrustAnchors, kind: str, now: int
) -> tuple[Path | None, Claim]:
    """The device's chain, against this owner's anchors."""
    source = f"trust anchors {anchors.product} v{anchors.version}"
    tpm = kind == "tpm"
    try:
        path = find_path(
            [b64decode(c) for c in record.device_certificates],
            [a for a in anchors.anchors if a.kind == ("tpm-ek" if tpm else "tee")],
            "ek" if tpm else "tee",
            now,
            EK_CERTIFICATE_OID if tpm else None,
        )
    except (EvidenceError, InputError) as e:
        r = e.reason
        return None, Claim(
            "device.anchor", False, "", r.observed, r.expected, source, r.code, r.next_step
        )
    return path, Claim(
        name="device.anchor",
        ok=True,
        value=path.anchor.name,
        observed=path.anchor.name,
        expected="a chain to one of the anchors",
        source=source,
    )


def _measurement(proven: Proven, boot: Sequence[Claim]) -> Claim:
    if proven.kind != "tpm":
        return Claim("measurement", True, "enclave", source="kind of evidence")
    return measurement_claim(proven.log, boot)


def _enclave(proven: Proven, current: Current) -> Claim:
    measured = proven.report.measurement if proven.report else ""
    ok = any(measured in r.tee_measurements for r in current.sets)
    return Claim(
        name="tee.measurement",
        ok=ok,
        value=measured,
        observed=measured,
        expected="a measurement in the reference values",
        source=sets_named(current),
        code="" if ok else "tee.measurement",
        next_step="" if ok else "run the enclave that was agreed, or publish its measurement",
    )


def appraise(
    proven: Proven,
    record: HostRecord,
    anchors: TrustAnchors,
    references: Sequence[ReferenceValues],
    *,
    now: int,
) -> Appraisal:
    """Judge proven evidence by one owner's anchors and reference values (T2).

    What the owner does not accept becomes a claim that is not ok, never an exception.

    Args:
        proven: of :func:`svetovid.evidence.verify_evidence`.
        record: the same host record.
        anchors, references: this owner's own, already opened and held against its pins.
        now: Unix seconds.

    The findings of a growing log are remembered inside ``proven.log``: pass the same reference
    documents again and only new entries are looked at.

    Raises:
        EvidenceError: ``evidence.host`` where the record is another host's.
    """
    if record.host_id != proven.host:
        raise EvidenceError(
            "evidence.host",
            expected=proven.host,
            observed=record.host_id,
            next_step="appraise with the record that the evidence was verified against",
        )
    statement = proven.statement
    current, window = reference_window(references, now)
    path, anchored = _anchor(record, anchors, proven.kind, now)
    boot = judge(proven.boot, proven.log, current) if proven.log else ()
    measurement = _measurement(proven, boot)
    simulated = proven.kind != "tpm" or path is None or path.simulated
    named = f"{statement.host} of {statement.machine_owner}"
    operator = f"statement of {statement.operator}"
    claims = [
        Claim("host", True, proven.host, observed=named, source=operator),
        anchored,
        measurement,
        window,
    ]
    claims.append(
        Claim(
            name="simulated",
            ok=True,
            value=simulated,
            observed="whoever runs the host reads its keys" if simulated else "hardware",
            expected="for production: hardware",
            source="T4",
        )
    )
    if proven.log is not None:
        claims.extend((*boot, *log_claims(proven.log, current), *signer_claims(current)))
    else:
        claims.append(_enclave(proven, current))
    clock = proven.clock
    facts: tuple[tuple[str, Fact], ...] = (
        ("kind", proven.kind),
        ("measurement", str(measurement.value)),
        ("secure_boot", isinstance(proven.boot, Boot) and proven.boot.secure_boot.enabled),
        ("simulated", simulated),
        ("host", proven.host),
        ("host_name", statement.host),
        ("operator", statement.operator),
        ("machine_owner", statement.machine_owner),
        ("log_entries", proven.log.count if proven.log else 0),
        ("unchecked_files", sum(int(c.value) for c in claims if c.name == "log.unchecked")),
        ("anchor", path.anchor.name if path else ""),
        ("reset_count", clock.reset_count if clock else 0),
        ("restart_count", clock.restart_count if clock else 0),
    )
    return Appraisal(tuple(claims), facts)
