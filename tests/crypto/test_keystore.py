"""Identities on disk: private, whole, and only under their passphrase."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from svetovid.crypto import Identity, Secret, canonical, keystore
from svetovid.crypto.keystore import load, save
from svetovid.crypto.private import write_private
from svetovid.errors import HostError, InputError, SvetovidError

PASSPHRASE = Secret(b"correct horse battery staple")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, alice: Identity) -> bytes:
    path = tmp_path_factory.mktemp("home") / "identity"
    save(alice, path, PASSPHRASE)
    return path.read_bytes()


def place(folder: Path, data: bytes, mode: int = 0o600) -> Path:
    path = folder / "identity"
    path.write_bytes(data)
    path.chmod(mode)
    return path


def code(path: Path, passphrase: Secret = PASSPHRASE) -> str:
    with pytest.raises(SvetovidError) as e:
        load(path, passphrase)
    return e.value.code


def test_what_was_saved_loads(tmp_path: Path, alice: Identity, stored: bytes) -> None:
    path = place(tmp_path, stored)
    back = load(path, PASSPHRASE)
    assert back.key_id == alice.key_id
    assert back.name == alice.name
    assert back.card == alice.card
    assert back.signing_seed == alice.signing_seed


def test_the_file_is_private_and_shows_no_secret(tmp_path: Path, alice: Identity) -> None:
    old = os.umask(0)
    try:
        save(alice, tmp_path / "identity", PASSPHRASE)
    finally:
        os.umask(old)
    assert (tmp_path / "identity").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["identity"]
    data = (tmp_path / "identity").read_bytes()
    for secret in (alice.signing_seed, alice.receiving.seed, PASSPHRASE):
        assert secret.reveal() not in data
        assert secret.reveal().hex().encode() not in data


@pytest.mark.parametrize("passphrase", [b"", b"wrong", PASSPHRASE.reveal() + b" "])
def test_a_wrong_passphrase_is_refused(tmp_path: Path, stored: bytes, passphrase: bytes) -> None:
    assert code(place(tmp_path, stored), Secret(passphrase)) == "key.passphrase"


def test_no_identity_without_a_passphrase(tmp_path: Path, alice: Identity) -> None:
    with pytest.raises(InputError) as e:
        save(alice, tmp_path / "identity", Secret(b""))
    assert e.value.code == "key.passphrase"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o777])
def test_a_file_open_to_others_is_refused(tmp_path: Path, stored: bytes, mode: int) -> None:
    assert code(place(tmp_path, stored, mode)) == "key.file"


def test_what_is_no_plain_file_is_refused(tmp_path: Path, stored: bytes) -> None:
    """A link could lead to a file that somebody else can change; a FIFO would never end."""
    target = place(tmp_path, stored)
    link = tmp_path / "link"
    link.symlink_to(target)
    assert code(link) == "key.file"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    assert code(fifo) == "key.file"
    folder = tmp_path / "folder"
    folder.mkdir(0o700)
    assert code(folder) == "key.file"
    assert code(tmp_path / "missing") == "key.file"


@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
def test_an_identity_is_never_overwritten(tmp_path: Path, alice: Identity, kind: str) -> None:
    path = tmp_path / "identity"
    other = tmp_path / "other"
    if kind == "file":
        path.write_bytes(b"precious")
    else:
        if kind == "link":
            other.write_bytes(b"precious")
        path.symlink_to(other)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InputError) as e:
        save(alice, path, PASSPHRASE)
    assert e.value.code == "key.exists"
    assert sorted(os.listdir(tmp_path)) == before
    if kind != "dangling":
        assert path.read_bytes() == b"precious"


def test_truncated_at_every_byte(tmp_path: Path, stored: bytes) -> None:
    path = place(tmp_path, b"")
    for n in range(len(stored)):
        path.write_bytes(stored[:n])
        assert code(path) == "json.syntax"
    path.write_bytes(stored + b" " * (16 << 10))
    assert code(path) == "json.size"


def edited(stored: bytes, **changes: object) -> bytes:
    value = json.loads(stored)
    for name, change in changes.items():
        value["header" if name != "sealed" else name] = (
            change if name == "sealed" else value["header"] | {name: change}
        )
    return canonical(value)


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({"name": "bob"}, "key.passphrase"),  # the header is authenticated
        ({"signing": "ed25519:" + "0" * 64}, "key.passphrase"),
        ({"passes": 1}, "key.passphrase"),
        ({"salt": ""}, "key.passphrase"),
        ({"sealed": ""}, "key.passphrase"),
        ({"sealed": "AAAA"}, "key.passphrase"),
        ({"memory_kib": 1 << 30}, "document.invalid"),  # nobody makes us stretch for an hour
        ({"memory_kib": 8}, "document.invalid"),
        ({"passes": 10**6}, "document.invalid"),
        ({"lanes": 0}, "document.invalid"),
        ({"kdf": "none"}, "document.invalid"),
        ({"version": "svetovid.keystore/v2"}, "document.invalid"),
        ({"more": 1}, "document.invalid"),
    ],
)
def test_an_altered_file_is_refused(
    tmp_path: Path, stored: bytes, changes: dict[str, object], want: str
) -> None:
    assert code(place(tmp_path, edited(stored, **changes))) == want


def test_seeds_that_are_not_the_header_s_are_refused(
    tmp_path: Path, alice: Identity, bob: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sealed under the right passphrase, yet for another key than the header names."""
    path = tmp_path / "identity"
    monkeypatch.setattr(alice, "key_id", bob.key_id)
    save(alice, path, PASSPHRASE)
    assert code(path) == "key.passphrase"


def test_a_crash_leaves_the_old_or_nothing(
    tmp_path: Path, alice: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_private(path, b"old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keystore.os, "fsync", full)
    with pytest.raises(HostError) as e:
        write_private(path, b"new")
    assert e.value.code == "file.write"
    assert "No space" in e.value.reason.observed
    with pytest.raises(HostError):
        save(alice, tmp_path / "identity", PASSPHRASE)
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_bytes() == b"old"


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    """SIGKILL between write and rename, in a process of its own."""
    path = tmp_path / "file"
    write_private(path, b"old")
    script = (
        "import os, pathlib, signal, sys\n"
        "from svetovid.crypto.private import write_private\n"
        "os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_private(pathlib.Path(sys.argv[1]), b'new' * 1000)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True)
    assert done.returncode == -9
    assert path.read_bytes() == b"old"


def test_write_private_replaces_or_refuses(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_private(path, b"one", replace=False)
    with pytest.raises(InputError) as e:
        write_private(path, b"two", replace=False)
    assert e.value.code == "file.exists"
    write_private(path, b"three")
    assert path.read_bytes() == b"three"
    with pytest.raises(HostError) as h:
        write_private(tmp_path / "missing" / "file", b"x")
    assert h.value.code == "file.write"
