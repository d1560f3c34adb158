"""A home is made whole or not at all, and so are several at once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from svetovid.cli.main import run
from svetovid.crypto import Secret, keystore
from svetovid.errors import HostError, InputError
from svetovid.stakeholder import create, load

Cli = Callable[..., tuple[int, dict[str, Any]]]
SECRET = Secret(b"quite secret")


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
    ],
)
def test_what_cannot_be_finished_is_not_begun(
    cli: Cli, tmp_path: Path, arguments: tuple[str, ...], code: int, error: str
) -> None:
    create(Path("old"), "old", SECRET)
    Path("file").touch()
    Path("open").mkdir(mode=0o755)
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
