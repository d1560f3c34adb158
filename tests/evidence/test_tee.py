"""The simulated TEE: S1, S12 of the attack list, as far as a simulator has them."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.authorities import NOW, Authority, anchors
from evidence.forger import RSA_AK
from evidence.small_world import TeeWorld, World
from svetovid.crypto import b64encode, digest
from svetovid.errors import SvetovidError
from svetovid.evidence import ReferenceValues, appraise
from svetovid.evidence.tee import verify_report


def refused(code, world, evidence=None):
    with pytest.raises(SvetovidError) as e:
        world.verify(evidence)
    assert e.value.code == code
    return e.value


def values(*measurements):
    return [ReferenceValues(product="enclave", version=1, tee_measurements=measurements)]


def judge(world, kind="tee", simulated=False, references=None):
    return appraise(
        world.verify(),
        world.record,
        anchors(world.root.anchor(kind, simulated)),
        values(world.measurement) if references is None else references,
        now=NOW,
    )


def test_good_report_is_always_simulated():
    """T4: whatever the anchor's document says."""
    appraisal = judge(TeeWorld())
    assert appraisal.affirmed
    facts = appraisal.facts()
    assert (facts["kind"], facts["measurement"]) == ("simulated-tee", "enclave")
    assert facts["simulated"] is True
    assert facts["log_entries"] == facts["reset_count"] == 0
    assert judge(TeeWorld(root=Authority("Honest name"))).facts()["simulated"] is True


def test_unknown_measurement():
    appraisal = judge(TeeWorld(), references=values(digest(b"another")))
    assert not appraisal.affirmed
    assert [r.code for r in appraisal.reasons()] == ["tee.measurement"]


def test_anchor_of_another_kind():
    """A TPM vendor's authority says nothing about TEEs."""
    appraisal = judge(TeeWorld(), kind="tpm-ek")
    assert [r.code for r in appraisal.reasons()] == ["tee.untrusted"]


def test_s1_debug():
    refused("tee.debug", TeeWorld(debug=True))


def test_s12_report_of_another_enclave():
    world, other = TeeWorld(), TeeWorld()
    refused("challenge.mismatch", world, world.evidence(other.report().canonical()))
    report = world.report().canonical()
    signed = other.key.sign(report, ec.ECDSA(hashes.SHA256()))
    refused("tee.signature", world, world.evidence(signature=b64encode(signed)))
    refused("tee.signature", world, world.evidence(signature=b64encode(b"")))


def test_report_form():
    world = TeeWorld()
    report = world.report().canonical()
    refused("tee.canonical", world, world.evidence(report + b" "))
    refused("document.invalid", world, world.evidence(b"{}"))
    refused("json.syntax", world, world.evidence(b"\xff"))
    refused("json.size", world, world.evidence(bytes(5000)))
    refused("json.duplicate_key", world, world.evidence(report[:-1] + b',"svn":2}'))
    for i in range(len(report)):
        with pytest.raises(SvetovidError):
            world.verify(world.evidence(report[:i]))


def test_device_of_another_statement():
    world = TeeWorld()
    other = TeeWorld(root=world.root)
    certificates = (b64encode(other.leaf),)
    world.record = world.record.model_copy(update={"device_certificates": certificates})
    refused("enrol.device", world)


@pytest.mark.parametrize("key", [RSA_AK, ec.generate_private_key(ec.SECP384R1())])
def test_key_of_another_kind(key):
    report = TeeWorld().report(report_data="0" * 64).canonical()
    signed = b"" if key is RSA_AK else key.sign(report, ec.ECDSA(hashes.SHA256()))
    with pytest.raises(SvetovidError) as e:
        verify_report(
            report,
            signed,
            certificate=World().root.leaf(key.public_key(), eku=None),
            report_data=bytes(32),
        )
    assert e.value.code == "tee.algorithm"


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_fuzz(data):
    world = FUZZED
    with pytest.raises(SvetovidError):
        world.verify(world.evidence(data))


FUZZED = TeeWorld()
