"""Whole evidence, one change at a time: attack ids F4-F7, I1, I2, I7, C4, M2, P1, P6; T6, T13."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.authorities import NOW
from evidence.forger import RSA_AK, RSA_EK, Forger
from evidence.small_world import CHANNEL, JOB_KEY, MANAGER, OPERATOR, TeeWorld, World
from svetovid.crypto import Identity, b64decode, b64encode, digest, sign
from svetovid.errors import LimitError, SvetovidError
from svetovid.evidence import NO_SUBJECT, JobKeys, TpmEvidence, binding, check_no_reset
from svetovid.evidence.documents import evidence_log
from tpmbytes import EK_ATTRIBUTES, bitmap, ecc_public, ek_public


def refused(code, world, evidence=None, **changes):
    with pytest.raises(SvetovidError) as e:
        world.verify(evidence, **changes) if changes else world.verify(evidence)
    assert e.value.code == code
    assert e.value.reason.next_step or code.startswith(("json.", "document.", "signature."))
    return e.value


def test_good_evidence():
    world = World()
    proven = world.verify()
    assert proven.host == world.record.host_id
    assert proven.challenge == world.challenge
    assert proven.keys == world.keys
    assert (proven.channel, proven.subject) == (CHANNEL, NO_SUBJECT)
    assert proven.log.count == 6
    assert proven.clock.reset_count == 3
    assert proven.statement == world.statement


@pytest.mark.parametrize("scheme", [0x0014, 0x0016])
def test_rsa_attestation_keys(scheme):
    assert World(tpm=Forger(scheme)).verify().log.count == 6


def test_resettable_pcrs_are_left_out():
    """P7"""
    world = World()
    world.tpm.pcrs |= {16: bytes(32), 23: bytes(32)}
    assert set(world.verify().pcrs) == set(range(11))


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": b64encode(bytes(32))},
        {"nonce": ""},
        {"nonce": b64encode(bytes(65))},
        {"job": digest(b"another job")},
        {"role": "finish"},
        {"manager": OPERATOR.key_id},
        {"expires_at": NOW + 61},
        {"log_offset": 1},
    ],
)
def test_f4_f7_challenge_of_ones_own(change):
    """The prover answers a challenge that this manager did not give, or gave for something else."""
    world = World()
    mine = world.challenge
    world.challenge = world.make_challenge(**change)
    refused("challenge.mismatch", world, world.evidence(), challenge=mine)


def test_f7_truncated_and_padded_nonces():
    world = World()
    mine = world.challenge
    nonce = b64decode(mine.nonce)
    for bad in (nonce[:-1], nonce + b"\0", b"\0" + nonce):
        world.challenge = world.make_challenge(nonce=b64encode(bad))
        refused("challenge.mismatch", world, world.evidence(), challenge=mine)


def test_f4_the_quote_of_one_challenge_shown_with_another():
    """Whoever keeps the evidence reads from it what was asked: that is what was quoted."""
    world = World()
    other = world.make_challenge(job=digest(b"another job"))
    refused("challenge.mismatch", world, world.evidence(challenge=sign(other, MANAGER)))


def test_challenge_signed_by_somebody_else():
    world = World()
    refused("signature.missing", world, world.evidence(challenge=sign(world.challenge, OPERATOR)))
    good = sign(world.challenge, MANAGER)
    forged = good.signatures[0].model_copy(update={"sig": b64encode(bytes(64))})
    envelope = good.model_copy(update={"signatures": (forged,)})
    refused("signature.invalid", world, world.evidence(challenge=envelope))
    refused("signature.type", world, world.evidence(challenge=sign(world.statement, MANAGER)))


@pytest.mark.parametrize(("now", "good"), [(0, 1), (60, 1), (-5, 1), (61, 0), (-6, 0), (-3600, 0)])
def test_f6_expiry_and_clock_steps(now, good):
    world = World(now=NOW + now)
    if good:
        world.verify()
    else:
        refused("challenge.expired", world)


def test_challenge_for_another_host():
    world = World()
    world.challenge = world.make_challenge(host=digest(b"other host"))
    refused("challenge.scope", world)


def test_evidence_of_another_host():
    refused("evidence.host", World(), World().evidence(host=digest(b"other")))


def test_i7_c4_relay_over_another_channel():
    world = World()
    world.channel = digest(b"the relay's certificate")
    refused("channel.binding", world, channel=CHANNEL)
    # the relay rewrites the field: the quote still speaks of its own certificate
    relayed = world.evidence(channel=CHANNEL)
    refused("challenge.mismatch", world, relayed, channel=CHANNEL)


def test_t13_subject():
    world = World(subject=digest(b"outputs"))
    world.verify()
    refused("evidence.subject", world, subject=digest(b"other outputs"))
    refused("challenge.mismatch", world, world.evidence(subject=NO_SUBJECT), subject=NO_SUBJECT)


@pytest.mark.parametrize("field", ["receiving", "signing"])
def test_t6_keys_are_bound(field):
    """Swapping in one's own key after the quote is refused: both keys are in the binding."""
    world = World()
    other = b64encode(b"other") if field == "receiving" else Identity.generate("x").key_id
    keys = JobKeys(**{**world.keys.to_json(), field: other})
    refused("challenge.mismatch", world, world.evidence(keys=keys))


