"""Names beside keys: what a reader is told, and by whom he cannot be fooled."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from svetovid import stakeholder
from svetovid.crypto import Identity, Secret, sign
from svetovid.evidence.documents import ReferenceValues
from svetovid.stakeholder import Labels, Stakeholder, read_labels, seal_asset, write_public

KEY = "ed25519:" + "0123456789abcdef" * 4


def _card(public: Path, file: str, name: str) -> Identity:
    who = Identity.generate(name)
    write_public(public / f"{file}.card.json", who.signed_card())
    return who


def test_a_name_with_the_beginning_of_its_key() -> None:
    labels = Labels({KEY: "ann"})
    assert labels.full(KEY) == f"ann ({KEY})"
    assert labels.brief(KEY) == labels.short(KEY) == "ann (ed25519:0123456789abcdef…)"
    other = KEY.replace("0", "f")
    assert labels.full(other) == labels.brief(other) == other
    assert labels.short(other) == "ed25519:f123456789abcdef…"
    assert labels.short("lab1") == "lab1"
    assert (
        labels.readable(f"waiting for {KEY}, {other}.")
        == f"waiting for {labels.brief(KEY)}, {other}."
    )
    assert labels.readable(f"x{KEY}0") == f"x{KEY}0"


def test_home_and_public_folder(
    ann: Stakeholder,
    home: Callable[[str], Stakeholder],
    manager: Identity,
    public: Path,
    data: Path,
) -> None:
    bob = home("bob")
    first = seal_asset(ann, data, folder=public)
    second = seal_asset(ann, data, folder=public)
    write_public(public / "records.manifest.json", second)
    values = ReferenceValues(product="rt", version=3)
    write_public(public / "rt.references.json", sign(values, bob.identity))
    found = read_labels(ann.home.path, public)
    assert found.names == {
        ann.key_id: "ann",
        bob.key_id: "bob",
        manager.key_id: "manager",
        first.digest(): "records v1",
        second.digest(): "records v2",
        values.digest(): "rt v3",
    }
    assert read_labels(None, None).names == {}
    assert read_labels(public / "none", public / "none").names == {}


def test_no_two_parties_have_one_name(ann: Stakeholder, public: Path) -> None:
    """A stranger's card beside one's own, or beside another's, of the same name."""
    mallory = _card(public, "evil", "ann")
    bobs = [_card(public, file, "bob").key_id for file in ("b", "c")]
    theirs = _card(public, "m", "manager")
    names = read_labels(ann.home.path, public).names
    assert names[ann.key_id] == "ann"
    assert not {mallory.key_id, theirs.key_id, *bobs} & names.keys()


@pytest.mark.parametrize("junk", [b"", b"\0" * 99, b"[" * 10_000, b'{"payloadType": 1}'])
def test_files_that_cannot_be_read_give_no_name(
    ann: Stakeholder, public: Path, junk: bytes
) -> None:
    for kind in ("card", "manifest", "anchors", "references", "job"):
        (public / f"x.{kind}.json").write_bytes(junk)
    os.mkfifo(public / "pipe.card.json")
    ann.home.manager.write_bytes(junk)
    assert read_labels(ann.home.path, public).names == {ann.key_id: "ann"}


def test_a_card_its_key_did_not_sign_gives_no_name(public: Path, tmp_path: Path) -> None:
    who = stakeholder.create(tmp_path / "zoe", "zoe", Secret(b"canary-passphrase"))
    card = who.identity.signed_card()
    forged = card.model_copy(update={"signatures": Identity.generate("x").signed_card().signatures})
    write_public(public / "zoe.card.json", forged)
    assert read_labels(None, public).names == {}
