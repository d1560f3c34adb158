"""Recorded evidence in, a tree of claims out; ``docs/spec/evidence.md``, section 7.

Rules:

1. What must be there to say anything (quote, signature, attestation key) can be read, or it is an
   error; everything else that is missing or wrong is a claim.
2. The quote is of a restricted signing key and says what was asked (``tpm.ak``, ``tpm.quote``).
3. That key's TPM has a certificate of somebody whom the reader believes (``tpm.ek``).
4. What was recorded must hold: a boot log that does not is not affirmed, even where no reference
   values speak of the boot (``boot_log``).
5. Some prefix of the measurement log gives PCR 10 (``ima.replay``); every line is held against the
   reference values (``ima.entries``), and none tells of a violation (``ima.violations``).
6. Behind an earlier recording of the same host no counter of the TPM went back, and a log that
   begins later begins where the proven one ended, in the same power-on.
7. Without reference values nothing is affirmed: a quote that holds says that a TPM signed, and not
   that what it signed is good.

A recording cannot be fresh, and cannot show that an attestation key lives in the TPM of an
endorsement key: that takes the exchange of section 4. ``rests_on`` says what was taken for granted.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, replace

from svetovid.crypto.canonical import b64decode
from svetovid.errors import EvidenceError, InputError, Reason
from svetovid.evidence.boot import Boot, judge, prove_boot
from svetovid.evidence.boot.explain import LINE_PCRS, line_digests
from svetovid.evidence.claims import Claim
from svetovid.evidence.covering import (
    log_claims,
    measurement_claim,
    reference_window,
    signer_claims,
)
from svetovid.evidence.ima import LogState, advance
from svetovid.evidence.recorded.bundle import RecordedEvidence
from svetovid.evidence.recorded.device import Authorities, ek_node
from svetovid.evidence.recorded.tree import (
    Node,
    Seen,
    Verdict,
    absent,
    over,
    refused,
    told,
    unproven,
)
from svetovid.evidence.recorded.values import pcr_values, quoted_bank
from svetovid.evidence.references import Current, ReferenceValues
from svetovid.evidence.tpm import (
    Attest,
    ClockInfo,
    Public,
    check_ak,
    endorsement_signers,
    name,
    parse_attest,
    parse_public,
    parse_signature,
    public_key,
    verify_quote,
)
from svetovid.evidence.tpm.quote import check_no_reset
from svetovid.evidence.verify import NEEDED_PCRS

__all__ = ["Expectations", "appraise_recorded"]

_RECORDING = "the recording"
_SHOWN = 200
_NOTHING = Reason(
    code="reference.none",
    expected="reference values to hold the measured files against",
    observed="not given",
    next_step="name with --reference the values that you believe",
)


@dataclass(frozen=True, slots=True)
class Expectations:
    """What a reader brings.

    Attributes:
        now: Unix seconds at which certificates and reference values are judged.
        nonce: what the quote must carry.
        ak_name: the name of the attestation key that was enrolled.
        references: reference values that the reader believes; none of them affirms nothing.
        authorities: of TPM makers that the reader believes.
        seen: what an earlier recording of the same host proved.
        offset: entries of the log that the reader did not ask for again; 0 for the whole log.
    """

    now: int
    nonce: bytes | None = None
    ak_name: bytes | None = None
    references: Sequence[ReferenceValues] = ()
    authorities: Authorities | None = None
    seen: Seen | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class _Quoted:
    """A quote that holds."""

    said: Attest
    bank: str
    pcrs: dict[int, bytes]


def _ak(evidence: RecordedEvidence, ak: Public, wanted: Expectations) -> Node:
    try:
        check_ak(ak)
        own = name(ak)
        for known in (wanted.ak_name, evidence.ak_name and bytes.fromhex(evidence.ak_name)):
            if known and not hmac.compare_digest(known, own):
                raise EvidenceError(
                    "ak.name",
                    expected=known.hex(),
                    observed=own.hex(),
                    next_step="quote with the attestation key that was enrolled",
                )
    except (InputError, EvidenceError) as e:
        return refused("tpm.ak", e, "TPM 2.0 Library, Part 1")
    return Node(
        "tpm.ak",
        True,
        f"{own.hex()}, a restricted signing key",
        "the key that was enrolled" if wanted.ak_name else "a restricted signing key of a TPM",
        "--ak" if wanted.ak_name else "TPM 2.0 Library, Part 1",
    )


def _expected_data(evidence: RecordedEvidence, wanted: Expectations, said: Attest) -> bytes:
    if wanted.nonce is not None:
        return wanted.nonce
    return said.extra_data if evidence.nonce is None else bytes.fromhex(evidence.nonce)


def _nonce(evidence: RecordedEvidence, wanted: Expectations, said: Attest) -> Node:
    own = wanted.nonce is not None
    if not own and evidence.nonce is None:
        return absent("tpm.nonce", "what the quote should carry", "--nonce")
    source = "--nonce" if own else _RECORDING
    return Node("tpm.nonce", True, said.extra_data.hex(), "the same", source)


def _quote(
    evidence: RecordedEvidence, ak: Public, ek: bytes | None, wanted: Expectations
) -> tuple[Node, _Quoted | None]:
    source = "TPM 2.0 Library, Part 2, and what was recorded"
    attest, signature = b64decode(evidence.quote), b64decode(evidence.sig)
    try:
        hash_alg, said = parse_signature(signature).hash, parse_attest(attest)
    except EvidenceError as e:
        return refused("tpm.quote", e, source), None
    bank = quoted_bank(said)
    try:
        verified = verify_quote(
            attest,
            signature,
            ak=ak,
            signers=_signers(ak, ek, said),
            extra_data=_expected_data(evidence, wanted, said),
            pcrs=(pcrs := pcr_values(evidence, said, hash_alg)),
            needed=NEEDED_PCRS,
            bank=bank,
        )
        _check_clock(wanted.seen, verified.clock)
    except (InputError, EvidenceError) as e:
        return refused("tpm.quote", e, source), None
    clock = verified.clock
    counts = f"reset {clock.reset_count}, restart {clock.restart_count}, {clock.clock} ms"
    claims = (
        _nonce(evidence, wanted, said),
        Node("tpm.clock", True, counts + ("" if clock.safe else ", not safe"), source="quote"),
    )
    shown = f"signed over PCR {sorted(pcrs)} of the {bank} bank"
    node = Node("tpm.quote", True, shown, "a quote by the key over PCR 0 to 10", source)
    return over(node, claims), _Quoted(said, bank, pcrs)


def _check_clock(seen: Seen | None, clock: ClockInfo) -> None:
    """A reset since then is no fault: whether the log may go on is the log's to say."""
    try:
        if seen is not None:
            check_no_reset(seen.clock, clock)
    except EvidenceError as e:
        if e.code != "tpm.reset":
            raise


