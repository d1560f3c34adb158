"""What an owner's reference values say of a measurement log, as claims."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from svetovid.crypto.canonical import b64decode
from svetovid.errors import InputError, Reason
from svetovid.evidence.claims import Claim
from svetovid.evidence.documents import ReferenceValues
from svetovid.evidence.ima.listing import Mismatch, compare
from svetovid.evidence.ima.signatures import load_signer
from svetovid.evidence.ima.state import LogState

__all__ = ["edition", "log_claims", "measurement_claim", "reference_window", "signer_claims"]


def _current(r: ReferenceValues, now: int) -> bool:
    return (r.valid_from is None or r.valid_from <= now) and (
        r.valid_until is None or now <= r.valid_until
    )


def edition(r: ReferenceValues) -> str:
    """How claims name a set of reference values."""
    return f"{r.product} v{r.version}"


def reference_window(
    references: Sequence[ReferenceValues], now: int
) -> tuple[list[ReferenceValues], Claim]:
    """The sets within their time at ``now`` (Unix seconds), and whether there are any."""
    current = [r for r in references if _current(r, now)]
    stale = ", ".join(edition(r) for r in references if not _current(r, now))
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


def signer_claims(current: Sequence[ReferenceValues]) -> list[Claim]:
    """Keys that cannot be read count for nothing, and the owner hears of them."""
    claims = []
    for reference in current:
        for key in reference.file_signers:
            try:
                load_signer(b64decode(key))
            except InputError as e:
                r, source = e.reason, f"reference values {edition(reference)}"
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


def log_claims(log: LogState, current: Sequence[ReferenceValues]) -> list[Claim]:
    """Every line counts, the pending ones too; a violation is never waived here (M4, M5)."""
    source = "reference values " + (", ".join(edition(r) for r in current) or "(none)")
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
    first = ""
    if log.violations:
        first = next(e.path for e in chain(log.entries, log.pending) if e.violation)
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


def measurement_claim(log: LogState | None, boot: Sequence[Claim]) -> Claim:
    """T4: the word for how files are measured, from what was proven of the boot."""
    bad = [c for c in boot if not c.ok]
    if bad:
        lacks = f"{bad[0].name}: {bad[0].code}"
    elif not boot or log is None:
        lacks = "no reference values for the boot"
    elif log.kexecs:
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
