"""Recorded evidence: what is affirmed, and each thing that is not, by its code."""

from __future__ import annotations

import hashlib
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from evidence import vectors
from evidence.authorities import NOW
from evidence.forger import RSA_AK, Forger
from evidence.ima_bytes import raw_entry
from evidence.recordings import FILES, NONCE, Recording, claim, codes
from svetovid.crypto import b64decode, b64encode, digest
from svetovid.errors import InputError
from svetovid.evidence import BootReferences, ReferenceValues
from svetovid.evidence.boot import prove_boot
from svetovid.evidence.ima import build_entry, parse_log
from svetovid.evidence.recorded import (
    Expectations,
    RecordedEvidence,
    appraise_recorded,
    from_files,
    parse_nonce,
    read_authorities,
)
from svetovid.evidence.recorded.tpm2tools import parse_pcrs
from tpmbytes import RSAPSS, RSASSA, SHA256, SHA384, SHA512, bitmap, ek_public

TOP = ("tpm.quote", "tpm.ak", "tpm.ek", "reference", "boot_log", "ima.replay", "ima.entries")
GENUINE = 1_795_300_000
"""Unix seconds at which the certificates of the committed vectors are valid."""


def read(name: str) -> RecordedEvidence:
    folder = vectors.ROOT / name
    return from_files({p.name: p.read_bytes() for p in folder.iterdir()})


def genuine(**changes: object) -> Expectations:
    ca = b"".join(
        (vectors.ROOT / n).read_bytes() for n in ("issuercert.pem", "swtpm-localca-rootca-cert.pem")
    )
    return Expectations(**{"now": GENUINE, "authorities": read_authorities(ca), **changes})


def own_files(evidence: RecordedEvidence) -> ReferenceValues:
    """Reference values made of a recording's own measurement log."""
    entries = parse_log(b64decode(evidence.ima or ""))
    files: dict[str, tuple[str, ...]] = {}
    for e in entries:
        if not (e.aggregate or e.violation):
            files[e.path] = (*files.get(e.path, ()), e.named_digest)
    return ReferenceValues(product="guest", version=1, files=files)


# -- affirmed


def test_a_recording_that_holds_is_affirmed_and_says_what_it_rests_on():
    verdict = Recording().judged()
    assert verdict.affirmed
    assert verdict.reasons() == ()
    assert [c.name for c in verdict.claims] == [*TOP, "ima.violations", "measurement", "simulated"]
    assert verdict.measurement == "launcher"
    assert not verdict.simulated
    assert len(verdict.rests_on) == 1
    assert "enrolled" in verdict.rests_on[0]
    said = verdict.to_json()
    assert said["verdict"] == "affirmed"
    assert said["claims"][0]["claims"][0]["name"] == "tpm.nonce"


def test_t4_a_known_kernel_is_measurement_kernel():
    r = Recording()
    verdict = r.judged(wants={"references": [r.boot_references]})
    assert verdict.affirmed
    assert verdict.measurement == "kernel"


def test_every_line_counts_though_a_prefix_gives_pcr_10():
    """M19: a log that is read after the quote is longer, and its last lines are looked at too."""
    r = Recording()
    late = build_entry("/opt/runtime/lib0.so", FILES["/opt/runtime/lib0.so"])
    assert r.judged(ima=b64encode(b"".join([*r.lines, late]))).affirmed
    evil = build_entry("/tmp/evil", digest(b"evil"))
    bad = r.judged(ima=b64encode(b"".join([*r.lines, evil])))
    assert codes(bad) == {"ima.unlisted"}
    assert claim(bad, "ima.replay").ok is True


