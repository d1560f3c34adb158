"""Homes: what lies in them, who may look, and that nothing breaks half way."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from svetovid import stakeholder
from svetovid.crypto import Envelope, Identity, Rotation, Secret, keystore
from svetovid.errors import InputError, IntegrityError, LimitError, ParseError
from svetovid.protocol import ManagerPin
from svetovid.stakeholder import Stakeholder, identity
from svetovid.stakeholder.home import make_private, read_bounded
from svetovid.stakeholder.keys import SealedVersion, asset_key, keep_key, sealed_version

PASSPHRASE = Secret(b"canary-passphrase")


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_home_is_private_and_opens_again(tmp_path: Path) -> None:
    who = stakeholder.create(tmp_path / "a" / "ann", "ann", PASSPHRASE)
    assert _mode(who.home.path) == 0o700
    assert all(_mode(f) == 0o700 for f in who.home.folders)
    assert _mode(who.home.identity) == 0o600
    again = stakeholder.load(who.home.path, PASSPHRASE)
    assert (again.key_id, again.name) == (who.key_id, "ann")
    assert stakeholder.read_card(who.home.card).signing == who.key_id
    assert "canary" not in repr(again)


def test_wrong_passphrase_and_second_creation(tmp_path: Path) -> None:
    stakeholder.create(tmp_path / "ann", "ann", PASSPHRASE)
    with pytest.raises(IntegrityError, match=r"key\.passphrase") as e:
        stakeholder.load(tmp_path / "ann", Secret(b"wrong"))
    assert e.value.reason.clause == str(tmp_path / "ann" / "identity.json")
    with pytest.raises(InputError, match=r"key\.exists"):
        stakeholder.create(tmp_path / "ann", "ann", PASSPHRASE)


@pytest.mark.parametrize("name", ["Ann", "аnn", "../ann", "", "a b", "a" * 65, "ann\n"])
def test_odd_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ParseError, match=r"name\.invalid"):
        stakeholder.create(tmp_path / "x", name, PASSPHRASE)
    assert not (tmp_path / "x").exists()


def test_a_home_others_can_look_into_is_refused(tmp_path: Path) -> None:
    stakeholder.create(tmp_path / "ann", "ann", PASSPHRASE)
    (tmp_path / "ann").chmod(0o755)
    with pytest.raises(InputError, match=r"home\.mode"):
        stakeholder.load(tmp_path / "ann", PASSPHRASE)


def test_what_is_no_home(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"home\.folder"):
        stakeholder.load(tmp_path / "none", PASSPHRASE)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"home\.folder"):
        make_private(tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match=r"home\.folder"):
        make_private(tmp_path / "link")


def test_rotation_keeps_what_was_sealed_before(ann: Stakeholder, data: Path) -> None:
    manifest = stakeholder.seal_asset(ann, data)
    keep_key(ann, manifest, Secret(b"k" * 32))
    after, statement = stakeholder.rotate(ann, 1000)
    assert after.key_id != ann.key_id
    rotation = statement.open(Rotation, by=(ann.key_id, after.key_id))
    assert rotation.new.signing == after.key_id
    again = stakeholder.load(ann.home.path, PASSPHRASE)
    assert again.key_id == after.key_id
    assert asset_key(again, manifest.digest()) == Secret(b"k" * 32)
    assert again.receiving_key(ann.key_id).public == ann.identity.receiving.public
    with pytest.raises(InputError, match=r"key\.not_ours"):
        again.receiving_key("ed25519:" + "0" * 64)
    third, _ = stakeholder.rotate(again, 1001)
    assert asset_key(third, manifest.digest()) == Secret(b"k" * 32)


def test_a_rotation_that_is_cut_off_leaves_a_home(
    ann: Stakeholder, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = (keystore, "save"), (os, "link"), (identity, "write_private")
    for owner, name in steps:
        with monkeypatch.context() as m:

            def cut(*args: object, **kwargs: object) -> None:
                raise KeyboardInterrupt

            m.setattr(owner, name, cut)
            with pytest.raises(KeyboardInterrupt):
                stakeholder.rotate(ann, 1000)
        assert stakeholder.load(ann.home.path, PASSPHRASE).key_id == ann.key_id
    after, _ = stakeholder.rotate(ann, 1000)
    assert stakeholder.load(ann.home.path, PASSPHRASE).key_id == after.key_id


def test_asset_keys_are_sealed_and_bound_to_their_asset(ann: Stakeholder, data: Path) -> None:
    one, two = (stakeholder.seal_asset(ann, data) for _ in range(2))
    keep_key(ann, one, Secret(b"canary-asset-key-32-bytes-long!!"))
    keep_key(ann, two, Secret(b"z" * 32))
    assert sealed_version(ann, two.digest()) == SealedVersion("records", 2)
    assert sealed_version(ann, "sha256:" + "3" * 64) is None
    files = [ann.home.keys / f"{m.digest().removeprefix('sha256:')}.json" for m in (one, two)]
    assert all(_mode(f) == 0o600 for f in files)
    assert b"canary" not in files[0].read_bytes()
    files[0].write_bytes(files[1].read_bytes())  # exchanged for another asset's
    with pytest.raises(IntegrityError, match=r"hpke\.open"):
        asset_key(ann, one.digest())
    with pytest.raises(InputError, match=r"key\.asset"):
        asset_key(ann, "sha256:" + "3" * 64)


def test_a_card_is_not_put_over_another_partys(
    ann: Stakeholder, tmp_path: Path, public: Path
) -> None:
    other = stakeholder.create(tmp_path / "other", "ann", PASSPHRASE)
    with pytest.raises(InputError, match=r"names\.taken"):
        stakeholder.publish_card(other, public)
    after, _ = stakeholder.rotate(ann, 1)
    stakeholder.publish_card(after, public)
    assert stakeholder.read_card(public / "ann.card.json").signing == after.key_id


class TestPins:
    """T1: a manager is pinned from a file, never on first use, and never exchanged in silence."""

    def test_unpinned(self, tmp_path: Path) -> None:
        who = stakeholder.create(tmp_path / "bo", "bo", PASSPHRASE)
        with pytest.raises(InputError, match=r"manager\.unpinned"):
            stakeholder.connect(who)
        assert stakeholder.announce(who, who.identity.rotate(1)[1]) is False

    def test_another_manager(self, ann: Stakeholder, pin_file: Path, tmp_path: Path) -> None:
        mallory = Identity.generate("manager")
        pin = stakeholder.read_pin(pin_file)
        swapped = ManagerPin(
            card=mallory.signed_card(), tls_certificate=pin.tls_certificate, url=pin.url
        )
        (tmp_path / "m.json").write_bytes(swapped.canonical())
        with pytest.raises(InputError, match=r"manager\.pinned"):
            stakeholder.pin_manager(ann, tmp_path / "m.json")
        moved = ManagerPin(card=pin.card, tls_certificate=pin.tls_certificate, url="https://new:1")
        (tmp_path / "n.json").write_bytes(moved.canonical())
        stakeholder.pin_manager(ann, tmp_path / "n.json")
        assert stakeholder.pinned_manager(ann.home).url == "https://new:1"

    def test_a_card_that_its_key_did_not_sign(self, pin_file: Path, tmp_path: Path) -> None:
        pin = stakeholder.read_pin(pin_file)
        forged = Envelope(
            payload=pin.card.payload,
            payloadType=pin.card.payloadType,
            signatures=Identity.generate("x").signed_card().signatures,
        )
        bad = ManagerPin(card=forged, tls_certificate=pin.tls_certificate, url=pin.url)
        (tmp_path / "bad.json").write_bytes(bad.canonical())
        with pytest.raises(IntegrityError, match=r"signature\."):
            stakeholder.read_pin(tmp_path / "bad.json")


def test_bounded_reading(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 11)
    with pytest.raises(LimitError, match=r"file\.size"):
        read_bounded(tmp_path / "big", 10, what="x")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none", Path("a\0b")):
        with pytest.raises(InputError, match=r"file\.unreadable"):
            read_bounded(path, 10, what="x")


def test_home_maker(home: Callable[[str], Stakeholder]) -> None:
    assert home("bob").name == "bob"
