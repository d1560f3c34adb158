"""What a manager proves of its own machine (T1): rules 1 to 4, one change at a time."""

from __future__ import annotations

import pytest

from evidence.authorities import NOW
from evidence.small_world import CHANNEL, JOB_KEY, MANAGER, OPERATOR, TeeWorld, World
from svetovid.crypto import b64encode, digest, sign
from svetovid.errors import EvidenceError
from svetovid.evidence import (
    NO_JOB,
    HostRecord,
    JobKeys,
    activation_proof,
    binding,
    check_manager,
    verify_manager,
)

SECRET = b"what the credential holds" + bytes(7)


class Own(World):
    """A manager's own machine: its operator and agent are the manager."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.keys = JobKeys(receiving=MANAGER.card.receiving, signing=MANAGER.key_id)
        own = {"operator": MANAGER.key_id, "agent": MANAGER.key_id}
        self.statement = self.statement.model_copy(update=own)
        self.record = self.make_record(statement=sign(self.statement, MANAGER))
        self.challenge = self.make_challenge(role="manager", job=NO_JOB)

    def checked(self, record: HostRecord | None = None, **pinned: str):
        given = {"manager": MANAGER.key_id, "device": self.statement.device, **pinned}
        return check_manager(record or self.record, now=NOW, **given)

    def proven(self, proof: bytes | None = None, evidence=None, **changes):
        bound = binding(self.challenge, self.keys, self.channel)
        return verify_manager(
            evidence or self.evidence(),
            activation_proof(SECRET, bound) if proof is None else proof,
            self.record,
            **{
                "challenge": self.challenge,
                "secret": SECRET,
                "keys": self.keys,
                "channel": CHANNEL,
                "now": NOW,
                **changes,
            },
        )


def refused(code, call, *arguments, **named):
    with pytest.raises(EvidenceError) as e:
        call(*arguments, **named)
    assert e.value.code == code
    assert e.value.reason.next_step
    return e.value


def test_t1_a_good_manager():
    own = Own()
    assert own.checked() == own.statement
    proven = own.proven()
    assert proven.keys == own.keys
    assert proven.log.count == 6


@pytest.mark.parametrize("field", ["operator", "agent"])
def test_t1_a_record_about_somebody_else(field):
    """Somebody's good machine, countersigned by the manager, says nothing of the manager's."""
    own = Own()
    statement = own.statement.model_copy(update={field: OPERATOR.key_id})
    signed = sign(statement, OPERATOR, MANAGER)
    refused("manager.record", own.checked, own.make_record(statement=signed))
    refused("manager.record", own.checked, manager=OPERATOR.key_id)


def test_t1_a_tee_without_a_tpm_is_no_managers_machine():
    """Its record is sound, and no credential could be made for it."""
    tee = TeeWorld()
    own = {"operator": MANAGER.key_id, "agent": MANAGER.key_id}
    statement = tee.statement.model_copy(update=own)
    record = tee.record.model_copy(update={"statement": sign(statement, MANAGER)})
    refused("manager.record", Own().checked, record, device=statement.device)


def test_t3_another_machine_than_the_pinned_one():
    refused("manager.device", Own().checked, device=digest(b"the machine that was pinned"))


@pytest.mark.parametrize("field", ["receiving", "signing"])
def test_t6_keys_that_are_not_the_cards(field):
    """The manager's machine is good, and so is the quote: of keys that somebody else holds."""
    own = Own()
    card = own.keys
    other = b64encode(b"other") if field == "receiving" else JOB_KEY.key_id
    own.keys = JobKeys(**{**card.to_json(), field: other})
    own.proven(keys=own.keys)
    bound = binding(own.challenge, card, CHANNEL)
    refused("manager.keys", own.proven, activation_proof(SECRET, bound), keys=card)


def test_i3_a_credential_that_was_not_opened():
    """The AK need not be in the EK's TPM: only who opened the credential shows that it is."""
    own = Own()
    bound = binding(own.challenge, own.keys, CHANNEL)
    other = own.make_challenge(role="manager", job=digest(b"x"))
    for proof in (
        b"",
        SECRET,
        activation_proof(bytes(32), bound),
        activation_proof(SECRET, bound)[:-1],
        activation_proof(SECRET, binding(other, own.keys, CHANNEL)),
        activation_proof(SECRET, binding(own.challenge, own.keys, digest(b"between"))),
    ):
        refused("manager.activation", own.proven, proof)


def test_t1_the_evidence_itself_is_verified():
    """Rule 4, behind a proof that holds."""
    own = Own()
    refused("challenge.expired", own.proven, now=NOW + 61)
    relabelled = own.evidence().model_copy(update={"signature": Own().evidence().signature})
    refused("sig.invalid", own.proven, evidence=relabelled)
