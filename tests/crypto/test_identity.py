"""Cards, and the history of keys that rotations and revocations make."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svetovid.crypto import (
    Card,
    Envelope,
    Identity,
    KeyHistory,
    Revocation,
    Rotation,
    sign,
)
from svetovid.crypto import succession as module
from svetovid.errors import IntegrityError, LimitError, ParseError

NOW = 1_000


def refused(history: KeyHistory, statement: Envelope, now: int = NOW) -> str:
    with pytest.raises(IntegrityError) as e:
        history.add(statement, now=now)
    assert e.value.reason.next_step or e.value.code.startswith("signature.")
    return e.value.code


def denied(history: KeyHistory, key: str, at: int) -> str:
    with pytest.raises(IntegrityError) as e:
        history.check(key, at=at)
    assert e.value.reason.next_step
    return e.value.code


def test_a_card_is_signed_by_itself(alice: Identity, mallory: Identity) -> None:
    card = Card.open(alice.signed_card())
    assert card == alice.card
    with pytest.raises(IntegrityError) as e:
        Card.open(sign(alice.card, mallory))
    assert e.value.code == "signature.missing"
    stolen = mallory.card.model_copy(update={"signing": alice.key_id})
    with pytest.raises(IntegrityError) as e:
        Card.open(sign(stolen, mallory))
    assert e.value.code == "signature.missing"


def test_an_identity_does_not_show_its_secrets(alice: Identity) -> None:
    assert alice.signing_seed.reveal().hex() not in repr(alice) + repr(vars(alice))
    for act in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            act(alice)


def test_a_rotated_key_gives_way_at_its_time(alice: Identity) -> None:
    new, rotation = alice.rotate(now=100)
    history = KeyHistory.follow(alice.key_id, [rotation], now=NOW)
    assert history.current == new.key_id
    assert history.card == new.card
    assert history.keys == (alice.key_id, new.key_id)
    history.check(alice.key_id, at=99)  # what the old key agreed to stays agreed
    history.check(new.key_id, at=100)
    assert denied(history, alice.key_id, at=100) == "key.rotated"
    assert denied(history, new.key_id, at=99) == "key.early"
    assert new.name == alice.name


def test_a_pinned_key_stands_until_told_otherwise(alice: Identity, bob: Identity) -> None:
    history = KeyHistory.start(alice.key_id)
    assert history.current == alice.key_id
    assert history.card is None
    history.check(alice.key_id, at=0)
    assert denied(history, bob.key_id, at=0) == "key.unknown"


def test_a_revoked_key_signs_nothing_more(alice: Identity) -> None:
    """V6"""
    revocation = alice.revoke(alice.key_id, "lost", now=100)
    history = KeyHistory.follow(alice.key_id, [revocation], now=NOW)
    history.check(alice.key_id, at=99)
    assert denied(history, alice.key_id, at=100) == "key.revoked"
    with pytest.raises(IntegrityError) as e:
        _ = history.current
    assert e.value.code == "key.revoked"
    _, rotation = alice.rotate(now=100)
    assert refused(history, rotation) == "key.revoked"


def test_a_revocation_of_any_key_ends_them_all(alice: Identity) -> None:
    """V6: the thief of the newest key speaks for the old ones' assets, the thief of an old one may
    have chosen what followed."""
    second, first_rotation = alice.rotate(now=100)
    third, second_rotation = second.rotate(now=200)
    history = KeyHistory.follow(alice.key_id, [first_rotation, second_rotation], now=NOW)
    for revoker, revoked in ((alice, alice), (second, alice), (third, second), (third, third)):
        after = history.add(revoker.revoke(revoked.key_id, "stolen", now=300), now=NOW)
        assert after.revoked == 300
        for key in (alice, second, third):
            assert denied(after, key.key_id, at=300) == "key.revoked"
        after.check(second.key_id, at=150)  # what was recorded before can still be shown to be so
        with pytest.raises(IntegrityError) as e:
            _ = after.current
        assert e.value.code == "key.revoked"
        assert refused(after, third.rotate(now=400)[1]) == "key.revoked"
        again = after.add(third.revoke(third.key_id, "said twice", now=400), now=NOW)
        assert again == after


def test_only_the_key_or_its_successors_revoke(alice: Identity, mallory: Identity) -> None:
    history = KeyHistory.start(alice.key_id)
    assert refused(history, mallory.revoke(alice.key_id, "no", now=1)) == "key.unknown"
    assert refused(history, mallory.revoke(mallory.key_id, "no", now=1)) == "key.unknown"
    second, rotation = alice.rotate(now=100)
    history = history.add(rotation, now=NOW)
    assert refused(history, alice.revoke(second.key_id, "no", now=200)) == "key.unknown"


def test_a_fork_is_refused_and_the_first_successor_stands(alice: Identity) -> None:
    """A thief of the old key names a successor of their own."""
    honest, rotation = alice.rotate(now=100)
    _, theft = alice.rotate(now=100)
    history = KeyHistory.follow(alice.key_id, [rotation], now=NOW)
    assert refused(history, theft) == "key.fork"
    assert history.current == honest.key_id


def test_a_loop_is_refused(alice: Identity) -> None:
    second, rotation = alice.rotate(now=100)
    history = KeyHistory.follow(alice.key_id, [rotation], now=NOW)
    back = sign(Rotation(old=second.key_id, new=alice.card, issued_at=200), second, alice)
    assert refused(history, back) == "key.loop"
    itself = sign(Rotation(old=second.key_id, new=second.card, issued_at=200), second)
    assert refused(history, itself) == "key.loop"


def test_a_rotation_needs_both_keys(alice: Identity, mallory: Identity) -> None:
    """Neither can a key be taken over, nor somebody be made its successor unasked."""
    history = KeyHistory.start(alice.key_id)
    document = Rotation(old=alice.key_id, new=mallory.card, issued_at=1)
    assert refused(history, sign(document, mallory)) == "signature.missing"
    assert refused(history, sign(document, alice)) == "signature.missing"


def test_a_stranger_has_no_place_in_the_history(alice: Identity, mallory: Identity) -> None:
    _, rotation = mallory.rotate(now=100)
    assert refused(KeyHistory.start(alice.key_id), rotation) == "key.unknown"


def test_time_never_runs_backwards_nor_ahead(alice: Identity) -> None:
    second, rotation = alice.rotate(now=100)
    history = KeyHistory.follow(alice.key_id, [rotation], now=NOW)
    assert refused(history, second.rotate(now=99)[1]) == "key.order"
    assert refused(history, second.rotate(now=NOW + 1)[1]) == "key.future"


def test_a_revocation_is_never_refused_for_its_date(alice: Identity) -> None:
    second, rotation = alice.rotate(now=100)
    history = KeyHistory.follow(alice.key_id, [rotation], now=NOW)
    early = history.add(second.revoke(second.key_id, "a slow clock", now=9), now=NOW)
    assert early.revoked == 100
    early.check(alice.key_id, at=99)
    ahead = history.add(second.revoke(second.key_id, "a fast clock", now=NOW + 99), now=NOW)
    assert ahead.revoked == NOW


def test_the_same_statement_twice_changes_nothing(alice: Identity) -> None:
    second, rotation = alice.rotate(now=100)
    revocation = second.revoke(alice.key_id, "old", now=200)
    once = KeyHistory.follow(alice.key_id, [rotation, revocation], now=NOW)
    assert once.add(rotation, now=NOW) == once.add(revocation, now=NOW) == once


def test_an_altered_statement_is_refused_even_when_repeated(alice: Identity) -> None:
    _, rotation = alice.rotate(now=100)
    history = KeyHistory.follow(alice.key_id, [rotation], now=NOW)
    bare = rotation.model_copy(update={"signatures": rotation.signatures[:1]})
    assert refused(history, bare) == "signature.missing"
    revocation = alice.revoke(alice.key_id, "x", now=100)
    wrong = revocation.model_copy(update={"signatures": rotation.signatures[:1]})
    assert refused(history, wrong) == "signature.invalid"


def test_other_documents_are_no_statements(alice: Identity) -> None:
    assert refused(KeyHistory.start(alice.key_id), alice.signed_card()) == "signature.type"


def test_a_history_is_bounded(alice: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROTATIONS", 1)
    second, rotation = alice.rotate(now=100)
    history = KeyHistory.follow(alice.key_id, [rotation], now=NOW)
    with pytest.raises(LimitError) as e:
        history.add(second.rotate(now=200)[1], now=NOW)
    assert e.value.code == "key.rotations"
    assert history.add(rotation, now=NOW) == history
    assert history.add(second.revoke(second.key_id, "lost", now=200), now=NOW).revoked == 200


@pytest.mark.parametrize("document", [Rotation, Revocation, Card])
def test_statements_are_strict(document: type[Card]) -> None:
    with pytest.raises(ParseError):
        document.from_json({})


POOL = [Identity.generate("p") for _ in range(4)]


@st.composite
def statements(draw: st.DrawFn) -> Sequence[Envelope]:
    out = []
    for _ in range(draw(st.integers(0, 8))):
        old, new = draw(st.sampled_from(POOL)), draw(st.sampled_from(POOL))
        at = draw(st.integers(0, 3))
        if draw(st.booleans()):
            signers = {old.key_id: old, new.key_id: new}.values()
            out.append(sign(Rotation(old=old.key_id, new=new.card, issued_at=at), *signers))
        else:
            out.append(old.revoke(new.key_id, "x", now=at))
    return out


@settings(max_examples=120)
@given(statements())
def test_whatever_is_said_one_key_at_most_signs_at_a_time(said: Sequence[Envelope]) -> None:
    """The history is a line: refused statements leave it as it was."""
    history = KeyHistory.start(POOL[0].key_id)
    for statement in said:
        try:
            history = history.add(statement, now=NOW)
        except IntegrityError:
            continue
    for at in range(5):
        may = []
        for key in history.keys:
            try:
                history.check(key, at=at)
            except IntegrityError:
                continue
            may.append(key)
        assert len(may) <= 1
    assert len(set(history.keys)) == len(history.keys)