@pytest.mark.parametrize("bank", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize(
    ("scheme", "hash_alg"),
    [(RSASSA, SHA256), (RSAPSS, SHA256), (RSAPSS, SHA384), (RSASSA, SHA512), (None, SHA384)],
)
def test_every_bank_scheme_and_hash(bank, scheme, hash_alg):
    """SHA-256, -384, -512 banks; RSASSA, RSAPSS, ECDSA on P-384; what is listed is of that bank."""
    curve = ec.SECP384R1() if scheme is None else None
    more = {} if scheme is None else {"scheme": scheme}
    r = Recording(bank=bank, hash=hash_alg, curve=curve, banks=(bank,), **more)
    verdict = r.judged()
    assert verdict.affirmed, verdict.reasons()
    boot = prove_boot(r.fw.log(), r.tpm.pcrs, bank)
    listed = {
        str(p): {str(i): (v,) for i, (_, v) in enumerate(found)} for p, found in boot.events.items()
    }
    kernel = boot.events[4][-1][1]
    allowed = BootReferences(
        kernels={"linux": (kernel,)},
        command_lines=(r.recorded().cmdline,),
        events=listed,
        measured=tuple(FILES)[:1],
    )
    values = r.references.model_copy(update={"boot": allowed})
    verdict = r.judged(wants={"references": [values]})
    assert verdict.affirmed, verdict.reasons()
    assert verdict.measurement == "kernel"


@pytest.mark.parametrize("name", vectors.BOOTS)
def test_genuine_recordings(name):
    """A guest under QEMU: affirmed with reference values of its own log, and always simulated."""
    evidence = read(name)
    wanted = genuine(references=[own_files(evidence)], nonce=bytes.fromhex(evidence.nonce or ""))
    verdict = appraise_recorded(evidence, wanted)
    assert verdict.affirmed, verdict.reasons()
    assert verdict.simulated
    assert verdict.measurement == "launcher"


def test_a_genuine_recording_with_a_listed_kernel():
    evidence = read("ovmf-tpm-crb")
    values = evidence.bank_values()
    assert values
    boot = prove_boot(b64decode(evidence.bios or ""), values["sha256"])
    application = "sha256:33671f3678d7d2fd6c39958febf442b8d4ed5e512bb14b6c9e84196170e7b564"
    initrd = "sha256:7718ada5463a0d25ce7338b798aa84ed0a848400c0ec732936f23163d3d57a86"
    allowed = BootReferences(
        kernels={"Debian 6.1": (application,)},
        command_lines=(evidence.cmdline or "",),
        events={
            "0": {str(i): (value,) for i, (_, value) in enumerate(boot.events[0])},
            "9": {"initrd": (initrd,)},
        },
        measured=(parse_log(b64decode(evidence.ima or ""))[5].path,),
    )
    listed = own_files(evidence).model_copy(update={"boot": allowed})
    verdict = appraise_recorded(evidence, genuine(references=[listed]))
    assert verdict.affirmed, verdict.reasons()
    assert verdict.measurement == "kernel"
    assert verdict.simulated


def test_m4_a_genuine_violation_is_refused():
    """Its PCR values were not recorded: the logs give them, and nothing else has their digest."""
    evidence = RecordedEvidence.parse((vectors.ROOT / "live_after_violation.json").read_bytes())
    verdict = appraise_recorded(evidence, genuine(references=[own_files(evidence)]))
    assert codes(verdict) == {"ek.missing", "ima.violation"}
    assert claim(verdict, "tpm.quote").ok
    assert claim(verdict, "ima.replay").ok
    assert "/opt/train.py" in claim(verdict, "ima.violations").observed


# -- nothing is affirmed that nobody expects


def test_without_reference_values_nothing_is_affirmed():
    verdict = Recording().judged(wants={"references": []})
    assert codes(verdict) == {"reference.none"}
    assert claim(verdict, "ima.entries").ok is False
    assert claim(verdict, "ima.replay").ok


def test_reference_values_out_of_their_time():
    r = Recording()
    old = r.references.model_copy(update={"valid_until": NOW - 1})
    assert codes(r.judged(wants={"references": [old]})) == {"reference.expired", "ima.unlisted"}


def test_a_file_that_is_not_listed_and_one_that_differs():
    r = Recording()
    files = dict(r.references.files)
    files.pop("/opt/runtime/lib1.so")
    files["/opt/runtime/lib2.so"] = (digest(b"another"),)
    verdict = r.judged(wants={"references": [r.references.model_copy(update={"files": files})]})
    assert codes(verdict) == {"ima.unlisted", "ima.digest"}
    assert len(claim(verdict, "ima.entries").claims) == 2


def test_what_was_not_given():
    r = Recording()
    assert codes(r.judged(ek=None)) == {"ek.missing"}
    assert codes(r.judged(ek_certificates=[])) == {"ek.missing"}
    assert codes(r.judged(ima=None)) == {"ima.missing", "recorded.unproven"}
    plain = r.judged(bios=None)
    assert plain.affirmed
    assert claim(plain, "boot_log").ok is None
    assert claim(plain, "boot_log").observed == "not given"
    asked = r.judged(bios=None, wants={"references": [r.boot_references]})
    assert codes(asked) == {"boot.missing"}
    anonymous = r.judged(nonce=None, cmdline=None, wants={"nonce": None})
    assert anonymous.affirmed
    assert claim(anonymous, "tpm.nonce").ok is None
    assert any("when" in text for text in anonymous.rests_on)


# -- the quote


def test_f4_the_readers_nonce_beats_the_recorded_one():
    r = Recording()
    assert r.judged(nonce=None).affirmed
    assert codes(r.judged(wants={"nonce": b"another"})) >= {"challenge.mismatch"}
    assert codes(r.judged(nonce=b"another".hex(), wants={"nonce": None})) >= {"challenge.mismatch"}
    assert codes(r.judged(wants={"nonce": NONCE + b"\0"})) >= {"challenge.mismatch"}


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"magic": 0xFF544348}, "attest.magic"),
        ({"tag": 0x8017}, "attest.type"),
        ({"signer": bytes(34)}, "attest.signer"),
        ({"digest": bytes(32)}, "pcr.digest"),
        ({"selections": ()}, "pcr.missing"),
        ({"selections": (bitmap(range(9)),)}, "pcr.missing"),
        ({"selections": (bitmap(range(15)), bitmap(range(15)))}, "pcr.selection"),
        ({"selections": (bitmap(range(15), 4),)}, "pcr.bank"),
    ],
)
def test_t1_p1_a_quote_that_says_another_thing(form, code):
    """T1, T2, T7, T9, P1, P2, P5: whatever it rests on is not looked at."""
    verdict = Recording().judged(form=form)
    assert codes(verdict) == {code, "recorded.unproven"}
    assert verdict.reasons()[0] == code
    assert claim(verdict, "ima.entries").ok is False


