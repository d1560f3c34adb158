"""Code bundles: the same folder gives the same bytes; path tricks are refused on both sides."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.sealed import WHO, code_of, fresh_url
from svetovid.assets import bundle as bundle_module
from svetovid.assets import load_bundle, open_asset, seal_bundle, seal_stream
from svetovid.assets.bundle import MAGIC
from svetovid.crypto import canonical, digest
from svetovid.errors import SvetovidError


def seal_and_load(directory: Path) -> dict[str, bytes]:
    url = fresh_url()
    manifest, key = seal_bundle(url, directory, name="code", **WHO)
    assert manifest.kind == "code"
    with open_asset(url, manifest, key, expected=manifest.digest()) as reader:
        return load_bundle(reader)


def load_plain(plain: bytes) -> dict[str, bytes]:
    url = fresh_url()
    manifest, key = seal_stream(url, [plain], kind="code", name="code", **WHO)
    with open_asset(url, manifest, key, expected=manifest.digest()) as reader:
        return load_bundle(reader)


def plain_of(files: list[tuple[str, bytes]], **change: object) -> bytes:
    listed = [{"path": p, "sha256": digest(d), "size": len(d), **change} for p, d in files]
    index = canonical({"files": listed})
    return MAGIC + len(index).to_bytes(4, "big") + index + b"".join(d for _, d in files)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "train.py").write_bytes(b"import pkg\n")
    (tmp_path / "pkg" / "__init__.py").write_bytes(b"")
    (tmp_path / "pkg" / "net.py").write_bytes(b"x = 1\n")
    return tmp_path


def test_a_folder_comes_back(folder: Path) -> None:
    assert seal_and_load(folder) == {
        "pkg/__init__.py": b"",
        "pkg/net.py": b"x = 1\n",
        "train.py": b"import pkg\n",
    }


def test_the_same_files_give_the_same_plaintext(folder: Path, tmp_path_factory: object) -> None:
    before = list(bundle_module._plaintext(folder))
    (folder / "train.py").chmod(0o755)
    os.utime(folder / "train.py", (1, 1))
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "train.cpython-311.pyc").write_bytes(b"compiled")
    assert list(bundle_module._plaintext(folder)) == before


def test_links_and_devices_are_refused(folder: Path) -> None:
    link = folder / "pkg" / "link.py"
    for target in ("net.py", "/etc/passwd", "nowhere"):
        link.symlink_to(target)
        assert code_of(lambda: seal_and_load(folder)) == "bundle.path"
        link.unlink()
    (folder / "away").symlink_to("/etc")
    assert code_of(lambda: seal_and_load(folder)) == "bundle.path"
    (folder / "away").unlink()
    os.mkfifo(folder / "pipe")
    assert code_of(lambda: seal_and_load(folder)) == "bundle.path"


def test_a_file_that_becomes_a_link_or_pipe_meanwhile(folder: Path) -> None:
    (folder / "link.py").symlink_to("train.py")
    assert code_of(lambda: bundle_module._read(folder / "link.py")) == "asset.input"
    os.mkfifo(folder / "pipe")
    assert code_of(lambda: bundle_module._read(folder / "pipe")) == "bundle.path"


@pytest.mark.parametrize(
    "name",
    [".git", "a b.py", "tr\u0430in.py", "x\n.py", "-rf", "a\\b", "é", "a" * 65, "a:b", "\udcff"],
)
def test_odd_names_are_refused(folder: Path, name: str) -> None:
    Path(os.fsdecode(os.fsencode(folder / name))).write_bytes(b"x")
    assert code_of(lambda: seal_and_load(folder)) == "bundle.path"


def test_odd_folder_and_deep_folder_are_refused(folder: Path) -> None:
    (folder / ".hidden").mkdir()
    assert code_of(lambda: seal_and_load(folder)) == "bundle.path"
    (folder / ".hidden").rmdir()
    deep = folder.joinpath(*"abcdefgh")
    deep.mkdir(parents=True)
    (deep / "i").write_bytes(b"")
    assert code_of(lambda: seal_and_load(folder)) == "bundle.path"


def test_names_that_differ_in_case_only(folder: Path) -> None:
    (folder / "Train.py").write_bytes(b"")
    assert code_of(lambda: seal_and_load(folder)) == "bundle.collision"
    (folder / "Train.py").unlink()
    (folder / "PKG").mkdir()
    (folder / "PKG" / "other.py").write_bytes(b"")
    assert code_of(lambda: seal_and_load(folder)) == "bundle.collision"


def test_nothing_to_seal(tmp_path: Path) -> None:
    assert code_of(lambda: seal_and_load(tmp_path)) == "bundle.empty"
    assert code_of(lambda: seal_and_load(tmp_path / "missing")) == "asset.input"


def test_limits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MAX_FILES", 2), ("MAX_FILE_BYTES", 10), ("MAX_BUNDLE_BYTES", 16)):
        with monkeypatch.context() as m:
            m.setattr(bundle_module, name, value)
            assert code_of(lambda: seal_and_load(folder)) == "bundle.limit", name
    monkeypatch.setattr(bundle_module, "MAX_BUNDLE_BYTES", 16)
    monkeypatch.setattr(bundle_module, "_MAX_INDEX_BYTES", 16)
    assert code_of(lambda: load_plain(bytes(100))) == "bundle.limit"


@pytest.mark.parametrize(
    "path",
    [
        "../up",
        "/abs",
        "a/../b",
        "./a",
        "a//b",
        "a/",
        "",
        "a\0b",
        "\u0430",
        "C:x",
        "a/.git/b",
        "a\\b",
    ],
)
def test_hostile_paths_are_refused_when_opened(path: str) -> None:
    assert code_of(lambda: load_plain(plain_of([(path, b"x")]))) == "bundle.path"


def test_hostile_indexes_are_refused_when_opened() -> None:
    good = plain_of([("a", b"1"), ("b", b"2")])
    assert load_plain(good) == {"a": b"1", "b": b"2"}
    cases = {
        "bundle.format": [
            b"",
            b"x",
            MAGIC,
            MAGIC + bytes(4),
            MAGIC + b"\xff\xff\xff\xff",
            b"X" + good[1:],
            good + b"more",
            good[:-1],
            plain_of([("b", b"2"), ("a", b"1")]),
            plain_of([("a", b"1"), ("a", b"1")]),
            MAGIC + (3).to_bytes(4, "big") + b"{ }",
        ],
        "bundle.collision": [
            plain_of([("A", b"1"), ("a", b"2")]),
            plain_of([("a", b"1"), ("a/b", b"2")]),
            plain_of([("A/x", b"1"), ("a/y", b"2")]),
        ],
        "bundle.digest": [plain_of([("a", b"1")], sha256="sha256:" + "0" * 64)],
        "document.invalid": [
            plain_of([]),
            plain_of([("a", b"1")], size=-1),
            plain_of([("a", b"1")], size=1 << 40),
            plain_of([("a", b"1")], mode=511),
            MAGIC + (2).to_bytes(4, "big") + b"[]",
        ],
        "json.syntax": [MAGIC + (2).to_bytes(4, "big") + b"{x"],
        "json.duplicate_key": [MAGIC + (13).to_bytes(4, "big") + b'{"a":1,"a":2}'],
    }
    spaced = good.replace(b'{"files"', b'{ "files"')
    length = int.from_bytes(good[16:20], "big") + 1
    cases["bundle.format"].append(spaced[:16] + length.to_bytes(4, "big") + spaced[20:])
    cases["bundle.format"].remove(MAGIC + (3).to_bytes(4, "big") + b"{ }")
    for code, plains in cases.items():
        for plain in plains:
            assert code_of(partial(load_plain, plain)) == code, plain


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=120), st.booleans())
def test_any_bytes_give_our_error(data: bytes, framed: bool) -> None:
    with pytest.raises(SvetovidError):
        load_plain(MAGIC + len(data).to_bytes(4, "big") + data if framed else data)
