"""Addresses, and objects that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.sealed import WHO, code_of, fresh_url, sealed, store, stored
from svetovid.assets import load_manifest, manifest_url, open_asset, seal_file, seal_stream
from svetovid.assets import store as store_module
from svetovid.assets.store import create, open_source, read_small
from svetovid.assets.urls import parse_url
from svetovid.errors import HostError, InputError

MODEL = {"kind": "model", "name": "m", **WHO}


class Interrupted(BaseException):
    """Neither an Exception nor ours, like KeyboardInterrupt."""


def failing() -> Iterator[bytes]:
    yield b"x" * 1000
    raise Interrupted


@pytest.mark.parametrize(
    ("url", "scheme", "path"),
    [
        ("file:///data/a.sealed", "file", "/data/a.sealed"),
        ("file:///data/with%20space/%C3%A9", "file", "/data/with space/é"),
        ("memory://a/b", "memory", "/a/b"),
        ("s3://my-bucket/some/key.sealed", "s3", "my-bucket/some/key.sealed"),
    ],
)
def test_plain_addresses(url: str, scheme: str, path: str) -> None:
    address = parse_url(url)
    assert (address.scheme, address.path) == (scheme, path)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/etc/passwd",
        "relative",
        "http://host/x",
        "https://host/x",
        "ftp://host/x",
        "github://x",
        "FILE:///x",
        "file:///",
        "file://host/x",
        "file://localhost/x",
        "file:/x",
        "file:///a/../b",
        "file:///a/%2e%2e/b",
        "file:///a/./b",
        "file:///a//b",
        "file:///a%2Fb",
        "file:///a%00b",
        "file:///a%0ab",
        "file:///a%ff",
        "file:///a%zz",
        "file:///a?x",
        "file:///a#x",
        "file:///a b",
        "file:///a\n",
        "file:///\u0430",
        "simplecache::s3://bucket/key",
        "zip://a::file:///x",
        "memory://",
        "memory://../x",
        "memory://a//b",
        "memory://a%20b",
        "s3://bucket",
        "s3://bucket/",
        "s3://key:secret@bucket/key",
        "s3://Bucket/key",
        "s3://bucket/../key",
        "s3://bucket/key?versionId=1",
        "s3://bucket/k*",
        "file:///" + "a" * 3000,
    ],
)
def test_odd_addresses_are_refused(url: str) -> None:
    assert code_of(lambda: parse_url(url)) == "asset.url"
    assert code_of(lambda: seal_stream(url, [b""], **MODEL)) == "asset.url"


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40), st.sampled_from(["", "file:///", "memory://", "s3://bucket/"]))
def test_any_text_is_an_address_or_refused(text: str, prefix: str) -> None:
    with contextlib.suppress(InputError):
        address = parse_url(prefix + text)
        assert ".." not in address.path.split("/")
        assert "\0" not in address.path


def test_a_local_file(tmp_path: Path) -> None:
    content = os.urandom(700_000)
    (tmp_path / "in").write_bytes(content)
    url = (tmp_path / "a b.sealed").as_uri()
    manifest, key = seal_file(url, tmp_path / "in", name="m", **WHO)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a b.sealed",
        "a b.sealed.manifest.json",
        "in",
    ]
    assert load_manifest(manifest_url(url)) == manifest
    with open_asset(url, manifest, key, expected=manifest.digest()) as reader:
        assert reader.read_at(0, 700_000) == content


def test_a_local_file_cut_while_it_is_read(tmp_path: Path) -> None:
    url = (tmp_path / "a").as_uri()
    manifest, key = seal_stream(url, [bytes(1000)], chunk_bytes=64, **MODEL)
    with open_asset(url, manifest, key, expected=manifest.digest()) as reader:
        os.truncate(tmp_path / "a", 500)
        assert code_of(lambda: reader.read_at(900, 10)) == "asset.truncated"


@pytest.mark.parametrize("place", ["file", "memory"])
def test_a_failed_write_leaves_nothing(place: str, tmp_path: Path) -> None:
    url = (tmp_path / "a").as_uri() if place == "file" else fresh_url()
    with pytest.raises(Interrupted):
        seal_stream(url, failing(), **MODEL)
    memory = fsspec.filesystem("memory")
    assert not list(tmp_path.iterdir())
    assert not [p for p in memory.find("/tests") if p.startswith(url.removeprefix("memory:/"))]
    seal_stream(url, [b"now it works"], **MODEL)


def test_a_killed_write_leaves_no_container(tmp_path: Path) -> None:
    url = (tmp_path / "a").as_uri()
    script = (
        "import sys, time\n"
        "from svetovid.assets import seal_stream\n"
        "def blocks():\n"
        "    yield bytes(1 << 20)\n"
        "    print('half', flush=True)\n"
        "    time.sleep(60)\n"
        f"seal_stream({url!r}, blocks(), kind='model', name='m',"
        f" owner={WHO['owner']!r}, manager={WHO['manager']!r})\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"half\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "a.manifest.json").exists()
    seal_stream(url, [b"again"], **MODEL)


@pytest.mark.parametrize("place", ["file", "memory"])
def test_nothing_is_overwritten(place: str, tmp_path: Path) -> None:
    url = (tmp_path / "a").as_uri() if place == "file" else fresh_url()
    manifest, key = seal_stream(url, [b"first"], **MODEL)
    # Said before anything is read: failing() would raise otherwise.
    assert code_of(lambda: seal_stream(url, failing(), **MODEL)) == "asset.exists"
    with open_asset(url, manifest, key, expected=manifest.digest()) as reader:
        assert reader.read_at(0, 5) == b"first"


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    def act() -> None:
        with create((tmp_path / "a").as_uri()) as sink:
            sink.write(b"ours")
            (tmp_path / "a").write_bytes(b"theirs")

    assert code_of(act) == "asset.exists"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"theirs"


def test_local_trouble_has_our_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    assert code_of(lambda: open_source((tmp_path / "none").as_uri())) == "asset.missing"
    assert code_of(lambda: open_source(tmp_path.as_uri())) == "asset.missing"
    os.mkfifo(tmp_path / "pipe")
    assert code_of(lambda: open_source((tmp_path / "pipe").as_uri())) == "asset.missing"
    nowhere = (tmp_path / "no" / "folder").as_uri()
    assert code_of(lambda: seal_stream(nowhere, [b""], **MODEL)) == "asset.missing"
    (tmp_path / "file").write_bytes(b"x")
    under = (tmp_path / "file" / "x").as_uri()
    assert code_of(lambda: seal_stream(under, [b""], **MODEL)) == "asset.missing"
    with monkeypatch.context() as m:
        m.setattr(store_module.os, "link", full)
        url = (tmp_path / "full").as_uri()
        assert code_of(lambda: seal_stream(url, [b"x"], **MODEL)) == "asset.storage"
    assert not (tmp_path / "full").exists()
    source = open_source((tmp_path / "file").as_uri())
    source.close()
    with monkeypatch.context() as m:
        m.setattr(store_module.os, "preadv", full)
        assert code_of(lambda: source.read_into(0, memoryview(bytearray(1)))) == "asset.storage"


def test_input_that_cannot_be_sealed(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", Path("/dev/null")):
        act = partial(seal_file, fresh_url(), path, name="m", **WHO)
        assert code_of(act) == "asset.input"
    odd: list[object] = ["text", 7, memoryview(bytes(10))[::2]]
    for block in odd:
        act = partial(seal_stream, fresh_url(), [block], **MODEL)
        assert code_of(act) == "asset.block"
    wrong = partial(seal_stream, fresh_url(), [b""], **MODEL | {"name": "No Name"})
    assert code_of(wrong) == "document.invalid"


def test_manifests_are_read_within_a_bound() -> None:
    assert code_of(lambda: load_manifest(store(b" " * ((4 << 20) + 9)))) == "json.size"
    assert code_of(lambda: load_manifest(store(b"[" * 100))) == "json.depth"
    assert code_of(lambda: load_manifest(fresh_url())) == "asset.missing"
    assert read_small(store(b"abc"), 2) == b"abc"


def test_far_storage_is_read_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module._RemoteSource, "window", 1000)
    content = bytes(i % 256 for i in range(10_000))
    s = sealed(content, chunk_bytes=256)
    fs = fsspec.filesystem("memory")
    asked: list[int] = []
    real = fs.cat_file
    monkeypatch.setattr(
        type(fs), "cat_file", lambda self, *a, **k: asked.append(1) or real(*a, **k)
    )
    with open_asset(s.url, s.manifest, s.key, expected=s.manifest.digest()) as reader:
        asked.clear()
        assert b"".join(bytes(b) for b in reader.blocks()) == content
        assert len(asked) == 14  # three chunks of 320 stored bytes a window
        reader._source.window = 100
        out = bytearray(10_000)
        reader.stream_into(out)
        assert out == content


class BrokenError(Exception):
    """What some back end raises of its own."""


def test_far_trouble_has_our_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise BrokenError

    s = sealed(b"x" * 100)
    fs = type(fsspec.filesystem("memory"))
    with open_asset(s.url, s.manifest, s.key, expected=s.manifest.digest()) as reader:
        monkeypatch.setattr(fs, "cat_file", broken)
        assert code_of(lambda: reader.read_at(0, 1)) == "asset.transport"
    monkeypatch.setattr(fs, "mv", broken)
    url = fresh_url()
    assert code_of(lambda: seal_stream(url, [b"x"], **MODEL)) == "asset.transport"
    assert not [p for p in fs.store if url.removeprefix("memory:/") in p]


def test_s3_without_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise ImportError

    monkeypatch.setattr(store_module.fsspec, "filesystem", absent)
    with pytest.raises(HostError) as caught:
        open_source("s3://bucket/key")
    assert caught.value.code == "asset.extra"
    assert caught.value.reason.next_step == "pip install 'svetovid[s3]'"


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    pytest.importorskip("s3fs", reason="the s3 extra is not installed")
    server = pytest.importorskip("moto.server", reason="moto is not installed: no S3 to test with")
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    _, port = running.get_host_and_port()
    saved = dict(os.environ)
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    fsspec.filesystem("s3", use_listings_cache=False).mkdir("sealed-assets")
    yield "s3://sealed-assets"
    running.stop()
    os.environ.clear()
    os.environ |= saved


def test_s3(bucket: str) -> None:
    content = os.urandom(300_000)
    url = f"{bucket}/folder/a.sealed"
    manifest, key = seal_stream(url, [content], chunk_bytes=1 << 16, **MODEL)
    assert load_manifest(manifest_url(url)) == manifest
    with open_asset(url, manifest, key, expected=manifest.digest()) as reader:
        assert reader.read_at(100_000, 1000) == content[100_000:101_000]
        assert b"".join(bytes(b) for b in reader.blocks()) == content
    assert code_of(lambda: seal_stream(url, [b""], **MODEL)) == "asset.exists"
    assert code_of(lambda: open_source(f"{bucket}/none")) == "asset.missing"


def test_a_failed_upload_leaves_nothing(bucket: str) -> None:
    def large() -> Iterator[bytes]:
        for _ in range(52):
            yield bytes(1 << 20)
        raise Interrupted

    url = f"{bucket}/failed"
    with pytest.raises(Interrupted):
        seal_stream(url, large(), **MODEL)
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    assert not fs.find("sealed-assets/failed")
    assert not fs.call_s3("list_multipart_uploads", Bucket="sealed-assets").get("Uploads")


def test_stored_helper_reads_what_was_stored() -> None:
    assert stored(store(b"abc")) == b"abc"