def test_p3_p6_values_that_were_not_quoted():
    r = Recording()
    values = {str(i): v.hex() for i, v in r.tpm.pcrs.items()}
    both = {"sha256": values, "sha384": {"0": "00" * 48}}
    assert "pcr.selection" in codes(r.judged(pcrs=both))
    assert "pcr.selection" in codes(r.judged(pcrs={"sha384": values}))
    assert "pcr.digest" in codes(r.judged(pcrs={"sha256": {**values, "5": "00" * 32}}))
    assert "pcr.bank" in codes(r.judged(pcrs={"sha256": {**values, "5": "00" * 20}}))


def test_values_that_were_not_recorded_come_from_the_logs():
    r = Recording()
    late = build_entry("/opt/runtime/lib0.so", FILES["/opt/runtime/lib0.so"])
    assert r.judged(pcrs=None, ima=b64encode(b"".join([*r.lines, late]))).affirmed
    assert "pcr.underived" in codes(r.judged(pcrs=None, bios=None))
    assert "pcr.underived" in codes(r.judged(pcrs=None, ima=None))
    for more in (15, 16, 23):  # no log speaks of them
        selected = (bitmap([*range(15), more]),)
        assert "pcr.underived" in codes(r.judged(pcrs=None, form={"selections": selected}))
    assert "pcr.underived" in codes(r.judged(pcrs=None, ima=b64encode(b"".join(r.lines[:-1]))))
    cut = b64encode(b"".join(r.lines)[:-1])
    assert "ima.malformed" in codes(r.judged(pcrs=None, ima=cut))


def test_t6_i2_another_key_signed():
    r = Recording()
    other = Forger()
    assert "attest.signer" in codes(r.judged(ak=b64encode(other.ak)))
    own = r.recorded()
    r.tpm.key = other.key
    assert "sig.invalid" in codes(r.judged(sig=r.recorded().sig, quote=own.quote))


