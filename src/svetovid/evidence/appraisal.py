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
from svetovid.evidence.documents import HostRecord, ReferenceValues, TrustAnchors
from svetovid.evidence.ima.listing import Mismatch, compare
from svetovid.evidence.ima.signatures import load_signer
from svetovid.evidence.ima.state import LogState
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


def _current(r: ReferenceValues, now: int) -> bool:
    return (r.valid_from is None or r.valid_from <= now) and (
        r.valid_until is None or now <= r.valid_until
    )


def _edition(r: ReferenceValues) -> str:
    return f"{r.product} v{r.version}"


def _references(
    references: Sequence[ReferenceValues], now: int
) -> tuple[list[ReferenceValues], Claim]:
    current = [r for r in references if _current(r, now)]
    stale = ", ".join(_edition(r) for r in references if not _current(r, now))
    return current, Claim(
        name="references.current",
        ok=bool(current),
        value=len(current),
        observed=f"outside their time: {stale}" if stale else f"{len(current)} sets",
        expected="at least one set of reference values within its time",
        source="reference values",
        code="" if current else "reference.expired",
        next_step="" if current else "publish or pin a current edition of the reference values",
    )


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


_REASONS = (
    Reason(
        code="ima.unlisted",
        next_step="remove the file from the host, or have it added to the reference values",
    ),
    Reason(
        code="ima.digest",
        next_step="restore the file that the reference values name, restart the host",
    ),
    Reason(
        code="ima.buf",
        next_step="find out what the kernel measured under that name, or have its digest added",
    ),
    Reason(code="ima.kexec", next_step="restart the host through its firmware, without kexec"),
)
_STEPS = {r.code: r.next_step for r in _REASONS}
_SIGN = "sign the file anew with a key of the reference values, or have its digest added"


def _signers(current: Sequence[ReferenceValues]) -> list[Claim]:
    """Keys that cannot be read count for nothing, and the owner hears of them."""
    claims = []
    for reference in current:
        for key in reference.file_signers:
            try:
                load_signer(b64decode(key))
            except InputError as e:
                r, source = e.reason, f"reference values {_edition(reference)}"
                claims.append(
                    Claim(
                        "references.signer",
                        *(False, key[:40], r.observed, r.expected, source, r.code, r.next_step),
                    )
                )
    return claims


def _mismatch(m: Mismatch, source: str) -> Claim:
    observed = f"{m.path} {m.observed}"
    step = _STEPS.get(m.code, _SIGN)
    return Claim("log.file", False, m.path, observed, m.expected, source, m.code, step)


def _log(log: LogState, current: Sequence[ReferenceValues]) -> list[Claim]:
    """Every line counts, the pending ones too; a violation is never waived here (M4, M5)."""
    source = "reference values " + (", ".join(_edition(r) for r in current) or "(none)")
    found = log.listing.compare(log.entries, current)
    pending = compare(log.pending, current, begins=False)
    count = found.count + pending.count
    mismatches = (*found.mismatches, *pending.mismatches)
    claims = [_mismatch(m, source) for m in mismatches]
    claims.append(
        Claim(
            name="log.files",
            ok=count == 0,
            value=log.count + len(log.pending),
            observed=f"{count} measured files not covered",
            expected="every measured file in the reference values",
            source=source,
            code="" if count == 0 else mismatches[0].code,
            next_step="" if count == 0 else _STEPS.get(mismatches[0].code, _SIGN),
        )
    )
    broken = (e.path for e in (*log.entries, *log.pending) if e.violation)
    first = next(broken, "") if log.violations else ""
    claims.append(
        Claim(
            name="log.violations",
            ok=log.violations == 0,
            value=log.violations,
            observed=f"{log.violations}, first {first}" if log.violations else "0",
            expected="0: no file written while it was measured",
            source="measurement log",
            code="" if log.violations == 0 else "ima.violation",
            next_step="" if log.violations == 0 else "restart the host; write no measured file",
        )
    )
    return claims


def _measurement(proven: Proven, boot: Sequence[Claim]) -> Claim:
    """T4: the word for how files are measured, from what was proven of the boot."""
    if proven.kind != "tpm":
        return Claim("measurement", True, "enclave", source="kind of evidence")
    bad = [c for c in boot if not c.ok]
    if bad:
        lacks = f"{bad[0].name}: {bad[0].code}"
    elif not boot or proven.log is None:
        lacks = "no reference values for the boot"
    elif proven.log.kexecs:
        lacks = "a kernel started by kexec, of which no boot log speaks"
    else:
        return Claim(
            "measurement", True, "kernel", "a known kernel measured from its start", source="T4"
        )
    return Claim(
        name="measurement",
        ok=True,
        value="launcher",
        observed=lacks,
        expected="for kernel: an appraised boot log (kernel, command line, IMA policy)",
        source="T4",
    )


def _enclave(proven: Proven, current: Sequence[ReferenceValues]) -> Claim:
    measured = proven.report.measurement if proven.report else ""
    ok = any(measured in r.tee_measurements for r in current)
    return Claim(
        name="tee.measurement",
        ok=ok,
        value=measured,
        observed=measured,
        expected="a measurement in the reference values",
        source="reference values " + (", ".join(_edition(r) for r in current) or "(none)"),
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
    current, window = _references(references, now)
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
        claims.extend((*boot, *_log(proven.log, current), *_signers(current)))
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
        ("anchor", path.anchor.name if path else ""),
        ("reset_count", clock.reset_count if clock else 0),
        ("restart_count", clock.restart_count if clock else 0),
    )
    return Appraisal(tuple(claims), facts)
