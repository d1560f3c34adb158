"""Quotes: attacks TS5-TS7, TS9, P1, P2, P5-P7, F7, F9, I2; genuine quotes of a software TPM."""

from __future__ import annotations

import hashlib
import struct

import pytest

from evidence import vectors
from evidence.forger import Forger
from svetovid.errors import EvidenceError, SvetovidError
from svetovid.evidence.ima import advance, boot_aggregate_digest, parse_log, replay
from svetovid.evidence.tpm import (
    ClockInfo,
    check_no_reset,
    endorsement_signers,
    parse_public,
    verify_quote,
)
from svetovid.evidence.tpm.attributes import check_ak
from tpmbytes import ECDSA, RSAPSS, RSASSA, SHA256, SHA384, SHA512, b2, bitmap, qualified

NEEDED = frozenset(range(11))
EXTRA = hashlib.sha256(b"binding").digest()


def verify(tpm, quote, **changes):
    data, signature = quote
    ak = parse_public(changes.pop("ak", tpm.ak))
    arguments = {
        "ak": ak,
        "signers": {qualified(tpm.ak)},
        "extra_data": EXTRA,
        "pcrs": tpm.pcrs,
        "needed": NEEDED,
        **changes,
    }
    return verify_quote(data, signature, **arguments)


def refused(code, tpm, quote, **changes):
    with pytest.raises(EvidenceError) as e:
        verify(tpm, quote, **changes)
    assert e.value.code == code
    assert e.value.reason.next_step


@pytest.mark.parametrize("scheme", [ECDSA, RSASSA, RSAPSS])
@pytest.mark.parametrize("hash_alg", [SHA256, SHA384, SHA512])
def test_good_quotes(scheme, hash_alg):
    tpm = Forger(scheme, hash_alg)
    said = verify(tpm, tpm.quote(EXTRA))
    assert said.clock == ClockInfo(1000, 3, 1, True)


@pytest.mark.parametrize("scheme", [ECDSA, RSASSA, RSAPSS])
def test_a_changed_byte_anywhere_is_refused(scheme):
    """a verify() that returned before the signature would accept some of these."""
    tpm = Forger(scheme)
    data, signature = tpm.quote(EXTRA)
    for i in range(len(data)):
        bad = data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]
        with pytest.raises(SvetovidError) as e:
            verify(tpm, (bad, signature))
        assert e.value.code.split(".")[0] in {"attest", "sig", "challenge"}
    for i in range(4, len(signature), 7):
        bad = signature[:i] + bytes([signature[i] ^ 1]) + signature[i + 1 :]
        with pytest.raises(SvetovidError) as e:
            verify(tpm, (data, bad))
        assert e.value.code in {"sig.invalid", "tpm.malformed"}


def test_clock_is_covered_by_the_signature():
    tpm = Forger()
    data, signature = tpm.form(EXTRA, resets=9).pack(), tpm.quote(EXTRA)[1]
    refused("sig.invalid", tpm, (data, signature))


def test_ts5_scheme_of_another_kind():
    tpm = Forger(RSASSA)
    data = tpm.form(EXTRA).pack()
    refused("sig.scheme", tpm, (data, tpm.sign(data, scheme=RSAPSS)))
    refused("sig.scheme", tpm, (data, tpm.sign(data, hash_alg=SHA384)))


ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.mark.parametrize("r", [0, ORDER, ORDER + 1, 2**256 - 1])
@pytest.mark.parametrize("which", [0, 1])
def test_ts6_ecdsa_numbers(r, which):
    tpm = Forger()
    data, signature = tpm.quote(EXTRA)
    parts = [signature[6:38], signature[40:72]]
    parts[which] = r.to_bytes(32, "big")
    refused("sig.invalid", tpm, (data, signature[:4] + b2(parts[0]) + b2(parts[1])))


def test_i2_signed_by_another_key():
    tpm, other = Forger(), Forger()
    data = tpm.form(EXTRA).pack()
    refused("sig.invalid", tpm, (data, other.sign(data)))


def test_ts7_signer_name():
    tpm, other = Forger(), Forger()
    refused("attest.signer", tpm, tpm.quote(EXTRA, signer=qualified(other.ak)))
    refused("attest.signer", tpm, tpm.quote(EXTRA, signer=b""))
    owner = qualified(tpm.ak, struct.pack(">I", 0x40000001))
    refused("attest.signer", tpm, tpm.quote(EXTRA, signer=owner))


def test_ts9_digest_with_another_hash():
    tpm = Forger()
    values = b"".join(tpm.pcrs.values())
    refused("pcr.digest", tpm, tpm.quote(EXTRA, digest=hashlib.sha384(values).digest()))


@pytest.mark.parametrize("extra", [EXTRA[:-1], EXTRA + b"\0", b"", bytes(32), EXTRA[:31] + b"\0"])
def test_f7_extra_data_is_compared_whole(extra):
    tpm = Forger()
    refused("challenge.mismatch", tpm, tpm.quote(extra))


