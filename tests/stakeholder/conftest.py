"""Homes, a pinned manager that nobody reaches, and a small story of three parties."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from inprocess import InProcess
from ownerstory import Story
from svetovid import stakeholder
from svetovid.crypto import Identity, Secret, b64encode, canonical, digest, keystore
from svetovid.evidence.documents import ReferenceValues, TrustAnchors
from svetovid.manager import Home, PassphraseSealer, make_app, open_home, open_manager
from svetovid.protocol import ManagerPin
from svetovid.stakeholder import Stakeholder

PASSPHRASE = Secret(b"canary-passphrase")


@pytest.fixture(autouse=True)
def _quick_passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2id with the least memory a key file may name: these tests are about other things."""
    real = keystore._Header

    def cheap(**fields: object) -> object:
        return real(**(fields | {"memory_kib": 19 << 10, "passes": 1}))

    monkeypatch.setattr(keystore, "_Header", _Cheap(real, cheap))


class _Cheap:
    def __init__(self, real: type, make: Callable[..., object]) -> None:
        self._real, self._make = real, make

    def __call__(self, **fields: object) -> object:
        return self._make(**fields)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


@pytest.fixture
def manager() -> Identity:
    return Identity.generate("manager")


@pytest.fixture
def pin_file(tmp_path: Path, manager: Identity) -> Path:
    pin = ManagerPin(
        card=manager.signed_card(),
        tls_certificate=b64encode(b"not a certificate" * 16),
        url="https://127.0.0.1:1",
    )
    path = tmp_path / "manager.json"
    path.write_bytes(pin.canonical())
    return path


@pytest.fixture
def public(tmp_path: Path) -> Path:
    return tmp_path / "public"


@pytest.fixture
def home(tmp_path: Path, pin_file: Path, public: Path) -> Callable[[str], Stakeholder]:
    """Makes a stakeholder with the manager pinned and its card published."""

    def make(name: str) -> Stakeholder:
        who = stakeholder.create(tmp_path / name, name, PASSPHRASE)
        stakeholder.pin_manager(who, pin_file)
        stakeholder.publish_card(who, public)
        return who

    return make


@pytest.fixture
def ann(home: Callable[[str], Stakeholder]) -> Iterator[Stakeholder]:
    return home("ann")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "records.npz"
    np.savez(path, x=rng.standard_normal((20, 3)).astype("f4"), y=rng.integers(0, 2, 20))
    return path


@pytest.fixture
def story(tmp_path: Path, data: Path, public: Path) -> Iterator[Story]:
    home: Home = open_home(
        tmp_path / "m", PassphraseSealer(Secret(b"root")), host="127.0.0.1", port=1
    )
    manager = open_manager(home)
    app = make_app(manager)
    people = {}
    for name in ("ann", "carol", "rita", "olga"):
        who = stakeholder.create(tmp_path / name, name, Secret(b"canary-passphrase"))
        stakeholder.pin_manager(who, tmp_path / "m" / "manager.json")
        stakeholder.publish_card(who, public)
        who.transport = lambda: InProcess(app)
        people[name] = who
    anchors = {"kind": "tpm-ek", "name": "CA", "certificate": "AAAA", "simulated": True}
    values = {"product": "runtime", "version": 1, "files": {"/x": [digest(b"x")]}}
    documents = {
        "anchors": TrustAnchors.from_json({"product": "cas", "version": 1, "anchors": [anchors]}),
        "references": ReferenceValues.from_json(values),
    }
    for name, document in documents.items():
        (tmp_path / f"{name}.json").write_bytes(canonical(document.to_json()))
    stakeholder.write_public(public / "runtime.references.json", documents["references"])
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text("print()\n")
    data.rename(tmp_path / "ann-data.npz")
    try:
        yield Story(tmp_path, public, people)
    finally:
        manager.close()


@pytest.fixture
def shared(story: Story) -> Story:
    story.share("carol", story.folder / "code", "code")
    story.share("ann", story.folder / "ann-data.npz", "data")
    return story
