"""One owner's view: T2, T4; M4, M5, M19, I8."""

from __future__ import annotations

import hashlib

import pytest

from evidence.authorities import NOW, Authority, anchors
from evidence.ima_bytes import fields, raw_entry
from evidence.small_world import FILES, OPERATOR, World
from svetovid.crypto import b64encode, digest
from svetovid.errors import EvidenceError
from svetovid.evidence import ReferenceValues, appraise
from svetovid.evidence.appraisal import Appraisal

KEYS = {
    "kind",
    "measurement",
    "simulated",
    "host",
    "host_name",
    "operator",
    "machine_owner",
    "log_entries",
    "unchecked_files",
    "anchor",
    "affirmed",
    "reset_count",
    "restart_count",
    "secure_boot",
}


def codes(appraisal):
    assert appraisal.affirmed is False
    assert all(r.next_step and r.clause for r in appraisal.reasons())
    return [r.code for r in appraisal.reasons()]


def claim(appraisal, name):
    return next(c for c in appraisal.claims if c.name == name)


def test_good_host():
    world = World()
    appraisal = world.appraise()
    assert appraisal.affirmed
    assert appraisal.reasons() == []
    assert set(appraisal.facts()) == KEYS
    assert appraisal.facts() == {
        "kind": "tpm",
        "measurement": "launcher",
        "secure_boot": False,
        "simulated": False,
        "host": world.record.host_id,
        "host_name": "node-1",
        "operator": OPERATOR.key_id,
        "machine_owner": "University",
        "log_entries": 6,
        "unchecked_files": 0,
        "anchor": "Vendor root",
        "affirmed": True,
        "reset_count": 3,
        "restart_count": 1,
    }


def test_t4_kernel_cannot_be_claimed():
    """A boot log earns nothing where the owner's reference values do not speak of the boot."""
    world = World()
    plain = world.appraise()
    claimed = world.appraise(world.verify(world.evidence(boot_log=b64encode(b"Spec ID Event03"))))
    for appraisal in (plain, claimed):
        assert appraisal.affirmed
        assert appraisal.facts()["measurement"] == "launcher"
        assert "no reference values" in claim(appraisal, "measurement").observed
        assert "appraised boot log" in claim(appraisal, "measurement").expected


def test_t2_each_owner_judges_by_its_own():
    world = World()
    proven = world.verify()
    stranger = anchors(Authority("Another vendor").anchor())
    appraisal = world.appraise(proven, anchors=stranger)
    assert codes(appraisal) == ["ek.untrusted"]
    assert (appraisal.facts()["simulated"], appraisal.facts()["anchor"]) == (True, "")
    assert world.appraise(proven).affirmed
    assert codes(world.appraise(proven, anchors=anchors(world.root.anchor("tee")))) == [
        "ek.untrusted"
    ]


def test_i8_simulator_under_any_flag():
    world = World(root=Authority("SIMULATED TPM authority"))
    appraisal = world.appraise(anchors=anchors(world.root.anchor(simulated=False)))
    assert appraisal.affirmed
    assert appraisal.facts()["simulated"] is True
    assert "whoever runs the host" in claim(appraisal, "simulated").observed


def test_expired_certificate():
    world = World()
    proven = world.verify()
    assert codes(world.appraise(proven, now=NOW + 5000)) == ["ek.expired"]


def test_unlisted_file():
    world = World()
    world.measure("/opt/evil.sh", digest(b"evil"))
    appraisal = world.appraise()
    assert codes(appraisal) == ["ima.unlisted", "ima.unlisted"]
    assert "/opt/evil.sh" in appraisal.reasons()[0].observed
    assert "runtime v1" in appraisal.reasons()[0].clause


def test_listed_file_with_another_digest():
    world = World(files={**FILES, "/opt/runtime/lib1.so": digest(b"patched")})
    appraisal = world.appraise()
    assert codes(appraisal) == ["ima.digest", "ima.digest"]
    assert appraisal.reasons()[0].expected == FILES["/opt/runtime/lib1.so"]