def _signers(ak: Public, ek: bytes | None, said: Attest) -> frozenset[bytes]:
    """Whose name may stand in the quote. Without a good EK any may: ``tpm.ek`` is not ok then."""
    try:
        return endorsement_signers(parse_public(ek or b""), ak)
    except InputError:
        return frozenset({said.qualified_signer})


def _boot(evidence: RecordedEvidence, quoted: _Quoted) -> Boot | Reason | None:
    if evidence.bios is None:
        return None
    try:
        return prove_boot(b64decode(evidence.bios), quoted.pcrs, quoted.bank)
    except (InputError, EvidenceError) as e:
        return e.reason


def _command_line(line: str, boot: Boot) -> Node:
    """What was recorded as the command line is one that was measured."""
    measured = {p: {value for _, value in boot.events.get(p, ())} for p in LINE_PCRS}
    found = line.isascii() and [
        p for p in LINE_PCRS if line_digests(line, p, boot.bank) & measured[p]
    ]
    source = _RECORDING
    if found:
        return Node("boot.cmdline", True, f"{line[:200]} (PCR {found})", "measured", source)
    if not any(measured.values()):
        return Node("boot.cmdline", None, "nothing measured a command line", "measured", source)
    return Node(
        "boot.cmdline",
        False,
        f"not measured: {line[:200]!r}",
        "a command line that the boot log has",
        source,
        "boot.cmdline",
        "record the command line of this boot",
    )


def _boot_node(evidence: RecordedEvidence, boot: Boot | Reason | None, judged: list[Node]) -> Node:
    if boot is None:
        missing = absent("boot_log", "a TCG event log", "quote")
        return over(missing, judged)
    if isinstance(boot, Reason):
        return over(refused("boot_log", boot, "quote"), judged)
    secure, name = boot.secure_boot, "boot.secure_boot"
    claims = [c for c in judged if c.name != name]
    shown = "; ".join([secure.why, *secure.authorities])[:_SHOWN]
    claims.append(Node(name, secure.enabled or None, shown, source="PCR 7"))
    if evidence.cmdline is not None:
        claims.append(_command_line(evidence.cmdline, boot))
    explains = f"explains {len(boot.quoted & set(range(15)))} quoted PCRs"
    return over(Node("boot_log", True, explains, "the quoted PCRs, replayed", "quote"), claims)