def test_t6_everything_is_bound():
    world = World()
    base = (world.challenge, world.keys, CHANNEL, NO_SUBJECT)
    seen = {binding(*base)}
    for change in (
        {"role": "renew"},
        {"manager": OPERATOR.key_id},
        {"host": digest(b"h")},
        {"job": digest(b"j")},
        {"nonce": b64encode(b"n")},
        {"issued_at": 1},
        {"expires_at": 1},
    ):
        seen.add(binding(world.challenge.model_copy(update=change), *base[1:]))
    seen.add(binding(world.challenge, JobKeys(receiving="", signing=JOB_KEY.key_id), *base[2:]))
    seen.add(binding(*base[:2], digest(b"c"), NO_SUBJECT))
    seen.add(binding(*base[:3], digest(b"s")))
    assert len(seen) == 11
    assert all(len(b) == 32 for b in seen)


def test_m2_replayed_quote():
    """A quote answered to an older challenge, sent with the new one."""
    world = World()
    old = world.evidence()
    world.challenge = world.make_challenge(nonce=b64encode(b"n" * 32))
    replay = old.model_copy(update={"challenge": sign(world.challenge, MANAGER)})
    refused("challenge.mismatch", world, replay)


def test_record_without_the_operators_word():
    world = World()
    world.record = world.make_record(statement=sign(world.statement, JOB_KEY))
    world.challenge = world.make_challenge()
    refused("signature.missing", world)


def test_record_of_another_device():
    world = World()
    world.statement = world.statement.model_copy(update={"device": digest(b"x")})
    world.record = world.make_record()
    world.challenge = world.make_challenge()
    refused("enrol.device", world)


def test_record_with_keys_that_must_not_be_there():
    world = World()
    for change, code in (
        ({"ak_public": None}, "enrol.form"),
        ({"ek_public": None}, "enrol.form"),
        ({"ak_public": b64encode(b"x")}, "tpm.malformed"),
        (
            {"ak_public": b64encode(ecc_public(world.tpm.key, attributes=0x00040072))},
            "ak.attributes",
        ),
        (
            {"device_certificates": (b64encode(world.root.leaf(RSA_AK.public_key())),)},
            "ek.key_mismatch",
        ),
    ):
        world.record = world.make_record(**change)
        refused(code, world)


@pytest.mark.parametrize(
    ("key", "attributes", "code"),
    [
        (RSA_EK, EK_ATTRIBUTES & ~2, "ek.attributes"),  # it can be copied to another TPM
        (RSA_EK, EK_ATTRIBUTES | 0x40000, "ek.attributes"),  # it signs whatever it is handed
        (rsa.generate_private_key(65537, 1024), EK_ATTRIBUTES, "ek.size"),
    ],
)
def test_i1_an_ek_that_no_manager_would_have_enrolled(key, attributes, code):
    """A record comes from a manager. Whoever verifies a receipt at home need not trust that the
    manager looked: a key that leaves its TPM makes quotes of any machine."""
    world = World()
    world.ek = ek_public(key, attributes=attributes)
    world.statement = world.statement.model_copy(update={"device": digest(world.ek)})
    leaf = b64encode(world.root.leaf(key.public_key()))
    world.record = world.make_record(device_certificates=(leaf,))
    world.challenge = world.make_challenge()
    refused(code, world)


def test_i2_another_ak():
    world, other = World(), World()
    world.tpm.key = other.tpm.key
    refused("sig.invalid", world)
    world.tpm.ak = other.tpm.ak
    refused("attest.signer", world)


