"""Reference values out of folders and packages; nothing that is odd becomes a value in silence."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import shutil
import subprocess
import tarfile
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stakeholder.packing import CONTROL, ar, deb, sha, tar
from svetovid.errors import HostError, InputError, SvetovidError
from svetovid.evidence import ReferenceValues
from svetovid.stakeholder.sources import (
    archives,
    directory,
    from_debian,
    from_directory,
    make_references,
    streams,
)

ROOT = {
    "./": None,
    "./usr/": None,
    "./usr/lib/": None,
    "./usr/lib/libssl.so.3": b"ssl",
    "./lib/x86/ld.so": b"ld",
    "./usr/lib/hard.so": ("hard", "./usr/lib/libssl.so.3"),
    "./usr/lib/link.so": ("link", "libssl.so.3"),
    "./etc/a\nb": b"no log can name it",
}
VALUES = {
    "/usr/lib/libssl.so.3": (sha(b"ssl"),),
    "/usr/lib/x86/ld.so": (sha(b"ld"),),
    "/usr/lib/hard.so": (sha(b"ssl"),),
}


MEMBERS = [
    ("debian-binary", b"2.0\n"),
    ("control.tar", tar({"./control": CONTROL})),
    ("data.tar", tar(ROOT)),
]


def refused(code: str, data: bytes, tmp_path: Path) -> SvetovidError:
    path = tmp_path / "bad.deb"
    path.write_bytes(data)
    with pytest.raises(SvetovidError) as e:
        from_debian(path)
    assert e.value.code == code, e.value
    assert e.value.reason.next_step
    return e.value


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress, bytes, zstd])
def test_a_package(pack, tmp_path: Path) -> None:
    if pack is zstd and not shutil.which("zstd"):
        pytest.skip("no zstd here")
    path = tmp_path / "libssl3.deb"
    path.write_bytes(data := deb(ROOT, pack=pack))
    read: list[int] = []
    source = from_debian(path, progress=read.append)
    assert source.files == VALUES
    assert (source.kind, source.name) == ("debian", "libssl3 3.0.15-1 amd64")
    assert source.artifact == sha(data)
    assert 0 < sum(read) <= len(data)
    assert "/lib/x86/ld.so" in from_debian(path, merged_usr=False).files


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="no dpkg-deb here")
def test_a_package_that_dpkg_made(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_bytes(CONTROL.replace(b"\n y", b"") + b"Maintainer: a <a@b>\n")
    (tree / ("d" * 90) / ("e" * 90)).mkdir(parents=True)
    (tree / ("d" * 90) / ("e" * 90) / "long").write_bytes(b"long")
    os.link(tree / ("d" * 90) / ("e" * 90) / "long", tree / "short")
    subprocess.run(["dpkg-deb", "-b", tree, tmp_path / "x.deb"], check=True, capture_output=True)
    long = "/" + "d" * 90 + "/" + "e" * 90 + "/long"
    assert from_debian(tmp_path / "x.deb").files == {
        long: (sha(b"long"),),
        "/short": (sha(b"long"),),
    }


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"!<arch>\n",
        deb(ROOT)[:-30],
        deb(ROOT)[:200],
        deb(ROOT).replace(b"`\n", b"\n`", 1),
        deb(ROOT).replace(b"2.0\n", b"3.0\n"),
        deb(ROOT, control=b"Package: x\n"),
        ar([("debian-binary", b"2.0\n"), ("data.tar", tar(ROOT))]),
        ar([*MEMBERS, ("data.tar.xz", tar(ROOT))]),
        ar([*MEMBERS[:1], ("control.tar", tar([("./control", CONTROL)] * 2)), *MEMBERS[2:]]),
        ar([*MEMBERS[:2], ("data.tar", tar({"a": b"x" * 512})[:1024])]),
        deb(ROOT, pack=lambda d: gzip.compress(d)[:-9]),
        deb(ROOT, pack=lambda d: lzma.compress(d)[:-9]),
        deb(ROOT, pack=lambda d: lzma.compress(d) + b"more"),
        deb(ROOT, pack=lambda d: d[:2000]),
        deb(ROOT, pack=lambda d: d + bytes(1 << 20)),
        deb(ROOT, pack=lambda d: d + b"more"),
        deb(ROOT, pack=lambda d: d[: d.index(b"ld")]),
        deb(ROOT, pack=lambda d: d.replace(b"ustar", b"ustaR")),
        deb(ROOT, pack=lambda d: d[:1536] + b"x" * 512 + d[2048:]),
        deb(ROOT, pack=lambda _: b"\x28\xb5\x2f\xfd" + b"nothing"),
    ],
)
def test_a_package_that_is_none(data: bytes, tmp_path: Path) -> None:
    refused("source.malformed", data, tmp_path)


@pytest.mark.parametrize(
    "entries",
    [
        {"../../etc/passwd": b"x"},
        {"./usr/../../x": b"x"},
        {"./a": ("hard", "../../etc/shadow")},
        {"./a": ("hard", "./nothing")},
        {"./usr/": None, "./a": ("hard", "./usr")},
        {"./a": ("link", "b"), "./b": ("link", "a"), "./a/x": b"x"},
        {"x/" * 300 + "y": b"x"},
    ],
)
def test_paths_that_lead_out_or_nowhere(entries: dict, tmp_path: Path) -> None:
    refused("source.path", deb(entries), tmp_path)


def test_files_behind_a_link_are_listed_where_they_lie(tmp_path: Path) -> None:
    path = tmp_path / "x.deb"
    entries = {
        "./opt/real/": None,
        "./opt/name": ("link", "real"),
        "./up": ("link", "/opt/./name/../name"),
        "./out": ("link", "../../../opt"),
        "./up/a": b"a",
        "./out/b": b"b",
    }
    path.write_bytes(deb(entries))
    assert from_debian(path).files == {"/opt/real/a": (sha(b"a"),), "/opt/b": (sha(b"b"),)}


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = tarfile.TarInfo("x")
    huge.type, huge.size = tarfile.XHDTYPE, 1 << 32
    tracemalloc.start()
    refused("source.size", deb({}, pack=lambda _: huge.tobuf() + bytes(1 << 20)), tmp_path)
    bomb = deb({"x": b""}, pack=lambda _: gzip.compress(tar({"x": bytes(64 << 20)})))
    monkeypatch.setattr(archives, "MAX_UNPACKED", 1 << 20)
    tracemalloc.reset_peak()
    refused("source.size", bomb, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 48 << 20
    monkeypatch.setattr(archives, "MAX_FILES", 3)
    refused("source.size", deb(ROOT), tmp_path)


def test_an_xz_header_that_asks_for_a_machine(tmp_path: Path) -> None:
    def greedy(data: bytes) -> bytes:
        packed = bytearray(lzma.compress(data))
        end = 12 + (packed[12] + 1) * 4  # of the block's header: flags, LZMA2, its dictionary
        assert packed[14:16] == b"\x21\x01"
        packed[16] = 38  # 2 GiB
        packed[end - 4 : end] = zlib.crc32(packed[12 : end - 4]).to_bytes(4, "little")
        return bytes(packed)

    assert "Memory" in refused("source.malformed", deb(ROOT, pack=greedy), tmp_path).reason.observed


def test_no_zstd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.shutil, "which", lambda _: None)
    refused("source.zstd", deb(ROOT, pack=lambda d: b"\x28\xb5\x2f\xfd" + d), tmp_path)


GOOD = deb(ROOT, pack=bytes)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=20), st.booleans())
def test_changed_bytes_are_refused_or_read(at: int, new: bytes, cut: bool) -> None:
    path = Path(f"/tmp/svetovid-test-{os.getpid()}.deb")
    path.write_bytes(GOOD[:at] + new + (b"" if cut else GOOD[at + len(new) :]))
    try:
        from_debian(path)
    except SvetovidError as e:
        assert e.code.startswith("source.")  # noqa: PT017
    finally:
        path.unlink()


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match=r"file\.unreadable"):
            from_debian(path)


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/x").write_bytes(b"x")
    (tmp_path / "usr/bin/link").symlink_to("x")
    (tmp_path / "out").symlink_to("/etc")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a\nb").write_bytes(b"")
    read: list[int] = []
    source = from_directory(tmp_path, progress=read.append)
    assert source.files == {"/usr/bin/x": (sha(b"x"),)}
    assert (source.kind, source.artifact, sum(read)) == ("directory", None, 1)
    assert from_directory(tmp_path, at="/srv/tree/", name="a root").files == {
        "/srv/tree/usr/bin/x": (sha(b"x"),)
    }
    (tmp_path / "byname").symlink_to(tmp_path / "usr")
    assert list(from_directory(tmp_path / "byname").files) == ["/bin/x"]
    for at in ("srv", "/srv/../x", ""):
        with pytest.raises(InputError, match=r"source\.path"):
            from_directory(tmp_path, at=at)
    with pytest.raises(HostError, match=r"source\.unreadable"):
        from_directory(tmp_path / "none")


def test_the_root_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "_regular", lambda root: [f"{root}usr/bin/env"])
    assert list(from_directory(Path("/")).files) == ["/usr/bin/env"]
    assert list(from_directory(Path("/"), at="/srv").files) == ["/srv/usr/bin/env"]


def test_a_folder_that_changes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"x")
    real = hashlib.file_digest

    def changing(source, name):
        value = real(source, name)
        file.write_bytes(b"longer")
        return value

    monkeypatch.setattr(hashlib, "file_digest", changing)
    with pytest.raises(HostError, match=r"source\.unreadable"):
        from_directory(tmp_path)


# -- one document -------------------------------------------------------------------------------


def edition(version: int, files: dict[str, bytes], tmp_path: Path, **more) -> ReferenceValues:
    folder = tmp_path / f"v{version}"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return make_references("runtime", version, [from_directory(folder, name="tree")], **more)


def test_an_edition_supersedes_what_it_no_longer_lists(tmp_path: Path) -> None:
    first = edition(1, {"a": b"1", "b": b"1", "gone": b"1"}, tmp_path)
    second = edition(2, {"a": b"2", "b": b"1"}, tmp_path, previous=first, until=500)
    assert second.superseded == {"/a": {sha(b"1"): 500}, "/gone": {sha(b"1"): 500}}
    third = edition(3, {"a": b"3", "gone": b"1"}, tmp_path, previous=second, until=900)
    assert third.superseded == {
        "/a": {sha(b"1"): 500, sha(b"2"): 900},
        "/b": {sha(b"1"): 900},
    }
    for wrong in ({"previous": first}, {"until": 5}):
        with pytest.raises(InputError, match=r"reference\.previous"):
            edition(2, {"a": b"2"}, tmp_path, **wrong)
    with pytest.raises(InputError, match=r"reference\.previous"):
        edition(1, {"a": b"2"}, tmp_path, previous=first, until=5)
    with pytest.raises(InputError, match=r"reference\.previous"):
        make_references("other", 2, [], previous=first, until=5)


def test_rules_signers_and_windows(tmp_path: Path) -> None:
    made = make_references(
        "r", 1, [], rules=["subtree:/var/cache=only caches", "glob:/etc/*.d/x=a=b"], valid_until=9
    )
    assert [(r.kind, r.path, r.why) for r in made.unchecked] == [
        ("subtree", "/var/cache", "only caches"),
        ("glob", "/etc/*.d/x", "a=b"),
    ]
    assert (made.valid_from, made.valid_until) == (None, 9)
    for rule in ("/var", "subtree:/var", "subtree:/var=", "regex:/var=x"):
        with pytest.raises(InputError, match=r"reference\.rule"):
            make_references("r", 1, [], rules=[rule])
    with pytest.raises(InputError, match=r"document\.invalid"):
        make_references("r", 1, [], rules=["subtree:var=x"])
    with pytest.raises(InputError, match=r"ima\.signer"):
        make_references("r", 1, [], signers=[b"no key"])
