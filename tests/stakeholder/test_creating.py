"""A home is made whole or not at all, and so are several at once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from softtpm import SoftCa
from svetovid.cli.main import run
from svetovid.crypto import Envelope, Identity, Secret, b64encode, canonical, keystore
from svetovid.errors import HostError, InputError
from svetovid.protocol import ManagerPin
from svetovid.stakeholder import create, load, publish_card, read_names
from svetovid.stakeholder.names import write_public

Cli = Callable[..., tuple[int, dict[str, Any]]]
SECRET = Secret(b"quite secret")
CARDS: dict[str, Envelope] = {}
CERTIFICATE = b64encode(SoftCa("manager").der)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    passphrase = tmp_path / "passphrase"
    passphrase.write_bytes(SECRET.reveal())
    passphrase.chmod(0o600)
    monkeypatch.setenv("SVETOVID_PASSPHRASE_FILE", str(passphrase))
    monkeypatch.delenv("SVETOVID_PUBLIC", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, dict[str, Any]]:
        code = run(["identity", "create", *arguments, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return call


def pin(name: str = "manager", **more: Any) -> ManagerPin:
    """Of one manager for each name, made anew each time but for its card."""
    card = CARDS.setdefault(name, Identity.generate(name).signed_card())
    fields: dict[str, Any] = {"url": "https://a.test", "tls_certificate": CERTIFICATE}
    return ManagerPin(card=card, **(fields | more))


def files(home: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(p.relative_to(home)): (p.stat().st_mode, p.read_bytes() if p.is_file() else b"")
        for p in home.rglob("*")
    }


def made(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()} - {"passphrase", "public"}


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (("ann", "ben", "--manager", "manager/manager.json"), 2, "file.unreadable"),
        (("ann", "Ben"), 2, "name.invalid"),
        (("ann", "ann"), 2, "names.taken"),
        (("ann", "old"), 2, "key.exists"),
        (("ann", "file"), 2, "home.folder"),
        (("ann", "open"), 2, "home.mode"),
        (("ann", "--public", "passphrase"), 4, "file.write"),
        (("ann", "--public", "p" * 300), 4, "file.write"),
        (("ann", "--public", "loop"), 4, "file.write"),
        (("ann", "--in", "p" * 300), 2, "home.folder"),
        (("ann", "--in", "loop"), 2, "home.folder"),
        (("ann", "pinned", "--manager", "other.json"), 2, "manager.pinned"),
    ],
)
def test_what_cannot_be_finished_is_not_begun(
    cli: Cli, tmp_path: Path, arguments: tuple[str, ...], code: int, error: str
) -> None:
    create(Path("old"), "old", SECRET)
    Path("file").touch()
    Path("open").mkdir(mode=0o755)
    Path("loop").symlink_to("loop")
    Path("other.json").write_bytes(canonical(pin("other").to_json()))
    create(Path("pinned"), "pinned", SECRET, pin=pin())
    Path("pinned/identity.json").unlink()
    before = made(tmp_path)
    found, answer = cli(*arguments)
    assert (found, answer["error"]) == (code, error)
    assert made(tmp_path) == before
    assert cli("ann")[0] == 0


def test_a_home_that_is_there_is_told_what_it_may_lack(cli: Cli) -> None:
    assert cli("ann")[0] == 0
    (reason,) = cli("ann")[1]["reasons"]
    assert "svetovid manager pin FILE --home ann" in reason["next_step"]
    Path("public/ann.card.json").rename("public/ben.card.json")
    assert cli("ben")[1]["error"] == "names.taken"


@pytest.mark.parametrize("there", [True, False])
def test_a_home_that_fails_half_way_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    home = tmp_path / "ann"
    if there:
        home.mkdir(mode=0o700)
        (home / "records.npz").touch()

    def full(*_: object) -> None:
        raise HostError("file.write", expected="room", observed="none")

    with monkeypatch.context() as patched:
        patched.setattr(keystore, "save", full)
        with pytest.raises(HostError):
            create(home, "ann", SECRET)
    assert os.listdir(tmp_path) == (["ann"] if there else [])
    assert not there or os.listdir(home) == ["records.npz"]
    who = create(home, "ann", SECRET)
    assert load(home, SECRET).key_id == who.key_id


def test_a_home_broken_off_before_its_identity_can_be_made_again(tmp_path: Path) -> None:
    create(tmp_path / "ann", "ann", SECRET)
    (tmp_path / "ann" / "identity.json").unlink()
    with pytest.raises(InputError):
        load(tmp_path / "ann", SECRET)
    again = create(tmp_path / "ann", "ann", SECRET)
    assert load(tmp_path / "ann", SECRET).key_id == again.key_id


@pytest.fixture
def away(tmp_path: Path) -> Path:
    """A home whose identity its owner keeps elsewhere; of its manager it demands evidence."""
    home = tmp_path / "ann"
    create(home, "ann", SECRET, pin=pin(require_evidence="sha256:" + "0" * 64))
    demanding = pin(require_evidence="sha256:" + "1" * 64)
    (home / "manager.json").write_bytes(canonical(demanding.to_json()))
    (home / "identity.json").rename(tmp_path / "stick.json")
    (home / "keys" / "data.json").touch()
    return home


@pytest.mark.parametrize("url", [None, "https://b.test"])
def test_what_lay_in_a_home_stays_where_none_can_be_made(away: Path, url: str | None) -> None:
    """Whatever was written over it by then."""
    before = files(away)
    with pytest.raises(InputError) as refused:
        create(away, "ann", Secret(b""), pin=None if url is None else pin(url=url))
    assert refused.value.code == "key.passphrase"
    assert files(away) == before


def test_t1_no_home_changes_its_manager_by_being_made(away: Path) -> None:
    """T1: the pin that lies there came out of band; so did what is demanded of that manager."""
    before = files(away)
    with pytest.raises(InputError) as refused:
        create(away, "ann", SECRET, pin=pin("other"))
    assert refused.value.code == "manager.pinned"
    assert files(away) == before
    create(away, "ann", SECRET, pin=pin(url="https://b.test"))
    held = ManagerPin.parse((away / "manager.json").read_bytes(), max_bytes=1 << 16)
    assert (held.url, held.require_evidence) == ("https://b.test", "sha256:" + "1" * 64)


def test_nothing_is_rotated_where_no_card_can_be_published(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else each try would leave one more key behind."""
    key = create(tmp_path / "ann", "ann", SECRET).key_id
    for public in ("p" * 300, "passphrase"):
        assert run(["identity", "rotate", "--home", "ann", "--public", public, "--json"]) == 4
        assert json.loads(capsys.readouterr().out)["error"] == "file.write"
    assert load(tmp_path / "ann", SECRET).key_id == key


def test_what_no_folder_can_be_named_has_a_code(cli: Cli, tmp_path: Path) -> None:
    who = create(tmp_path / "ann", "ann", SECRET)
    with pytest.raises(HostError, match=r"file\.write"):
        publish_card(who, tmp_path / ("p" * 300))
    with pytest.raises(HostError, match=r"file\.write"):
        publish_card(who, tmp_path / "passphrase")
    with pytest.raises(InputError, match=r"file\.unreadable"):
        read_names(tmp_path / ("p" * 300))
    assert not read_names(tmp_path / "nowhere").references
    with pytest.raises(HostError, match=r"file\.write"):
        write_public(tmp_path / "passphrase" / "ann.anchors.json", pin())
    with pytest.raises(InputError, match=r"home\.folder"):
        load(tmp_path / ("p" * 300), SECRET)
