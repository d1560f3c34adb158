"""Enrolment without anchors (T3): attack ids I1, I5, I6."""

from __future__ import annotations

import pytest

from evidence.authorities import NOW, Authority
from evidence.forger import RSA_AK, RSA_EK, Forger
from evidence.small_world import JOB_KEY, OPERATOR, TeeWorld, World
from svetovid.crypto import b64decode, digest, sign
from svetovid.errors import SvetovidError
from svetovid.evidence import check_enrolment
from svetovid.evidence.certificates import load_certificate, spki
from tpmbytes import ecc_public, ek_public


def enrol(world, **changes):
    parts = {
        "statement": sign(world.statement, OPERATOR),
        "certificates": [b64decode(c) for c in world.record.device_certificates],
        "ek": getattr(world, "ek", None),
        "ak": world.tpm.ak if isinstance(world, World) else None,
        "now": NOW,
        **changes,
    }
    return check_enrolment(*parts.values())


def refused(code, world, **changes):
    with pytest.raises(SvetovidError) as e:
        enrol(world, **changes)
    assert e.value.code == code
    return e.value


def test_good_hosts():
    assert enrol(World()).host == "node-1"
    assert enrol(World(tpm=Forger(0x0014))).kind == "tpm"
    assert enrol(TeeWorld()).kind == "simulated-tee"


def test_statement_must_be_the_operators():
    world = World()
    refused("signature.missing", world, statement=sign(world.statement, JOB_KEY))
    good = sign(world.statement, OPERATOR)
    forged = sign(world.statement.model_copy(update={"host": "node-2"}), JOB_KEY)
    refused(
        "signature.invalid", world, statement=good.model_copy(update={"payload": forged.payload})
    )


def test_statement_about_another_device():
    world = World()
    for w in (world, TeeWorld()):
        other = w.statement.model_copy(update={"device": digest(b"other")})
        refused("enrol.device", w, statement=sign(other, OPERATOR))
    refused("enrol.device", world, ek=ek_public(RSA_AK))


def test_form():
    world, tee = World(), TeeWorld()
    refused("enrol.form", world, certificates=[])
    refused("enrol.form", world, certificates=[b""] * 5)
    refused("enrol.form", world, ek=None)
    refused("enrol.form", world, ak=None)
    refused("enrol.form", world, ek=None, ak=None)
    refused("enrol.form", tee, ek=world.ek, ak=world.tpm.ak)


def test_i1_and_keys():
    world = World()
    refused("ak.attributes", world, ak=ecc_public(world.tpm.key, attributes=0x00040072))
    refused("tpm.malformed", world, ak=world.tpm.ak + b"\0")
    bad_point = world.tpm.ak[:-1] + bytes([world.tpm.ak[-1] ^ 1])
    refused("tpm.malformed", world, ak=bad_point)
    weak = ek_public(RSA_EK, attributes=0x000300B2 & ~2)
    statement = world.statement.model_copy(update={"device": digest(weak)})
    refused("ek.attributes", world, ek=weak, statement=sign(statement, OPERATOR))


def test_i6_certificate_of_another_key():
    world = World()
    refused("ek.key_mismatch", world, certificates=[world.root.leaf(RSA_AK.public_key())])


def test_i5_leaf_checks_need_no_anchor():
    world = World()
    refused("ek.expired", world, now=NOW + 10**6)
    refused("tee.expired", TeeWorld(), now=NOW + 10**6)
    tee = TeeWorld()
    own = Authority("Own")
    tee.key = own.key
    refused("enrol.device", tee, certificates=[own.der])


def test_i5_ca_leaf_of_a_tee():
    tee = TeeWorld()
    authority = Authority("Sub", tee.root)
    device = digest(spki(load_certificate(authority.der, "tee")))
    statement = tee.statement.model_copy(update={"device": device})
    refused("tee.ca_leaf", tee, certificates=[authority.der], statement=sign(statement, OPERATOR))


def test_tee_with_an_unreadable_certificate():
    refused("tee.certificate", TeeWorld(), certificates=[b"junk"])
