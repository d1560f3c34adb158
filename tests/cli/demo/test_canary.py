"""The canary search finds what it must: otherwise a quiet demo would prove nothing (T18)."""

from __future__ import annotations

import base64
import secrets
import socket
import threading
from pathlib import Path

import pytest

from svetovid.cli.demo.canary import _BLOCK, Needle, key_needles, needles_of, search
from svetovid.cli.demo.wiretap import Wiretap


def test_finds_plaintext_across_block_borders(tmp_path: Path) -> None:
    secret = secrets.token_bytes(4096)
    needles = needles_of("data", secret)
    assert len(needles) >= 10
    (tmp_path / "a").write_bytes(b"\0" * (_BLOCK - 2000) + secret)
    assert {h.what for h in search([tmp_path], needles)} == {"data"}
    assert len(search([tmp_path], needles)) == len(needles)


@pytest.mark.parametrize("shift", range(3))
def test_finds_a_key_in_base64_at_every_alignment(tmp_path: Path, shift: int) -> None:
    key = secrets.token_bytes(32)
    text = base64.b64encode(secrets.token_bytes(3 + shift) + key + secrets.token_bytes(7))
    (tmp_path / "answer").write_bytes(text)
    assert search([tmp_path], key_needles("key", key))


def test_finds_a_key_raw_and_in_hex(tmp_path: Path) -> None:
    key = secrets.token_bytes(32)
    for form in (b"x" + key, key.hex().encode(), key.hex().upper().encode()):
        (tmp_path / "dump").write_bytes(form)
        assert search([tmp_path / "dump"], key_needles("key", key))


def test_leaves_out_what_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "a").write_bytes(b"a needle of iron")
    needle = [Needle("n", b"a needle of iron")]
    assert search([tmp_path], needle)
    assert not search([tmp_path], needle, {tmp_path / "runtime"})


def test_finds_nothing_where_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(secrets.token_bytes(1 << 16))
    needles = needles_of("data", secrets.token_bytes(4096)) + key_needles(
        "key", secrets.token_bytes(32)
    )
    assert search([tmp_path, tmp_path / "missing"], needles) == []


def test_blank_data_makes_no_needles() -> None:
    assert needles_of("blank", b"\0" * 10000) == []


def test_the_tap_keeps_both_directions(tmp_path: Path) -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def echo() -> None:
        peer, _ = server.accept()
        with peer:
            peer.sendall(peer.recv(100).upper())

    threading.Thread(target=echo, daemon=True).start()
    tap = Wiretap(server.getsockname(), tmp_path / "capture")
    with socket.create_connection(("127.0.0.1", tap.port)) as s:
        s.sendall(b"question")
        assert s.recv(100) == b"QUESTION"
    tap.close()
    server.close()
    assert set((tmp_path / "capture").read_bytes()) >= set(b"questionQUESTION")


@pytest.mark.parametrize("at", range(8))
@pytest.mark.parametrize("size", [15, 24, 40])
def test_finds_a_needle_at_every_place(tmp_path: Path, at: int, size: int) -> None:
    needle = Needle("n", secrets.token_bytes(size))
    for before, after in ((at, 0), (at + 64, at)):
        (tmp_path / "a").write_bytes(b"\0" * before + needle.data + b"\0" * after)
        assert [h.offset for h in search([tmp_path], [needle])] == [before]


def test_a_needle_stands_for_every_part_of_the_data(tmp_path: Path) -> None:
    secret = secrets.token_bytes(4096)
    for part in range(4):
        (tmp_path / "a").write_bytes(secret[part * 1024 : (part + 1) * 1024])
        assert search([tmp_path], needles_of("data", secret))


def test_a_file_of_many_names_is_looked_through_once(tmp_path: Path) -> None:
    needle = Needle("n", secrets.token_bytes(24))
    (tmp_path / "a").write_bytes(needle.data)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    assert [h.where for h in search([tmp_path], [needle])] == [str(tmp_path / "a")]