def test_kinds_do_not_mix():
    world, tee = World(), TeeWorld()
    evidence = tee.evidence(host=world.record.host_id, challenge=sign(world.challenge, MANAGER))
    refused("evidence.kind", world, evidence)


def test_p1_p6_pcrs():
    world = World()
    refused("pcr.missing", world, world.evidence({"selections": (bitmap(range(10)),)}))
    values = {str(i): v.hex() for i, v in world.tpm.pcrs.items()}
    refused("pcr.digest", world, world.evidence(pcrs={**values, "4": "11" * 32}))
    refused("pcr.selection", world, world.evidence(pcrs={**values, "11": "11" * 32}))
    refused("pcr.bank", world, world.evidence(pcrs={**values, "4": "11" * 20}))


@pytest.mark.parametrize("number", ["24", "-1", "01", "\u0663", "1 ", ""])
def test_pcr_numbers_have_one_spelling(number):
    values = {number: "11" * 32}
    with pytest.raises(SvetovidError) as e:
        TpmEvidence.from_json({**World().evidence().to_json(), "pcrs": values})
    assert e.value.code == "document.invalid"


def test_m18_offset_must_be_the_challenges():
    world = World()
    refused("ima.offset", world, world.evidence(log_offset=1))
    state = world.verify().log
    refused("ima.offset", world, log=state)
    # it fits what the verifier holds, and still is not what the challenge asks for
    refused("ima.offset", world, world.evidence(log_offset=6, log=""), log=state)
    world.challenge = world.make_challenge(log_offset=6)
    refused("ima.offset", world, log=None)
    world.measure("/opt/runtime/lib0.so", digest(b"0"))
    assert world.verify(log=state).log.count == 7


def test_d1_a_log_that_no_manager_would_read_is_never_packed(monkeypatch):
    """Its sender is told, with what to do about it, and not that its message is malformed."""
    log = b"".join(World().lines)
    monkeypatch.setattr("svetovid.evidence.documents.MAX_EVIDENCE_LOG_BYTES", len(log))
    assert b64decode(evidence_log(log)) == log
    with pytest.raises(LimitError) as e:
        evidence_log(log + b"\0")
    assert e.value.code == "evidence.log_size"
    assert "restart the host" in e.value.reason.next_step


def test_t12_renewal_carries_the_clock():
    world = World()
    first = world.verify()
    world.challenge = world.make_challenge(role="renew", log_offset=6)
    later = world.verify(world.evidence({"clock": 2000}), log=first.log)
    check_no_reset(first.clock, later.clock)
    rolled = world.verify(world.evidence({"clock": 500}), log=first.log)
    with pytest.raises(SvetovidError) as e:
        check_no_reset(later.clock, rolled.clock)
    assert e.value.code == "tpm.clock_rollback"
    # after a reset the log cannot be carried on either
    refused("ima.offset", world, world.evidence({"resets": 4}), log=first.log)


def test_d2_cheap_checks_come_first(monkeypatch):
    """Size, challenge and channel are judged before any signature is verified or log parsed."""
    world = World()

    def dear(*_):
        raise AssertionError("too early")

    monkeypatch.setattr("svetovid.evidence.verify.verify_quote", dear)
    monkeypatch.setattr("svetovid.evidence.verify.advance", dear)
    monkeypatch.setattr("svetovid.crypto.envelope.verify_raw", dear)
    refused("channel.binding", world, channel=digest(b"x"))
    refused("challenge.expired", world, now=NOW + 100)
    refused("evidence.subject", world, subject=digest(b"x"))


def test_quote_before_log():
    world = World()
    bad = world.evidence(signature=b64encode(bytes(8)), log=b64encode(b"junk"))
    refused("sig.alg", world, bad)
    refused("ima.malformed", world, world.evidence(log=b64encode(b"junk")))


WORLD = World()
GOOD = WORLD.evidence()


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["quote", "signature", "log"]), st.integers(0, 10**6), st.binary(max_size=3))
def test_fuzz_any_field(field, at, more):
    data = b64decode(getattr(GOOD, field))
    at %= len(data)
    bad = data[:at] + more + data[at + 1 :]
    try:
        WORLD.verify(GOOD.model_copy(update={field: b64encode(bad)}))
    except SvetovidError:
        return
    assert bad == data
