"""What an owner's reference values say of a measurement log, as claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from svetovid.crypto.canonical import b64decode
from svetovid.errors import InputError, Reason
from svetovid.evidence.claims import Claim
from svetovid.evidence.ima.listing import Mismatch, Some, compare, merged
from svetovid.evidence.ima.signatures import load_signer
from svetovid.evidence.ima.state import LogState
from svetovid.evidence.references import Current, ReferenceValues

__all__ = ["log_claims", "measurement_claim", "reference_window", "sets_named", "signer_claims"]


def edition(r: ReferenceValues) -> str:
    """How claims name a set of reference values."""
    return f"{r.product} v{r.version}"


def reference_window(references: Sequence[ReferenceValues], now: int) -> tuple[Current, Claim]:
    """The sets within their time at ``now`` (Unix seconds), and whether there are any."""
    current = Current.at(references, now)
    count = len(current.sets)
    stale = ", ".join(edition(r) for r in references if not r.current(now))
    return current, Claim(
        name="references.current",
        ok=count > 0,
        value=count,
        observed=f"outside their time: {stale}" if stale else f"{count} sets",
        expected="at least one set of reference values within its time",
        source="reference values",
        code="" if count else "reference.expired",
        next_step="" if count else "publish or pin a current edition of the reference values",
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
        code="ima.superseded",
        next_step="update the file on the host, restart the host",
    ),
    Reason(
        code="ima.buf",
        next_step="find out what the kernel measured under that name, or have its digest added",
    ),
    Reason(code="ima.kexec", next_step="restart the host through its firmware, without kexec"),
)
_STEPS = {r.code: r.next_step for r in _REASONS}
_SIGN = "sign the file anew with a key of the reference values, or have its digest added"


def signer_claims(current: Current) -> list[Claim]:
    """Keys that cannot be read count for nothing, and the owner hears of them."""
    claims = []
    for reference in current.sets:
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


def sets_named(current: Current) -> str:
    """How claims name all sets that count."""
    return "reference values " + (", ".join(edition(r) for r in current.sets) or "(none)")


def _unchecked(current: Current, covered: Mapping[int, Some]) -> list[Claim]:
    """Each path rule with what it let through: a hole is shown even where nothing went through."""
    rules = [(r, rule) for r in current.sets for rule in r.unchecked]
    claims = []
    for number, (reference, rule) in enumerate(rules):
        some = covered.get(number) or Some(0, "")
        claims.append(
            Claim(
                name="log.unchecked",
                ok=True,
                value=some.count,
                observed=f"{some.count} measured files"
                + (f", first {some.first}" * bool(some.count)),
                expected=f"any content: {rule.kind} {rule.path}, {rule.why}",
                source=f"reference values {edition(reference)}",
            )
        )
    return claims


def _outgoing(current: Current, some: Some | None, source: str) -> list[Claim]:
    """What still counts but will be refused; a host where it is not zero is to be updated."""
    if not any(r.superseded for r in current.sets):
        return []
    count = some.count if some else 0
    return [
        Claim(
            name="log.outgoing",
            ok=True,
            value=count,
            observed=f"{count} measured files" + (f", first {some.first}" if some else ""),
            expected="files that will not be superseded",
            source=source,
        )
    ]


def log_claims(log: LogState, current: Current) -> list[Claim]:
    """Every line counts, the pending ones too; a violation is never waived here (M4, M5)."""
    source = sets_named(current)
    found = log.listing.compare(log.entries, current)
    pending = compare(log.pending, current, begins=False)
    count = found.count + pending.count
    mismatches = (*found.mismatches, *pending.mismatches)
    outgoing = found.outgoing.and_more(pending.outgoing) if found.outgoing else pending.outgoing
    claims = [
        *(_mismatch(m, source) for m in mismatches),
        *_unchecked(current, merged(found.unchecked, pending.unchecked)),
        *_outgoing(current, outgoing, source),
    ]
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
