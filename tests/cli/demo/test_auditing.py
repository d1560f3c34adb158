"""The search goes through all that lies about, whoever put it there, and into no owner's home."""

from __future__ import annotations

import secrets
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from svetovid.cli.demo import auditing
from svetovid.cli.demo.cast import OWNERS, STAKEHOLDERS


class Folder:
    """As much of a story as the search takes."""

    def __init__(self, folder: Path) -> None:
        self.findings = SimpleNamespace(canary={})
        self.secrets = {"records": secrets.token_bytes(4096)}
        self.stage = SimpleNamespace(folder=folder)
        self.tap = SimpleNamespace(flush=lambda: None, bytes_seen=0)
        self.parties = {name: self._party(folder, name) for name in STAKEHOLDERS}
        self.cast = self
        self.said: list[str] = []
        self.say = self.said.append

    def __getitem__(self, name: str) -> Any:
        return self.parties[name]

    def _party(self, folder: Path, name: str) -> Any:
        home, passphrase = folder / name, folder / f"{name}.passphrase"
        home.mkdir(mode=0o700)
        passphrase.touch(0o600)
        return SimpleNamespace(home=home, passphrase_file=passphrase, uid=None)

    def found(self) -> dict[str, Any]:
        auditing.search_for_canaries(self)  # type: ignore[arg-type]
        return self.findings.canary


@pytest.fixture
def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(auditing, "_keys_of", lambda *_: [])
    return Folder(tmp_path)


@pytest.mark.parametrize("place", ["papers/carol-code", "left-behind", "vera", "."])
def test_t18_a_secret_is_found_wherever_it_was_put(story: Folder, place: str) -> None:
    folder = story.stage.folder / place
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.py").write_bytes(b"# " + story.secrets["records"])
    found = story.found()
    assert found["hits"]
    assert all(str(Path(place) / "train.py") in hit for hit in found["hits"])
    assert found["planted_found"]


def test_t18_an_owners_own_home_holds_its_own_secrets(story: Folder) -> None:
    for name in OWNERS:
        (story[name].home / "records").write_bytes(story.secrets["records"])
    found = story.found()
    assert not found["hits"]
    assert found["planted_found"]
    assert not found["open"]
    assert not (story.stage.folder / "planted").exists()


@pytest.mark.parametrize("what", ["home", "passphrase_file"])
def test_t18_an_owners_home_that_others_can_open(story: Folder, what: str) -> None:
    path = getattr(story["carol"], what)
    path.chmod(0o710)
    assert story.found()["open"] == [str(path)]


def test_t18_an_owners_home_that_is_another_uids(story: Folder) -> None:
    for number, party in enumerate(story.parties.values()):
        party.uid = party.home.stat().st_uid + number
    here = [str(story["alice"].home), str(story["alice"].passphrase_file)]
    found = story.found()["open"]
    assert len(found) == 2 * (len(OWNERS) - 1)
    assert not set(here) & set(found)
    story["olga"].uid = story["alice"].uid
    assert "two parties with one uid" in story.found()["open"]