def test_p1_missing_pcrs():
    tpm = Forger()
    refused("pcr.missing", tpm, tpm.quote(EXTRA, selections=()))
    refused("pcr.missing", tpm, tpm.quote(EXTRA, selections=(bitmap(()),)))
    refused("pcr.missing", tpm, tpm.quote(EXTRA, selections=(bitmap(range(10)),)))


def test_p2_other_banks():
    """P2, P3."""
    tpm = Forger()
    refused("pcr.bank", tpm, tpm.quote(EXTRA, selections=(bitmap(range(11), 0x0004),)))
    both = (bitmap(range(11)), bitmap(range(11), 0x000C))
    refused("pcr.bank", tpm, tpm.quote(EXTRA, selections=both))
    short = {**tpm.pcrs, 3: bytes(20)}
    refused("pcr.bank", tpm, tpm.quote(EXTRA), pcrs=short)


def test_p5_selection():
    tpm = Forger()
    twice = (bitmap(range(11)), bitmap(range(11)))
    refused("pcr.selection", tpm, tpm.quote(EXTRA, selections=twice))
    refused("pcr.selection", tpm, tpm.quote(EXTRA), pcrs={**tpm.pcrs, 11: bytes(32)})
    refused("pcr.selection", tpm, tpm.quote(EXTRA), pcrs={i: bytes(32) for i in range(10)})


def test_p6_values_differ_from_the_digest():
    tpm = Forger()
    for i in range(11):
        refused("pcr.digest", tpm, tpm.quote(EXTRA), pcrs={**tpm.pcrs, i: b"\1" + bytes(31)})
    swapped = {**tpm.pcrs, 0: b"a" * 32}
    tpm.pcrs[1] = b"a" * 32
    refused("pcr.digest", tpm, tpm.quote(EXTRA), pcrs=swapped)


def test_p7_resettable_pcrs_never_count():
    tpm = Forger()
    tpm.pcrs |= {16: bytes(32), 23: bytes(32)}
    verify(tpm, tpm.quote(EXTRA))
    for pcr in (16, 23):
        refused("pcr.resettable", tpm, tpm.quote(EXTRA), needed=NEEDED | {pcr})


@pytest.mark.parametrize(
    ("later", "code"),
    [
        (ClockInfo(5000, 3, 1, True), ""),
        (ClockInfo(6000, 3, 1, False), ""),
        (ClockInfo(4999, 3, 1, True), "tpm.clock_rollback"),
        (ClockInfo(9000, 2, 1, True), "tpm.clock_rollback"),
        (ClockInfo(9000, 2, 5, True), "tpm.clock_rollback"),
        (ClockInfo(9000, 3, 0, True), "tpm.clock_rollback"),
        (ClockInfo(9000, 4, 0, True), "tpm.reset"),
        (ClockInfo(9000, 4, 1, True), "tpm.reset"),
        (ClockInfo(10, 4, 0, False), "tpm.reset"),
        (ClockInfo(9000, 3, 2, True), "tpm.reset"),
    ],
)
def test_f9_clock(later, code):
    """F9 and T12: a lease ends with a TPM reset or restart."""
    earlier = ClockInfo(5000, 3, 1, True)
    if not code:
        check_no_reset(earlier, later)
        return
    with pytest.raises(EvidenceError) as e:
        check_no_reset(earlier, later)
    assert e.value.code == code


@pytest.mark.parametrize("boot", vectors.BOOTS)
def test_genuine_kernel_log_under_a_genuine_quote(boot):
    v = vectors.boot(boot)
    ak, ek = parse_public(v.ak), parse_public(v.ek)
    said = verify_quote(
        v.quote,
        v.signature,
        ak=ak,
        signers=endorsement_signers(ek, ak),
        extra_data=v.nonce,
        pcrs=v.pcrs,
        needed=NEEDED,
    )
    state = advance(None, v.ima, offset=0, pcrs=v.pcrs, clock=said.clock)
    assert (state.count, state.pending, state.violations) == (42, (), 0)


def test_genuine_log_with_a_violation():
    v = vectors.violated()
    ak = parse_public(v["ak"])
    check_ak(ak)
    pcrs = vectors.event_log_pcrs(v["bios"])
    entries = parse_log(v["ima"])
    pcr = bytes(32)
    for e in entries:
        pcr = hashlib.sha256(pcr + e.extension).digest()
    pcrs[10] = pcr
    said = verify_quote(
        v["quote"],
        v["sig"],
        ak=ak,
        signers=endorsement_signers(ak, ak),
        extra_data=v["nonce"],
        pcrs=pcrs,
        needed=NEEDED,
    )
    state = advance(None, v["ima"], offset=0, pcrs=pcrs, clock=said.clock)
    assert entries[0].digest == boot_aggregate_digest(pcrs)
    assert replay(entries, bytes(32), pcr) == len(entries) == 85
    assert [e.path for e in state.entries if e.violation] == ["/opt/train.py"]
    assert state.violations == 1