def test_i2_a_name_pins_the_key():
    """A forger's key under a genuine EK's name: only who knows the enrolled key can tell."""
    r = Recording()
    enrolled = r.judged()
    pinned = bytes.fromhex(claim(enrolled, "tpm.ak").observed.split(",")[0])
    assert r.judged(wants={"ak_name": pinned}).rests_on == ()
    forged = Recording(root=r.root)
    assert forged.judged().affirmed
    assert codes(forged.judged(wants={"ak_name": pinned})) == {"ak.name"}
    assert codes(forged.judged(ak_name=pinned.hex())) == {"ak.name"}


def test_i1_a_key_that_signs_anything():
    r = Recording()
    loose = struct.pack(">I", 0x00040072)
    ak = r.tpm.ak[:4] + loose + r.tpm.ak[8:]
    r.tpm.ak = ak
    assert codes(r.judged()) == {"ak.attributes"}


# -- boot and measurement logs


def test_a_boot_log_that_was_recorded_must_hold():
    """Even where no reference values speak of the boot."""
    r = Recording()
    log = r.fw.log()
    assert codes(r.judged(bios=b64encode(log[:-1]))) == {"boot.malformed"}
    r.fw.events.pop()
    assert codes(r.judged(bios=b64encode(r.fw.log()))) == {"boot.replay"}


def test_a_command_line_that_was_not_measured():
    r = Recording()
    assert codes(r.judged(cmdline="quiet")) == {"boot.cmdline"}
    assert codes(r.judged(cmdline="qui\u00e9t")) == {"boot.cmdline"}
    assert claim(r.judged(), "boot.cmdline").ok
    assert claim(appraise_recorded(read("direct1"), genuine()), "boot.cmdline").ok is None


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda lines: lines[:-1], "ima.replay"),
        (lambda lines: [*lines[:2], *lines[3:]], "ima.replay"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "ima.replay"),
        (lambda lines: lines[1:], "ima.boot_aggregate"),
        (lambda lines: [*lines[:-1], raw_entry(template=b"ima-x")], "ima.template_unknown"),
        (lambda lines: [*lines, raw_entry(sha1=b"\1" * 20)], "ima.template"),
        (lambda lines: [*lines, raw_entry(pcr=11)], "ima.pcr"),
        (lambda lines: [], "ima.boot_aggregate"),
    ],
)
def test_m1_m3_a_measurement_log_that_was_changed(change, code):
    """M1, M3, M6, M7, M13."""
    r = Recording()
    verdict = r.judged(ima=b64encode(b"".join(change(r.lines))))
    assert codes(verdict) == {code, "recorded.unproven"}


def test_m4_a_violation_counts_wherever_it_stands():
    r = Recording()
    zero = raw_entry(b"/opt/runtime/lib0.so", sha1=bytes(20))
    assert codes(r.judged(ima=b64encode(b"".join([*r.lines, zero])))) == {"ima.violation"}
    r.append(zero)
    assert codes(r.judged()) == {"ima.violation"}


def test_signers_that_cannot_be_read_are_named():
    r = Recording()
    values = r.references.model_copy(update={"file_signers": (b64encode(b"no key"),)})
    assert codes(r.judged(wants={"references": [values]})) == {"ima.signer"}


# -- what cannot be read


def test_t3_what_is_no_quote_key_or_signature_is_unreadable():
    r = Recording()
    for part in ("quote", "sig", "ak"):
        raw = b64decode(getattr(r.recorded(), part))
        for at in range(len(raw)):
            with pytest.raises(InputError) as e:
                assert r.judged(**{part: b64encode(raw[:at])}).affirmed
            assert e.value.code in ("attest.malformed", "tpm.malformed")
    with pytest.raises(InputError):
        r.judged(quote=b64encode(b64decode(r.recorded().quote) + b"\0"))
    with pytest.raises(InputError) as e:
        r.judged(quote="AAA")
    assert e.value.code == "json.base64"


def test_an_ek_that_cannot_be_read_is_a_claim():
    r = Recording()
    verdict = r.judged(ek=b64encode(r.ek[:40]))
    assert codes(verdict) == {"tpm.malformed"}
    assert claim(verdict, "tpm.quote").ok
    loose = b64encode(ek_public(RSA_AK, attributes=0x00050072))
    assert "ek.attributes" in codes(r.judged(ek=loose))