def test_findings_stay_when_the_log_goes_on():
    world = World()
    world.measure("/opt/evil.sh", digest(b"evil"))
    first = world.verify()
    references = [world.references]
    assert codes(world.appraise(first, references=references)) == ["ima.unlisted"] * 2
    world.challenge = world.make_challenge(log_offset=first.log.count)
    world.measure("/opt/runtime/lib1.so", FILES["/opt/runtime/lib1.so"])
    later = world.verify(log=first.log)
    assert codes(world.appraise(later, references=references)) == ["ima.unlisted"] * 2


def test_m19_pending_lines_are_appraised_too():
    world = World()
    pcr = world.tpm.pcrs[10]
    world.measure("/opt/evil.sh", digest(b"evil"))
    world.tpm.pcrs[10] = pcr
    proven = world.verify()
    assert (proven.log.count, len(proven.log.pending)) == (6, 1)
    assert codes(world.appraise(proven)) == ["ima.unlisted", "ima.unlisted"]


@pytest.mark.parametrize("path", [b"/opt/runtime/lib0.so", b"/tmp/anything"])
@pytest.mark.parametrize("zeros", [True, False])
def test_m4_m5_a_violation_is_refused_whatever_its_path(path, zeros):
    world = World()
    good = bytes.fromhex(FILES["/opt/runtime/lib0.so"][7:])
    line = raw_entry(path, bytes(32) if zeros else good, sha1=bytes(20))
    world.append(line, b"\xff" * 32)
    proven = world.verify()
    appraisal = world.appraise(proven)
    assert codes(appraisal) == ["ima.violation"]
    assert path.decode() in appraisal.reasons()[0].observed


def window(start, end):
    return ReferenceValues(
        product="runtime",
        version=1,
        files={p: (d,) for p, d in FILES.items()},
        valid_from=start,
        valid_until=end,
    )


@pytest.mark.parametrize(
    ("start", "end", "good"),
    [
        (NOW, NOW, True),
        (None, NOW, True),
        (NOW, None, True),
        (NOW + 1, None, False),
        (None, NOW - 1, False),
    ],
)
def test_reference_values_outside_their_time_count_for_nothing(start, end, good):
    world = World()
    appraisal = world.appraise(references=[window(start, end)])
    assert appraisal.affirmed is good
    if not good:
        assert "reference.expired" in codes(appraisal)
        assert "ima.unlisted" in codes(appraisal)
    other = ReferenceValues(product="other", version=2)
    assert world.appraise(references=[window(start, end), other]).affirmed is good


def test_no_reference_values_at_all():
    assert "reference.expired" in codes(World().appraise(references=[]))


def test_m15_a_signers_key_that_cannot_be_read():
    world = World()
    named = world.references.model_copy(update={"file_signers": (b64encode(b"no key"),)})
    appraisal = world.appraise(references=[named])
    assert codes(appraisal) == ["ima.signer"]
    assert "runtime v1" in appraisal.reasons()[0].clause


def test_m15_a_signed_file_that_nobody_listed():
    from evidence.test_ima_templates import P256, RSA, signed, spki

    world = World()
    body = fields(
        b"sha256:\0" + hashlib.sha256(b"new").digest(), b"/opt/new\0", signed(P256, b"new")
    )
    line = raw_entry(template=b"ima-sig", body=body)
    world.append(line, hashlib.sha256(body).digest())
    by = {
        name: world.references.model_copy(update={"file_signers": (b64encode(spki(key)),)})
        for name, key in {"good": P256, "stranger": RSA}.items()
    }
    assert world.appraise(references=[by["good"]]).affirmed
    assert codes(world.appraise(references=[by["stranger"]])) == ["ima.sig_key"] * 2
    assert codes(world.appraise()) == ["ima.sig_key"] * 2


def test_record_of_another_host():
    world = World()
    other = World()
    other.statement = other.statement.model_copy(update={"host": "node-2"})
    with pytest.raises(EvidenceError) as e:
        appraise(world.verify(), other.make_record(), world.anchors, [world.references], now=NOW)
    assert e.value.code == "evidence.host"


def test_nothing_claimed_is_nothing_affirmed():
    assert Appraisal((), ()).affirmed is False


def test_public_names_are_sorted_and_there():
    import svetovid.evidence as room
    from svetovid.evidence import boot, ima, tpm

    for module in (room, boot, ima, tpm):
        names = module.__all__
        assert names == sorted(names, key=lambda n: (n.upper() != n, n[0].islower(), n))
        assert all(hasattr(module, n) for n in names)