def _replayed(
    evidence: RecordedEvidence, quoted: _Quoted, boot: Boot | Reason | None, wanted: Expectations
) -> tuple[Node, LogState | None]:
    if evidence.ima is None:
        why = Reason(
            code="ima.missing",
            expected="the measurement log",
            observed="not given",
            next_step="record binary_runtime_measurements after the quote",
        )
        return refused("ima.replay", why, "quote"), None
    try:
        state = advance(
            wanted.seen.log if wanted.seen and wanted.offset else None,
            b64decode(evidence.ima),
            offset=wanted.offset,
            pcrs=quoted.pcrs,
            clock=quoted.said.clock,
            banks=boot.values if isinstance(boot, Boot) else None,
            bank=quoted.bank,
        )
    except (InputError, EvidenceError) as e:
        return refused("ima.replay", e, "quote"), None
    later = f", {len(state.pending)} later than the quote" if state.pending else ""
    shown = f"{state.count} entries give PCR 10{later}"
    return Node("ima.replay", True, shown, "PCR 10 as quoted", "quote"), state


def _entries(state: LogState, wanted: Expectations, current: Current) -> list[Node]:
    """``ima.entries`` and ``ima.violations``."""
    *mismatches, files, violations = log_claims(state, current)
    if not wanted.references:
        entries = refused("ima.entries", _NOTHING, "--reference")
    else:
        below = [told(c) for c in (*mismatches, *signer_claims(current))]
        entries = over(told(files, "ima.entries"), below)
    return [entries, told(violations, "ima.violations")]


def _window(wanted: Expectations) -> tuple[Current, Node]:
    if not wanted.references:
        return Current.at((), wanted.now), refused("reference", _NOTHING, "--reference")
    current, claim = reference_window(wanted.references, wanted.now)
    return current, told(claim, "reference")


def appraise_recorded(evidence: RecordedEvidence, wanted: Expectations) -> Verdict:
    """Judge a recording; the module's text lists the rules.

    Raises:
        InputError: ``json.base64``, ``attest.malformed``, ``tpm.malformed``, where quote, signature
            or attestation key cannot be read.
    """
    ak_public, ek = evidence.public_areas()
    ak = parse_public(ak_public)
    public_key(ak)
    certificates = [b64decode(c) for c in evidence.ek_certificates]
    device, simulated = ek_node(ek, certificates, wanted.authorities, wanted.now)
    quote, quoted = _quote(evidence, ak, ek, wanted)
    current, window = _window(wanted)
    logs: list[Node] = []
    judged: tuple[Claim, ...] = ()
    state: LogState | None = None
    if quoted is None:
        names = ("boot_log", "ima.replay", "ima.entries", "ima.violations")
        logs = [unproven(n, "tpm.quote") for n in names]
    else:
        boot = _boot(evidence, quoted)
        replayed, state = _replayed(evidence, quoted, boot, wanted)
        if state is None:
            rest = [unproven(n, "ima.replay") for n in ("ima.entries", "ima.violations")]
        else:
            judged = judge(boot, state, current)
            rest = _entries(state, wanted, current)
        logs = [_boot_node(evidence, boot, [told(c) for c in judged]), replayed, *rest]
    measurement = measurement_claim(state, judged)
    words = [
        replace(told(measurement), observed=f"{measurement.value}: {measurement.observed}"),
        Node("simulated", None if simulated else True, str(simulated).lower(), "false", "T4"),
    ]
    return Verdict(
        claims=(quote, _ak(evidence, ak, wanted), device, window, *logs, *words),
        measurement=str(measurement.value),
        simulated=simulated,
        rests_on=_rests_on(wanted),
        seen=Seen(state, quoted.said.clock) if quoted and state else None,
    )


def _rests_on(wanted: Expectations) -> tuple[str, ...]:
    found = []
    if wanted.ak_name is None:
        found.append(
            "the attestation key is the one that was enrolled: a recording cannot show that it "
            "lives in this TPM (--ak names it)"
        )
    if wanted.nonce is None:
        found.append("nothing says when this was recorded (--nonce does, to whoever chose it)")
    return tuple(found)