def test_i6_an_ek_that_is_not_the_certified_one():
    r = Recording()
    r.ek = ek_public(RSA_AK)
    verdict = r.judged(form={"signer": b"\x00\x0b" + hashlib.sha256(b"").digest()})
    assert codes(verdict) >= {"ek.key_mismatch", "attest.signer"}


def test_a_directory_needs_quote_signature_and_key():
    with pytest.raises(InputError) as e:
        from_files({"quote.msg": b"", "ima.bin": b""})
    assert e.value.code == "recorded.missing"
    files = {p.name: p.read_bytes() for p in (vectors.ROOT / "direct1").iterdir()}
    for name, content, code in (
        ("nonce.hex", b"xyz", "recorded.nonce"),
        ("nonce.hex", b"00" * 65, "recorded.nonce"),
        ("nonce.hex", b"\xff", "recorded.text"),
        ("cmdline.txt", b"\xff", "recorded.text"),
        ("cmdline.txt", b"x" * 5000, "document.invalid"),
        ("quote.pcrs", b"", "recorded.pcrs"),
    ):
        with pytest.raises(InputError) as e:
            from_files({**files, name: content})
        assert e.value.code == code
    assert parse_nonce("00ff") == b"\0\xff"


def test_tpm2_tools_pcr_files():
    raw = (vectors.ROOT / "direct1" / "quote.pcrs").read_bytes()
    assert parse_pcrs(raw) == {"sha256": vectors.boot("direct1").pcrs}
    assert parse_pcrs(struct.pack("<I", 0) + bytes(128) + bytes(4)) == {}
    wrong = {
        "count": struct.pack("<I", 17) + raw[4:],
        "bank": raw[:4] + b"\x12\0" + raw[6:],
        "bitmap": raw[:6] + b"\x09" + raw[7:],
        "pcr": raw[:6] + b"\4" + raw[7:10] + b"\1" + raw[11:],
        "selected": raw[:9] + b"\1" + raw[10:],
        "twice": struct.pack("<I", 2) + raw[4:12] * 2 + raw[20:],
        "lists": raw[:132] + struct.pack("<I", 3) + raw[136:],
        "many": raw[:136] + struct.pack("<I", 9) + raw[140:],
        "size": raw[:140] + b"\x14\0" + raw[142:],
        "longer": raw + b"\0",
        "shorter": raw[:-1],
    }
    for data in wrong.values():
        not_pcrs(data)


def not_pcrs(data: bytes) -> None:
    with pytest.raises(InputError) as e:
        parse_pcrs(data)
    assert e.value.code == "recorded.pcrs"


def pcr_file(
    selections: list[tuple[int, int]], lists: list[int], count: int | None = None
) -> bytes:
    """(bank, bitmap) of each selection, and how many SHA-256 values each list says that it has.

    Everything fits: what is wrong about the file is what a test changes, and nothing else.
    """
    data = struct.pack("<I", len(selections) if count is None else count)
    for bank, bits in selections:
        data += struct.pack("<HB4sx", bank, 3, bits.to_bytes(4, "little"))
    data = data.ljust(132, b"\0") + struct.pack("<I", len(lists))
    for values in lists:
        data += struct.pack("<I", values) + struct.pack("<H64s", 32, b"\1" * 32) * 8
    return data


def test_tpm2_tools_pcr_files_are_bounded():
    """However well the rest fits together."""
    assert parse_pcrs(pcr_file([(SHA256, 1)], [1])) == {"sha256": {0: b"\1" * 32}}
    assert parse_pcrs(pcr_file([(SHA256, 0)] * 16, [0] * 16)) == {}
    assert len(parse_pcrs(pcr_file([(SHA256, 0xFF)], [8]))["sha256"]) == 8
    # The number of lists reads as one more selection, of SHA-1 and no PCR.
    not_pcrs(pcr_file([(SHA256, 0)] * 16, [0] * 4, count=17))
    not_pcrs(pcr_file([(SHA256, 0)], [0] * 17))
    not_pcrs(pcr_file([(SHA256, 0x1FF)], [9]))


def test_a_value_is_recorded_once():
    """Which of two values of one PCR counts is nobody's to choose."""
    assert set(parse_pcrs(pcr_file([(SHA256, 1), (SHA384, 0)], [1]))) == {"sha256"}
    not_pcrs(pcr_file([(SHA256, 1), (SHA256, 1)], [2]))
