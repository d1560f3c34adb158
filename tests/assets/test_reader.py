"""Random access: ranges, threads, what is held, and storage that changes while it is read."""

from __future__ import annotations

import threading
from functools import partial

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.sealed import Sealed, code_of, sealed, store
from svetovid.assets import AssetReader, open_asset
from svetovid.assets import reader as reader_module
from svetovid.assets.store import Source, open_source

CONTENT = bytes((i * 7 + i // 256) % 256 for i in range(5000))


@pytest.fixture(scope="module")
def good() -> Sealed:
    return sealed(CONTENT, chunk_bytes=256)


def opened(s: Sealed, hold_bytes: int = 1 << 20) -> AssetReader:
    return open_asset(s.url, s.manifest, s.key, expected=s.manifest.digest(), hold_bytes=hold_bytes)


@pytest.mark.parametrize("hold_bytes", [0, 10_000, 1 << 20])
def test_every_range_reads_what_was_sealed(good: Sealed, hold_bytes: int) -> None:
    with opened(good, hold_bytes) as reader:

        @settings(max_examples=60, deadline=None)
        @given(st.integers(0, 5000), st.integers(0, 5000))
        def check(a: int, b: int) -> None:
            start, stop = sorted((a, b))
            assert reader.read_at(start, stop - start) == CONTENT[start:stop]

        check()


@pytest.mark.parametrize(
    ("offset", "length"), [(-1, 1), (0, -1), (5000, 1), (0, 5001), (1 << 60, 1)]
)
def test_ranges_outside_the_content(good: Sealed, offset: int, length: int) -> None:
    with opened(good) as reader:
        assert code_of(lambda: reader.read_at(offset, length)) == "asset.range"


def test_buffers_that_are_too_small_or_odd(good: Sealed) -> None:
    with opened(good) as reader:
        assert code_of(lambda: reader.stream_into(bytearray(4999))) == "asset.range"
        assert code_of(lambda: reader.read_into(4999, bytearray(2))) == "asset.range"


def test_stream_reports_progress(good: Sealed) -> None:
    seen: list[int] = []
    out = bytearray(6000)
    with opened(good) as reader:
        reader.stream_into(out, seen.append)
    assert out[:5000] == CONTENT
    assert seen == [*range(256, 5000, 256), 5000]


def test_blocks_use_one_buffer_and_leave_nothing_in_it(good: Sealed) -> None:
    with opened(good) as reader:
        blocks = reader.blocks()
        first = next(blocks)
        assert bytes(first) == CONTENT[:256]
        next(blocks)
        assert bytes(first) == CONTENT[256:512]
        blocks.close()
        assert bytes(first) == bytes(256)


def test_closed_reader_reads_nothing(good: Sealed) -> None:
    reader = opened(good)
    reader.read_at(0, 10)
    reader.close()
    reader.close()
    assert code_of(lambda: reader.read_at(0, 10)) == "asset.closed"
    assert code_of(lambda: reader.read_at(4000, 256)) == "asset.closed"
    assert good.manifest.name in repr(reader)


def test_many_threads(good: Sealed) -> None:
    wrong: list[int] = []

    def work(reader: AssetReader, seed: int) -> None:
        for i in range(150):
            start = (seed * 977 + i * 131) % 4700
            if reader.read_at(start, 300) != CONTENT[start : start + 300]:
                wrong.append(start)

    with opened(good, 2000) as reader:
        threads = [threading.Thread(target=work, args=(reader, n)) for n in range(6)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert not wrong


class _Watched:
    """Storage that counts how often each byte is asked for, and can be changed by a test."""

    def __init__(self, inner: Source) -> None:
        self._inner = inner
        self.length = inner.length
        self.window = 0
        self.reads: list[tuple[int, int]] = []

    def read_into(self, offset: int, buffer: memoryview) -> int:
        self.reads.append((offset, len(buffer)))
        return self._inner.read_into(offset, buffer)

    def close(self) -> None:
        self._inner.close()


@pytest.fixture
def watched(good: Sealed, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[_Watched]]:
    made: list[_Watched] = []

    def watch(url: str) -> Source:
        made.append(_Watched(open_source(url)))
        return made[-1]

    monkeypatch.setattr(reader_module, "open_source", watch)
    return store(good.data), made


def test_each_chunk_is_read_once_and_decrypted_from_that_copy(
    good: Sealed, watched: tuple[str, list[_Watched]]
) -> None:
    """T14: a second reading of storage between hash and decryption could be other bytes."""
    url, made = watched
    with open_asset(url, good.manifest, good.key, expected=good.manifest.digest()) as reader:
        made[0].reads.clear()
        assert reader.read_at(0, 256) == CONTENT[:256]
        assert made[0].reads == [(128, 320)]


def test_storage_that_changes_after_a_chunk_was_verified(
    good: Sealed, watched: tuple[str, list[_Watched]]
) -> None:
    """A held chunk is the verified copy; what is fetched again is checked again."""
    url, made = watched
    agreed = partial(open_asset, url, good.manifest, good.key, expected=good.manifest.digest())
    with agreed() as holding, agreed(hold_bytes=0) as fetching:
        assert holding.read_at(300, 10) == fetching.read_at(300, 10) == CONTENT[300:310]
        data = bytearray(good.data)
        data[128 + 320 + 100] ^= 1
        fsspec.filesystem("memory").pipe_file(url, bytes(data))
        before = len(made[0].reads)
        assert holding.read_at(256, 256) == CONTENT[256:512]
        assert len(made[0].reads) == before
        assert code_of(lambda: fetching.read_at(300, 10)) == "asset.altered"


def test_storage_that_shrinks_after_opening(good: Sealed) -> None:
    url = store(good.data)
    with open_asset(url, good.manifest, good.key, expected=good.manifest.digest()) as reader:
        fsspec.filesystem("memory").pipe_file(url, good.data[:1000])
        assert code_of(lambda: reader.read_at(1000, 200)) == "asset.truncated"
        assert code_of(lambda: b"".join(map(bytes, reader.blocks()))) == "asset.truncated"


def test_storage_that_says_it_is_longer_than_it_is(
    good: Sealed, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = store(good.data[:-1])

    def lying(url: str) -> Source:
        source = open_source(url)
        source.length += 1
        return source

    monkeypatch.setattr(reader_module, "open_source", lying)
    act = partial(open_asset, url, good.manifest, good.key, expected=good.manifest.digest())
    assert code_of(act) == "asset.truncated"


def test_what_is_held_stays_within_its_bound(good: Sealed) -> None:
    with opened(good, 3 * 4096) as reader:
        assert reader.read_at(0, 5000) == CONTENT
        assert len(reader._held._chunks) == 3
        assert reader.read_at(0, 5000) == CONTENT


def test_two_threads_that_fetch_one_chunk_hold_it_once(good: Sealed) -> None:
    with opened(good) as reader:
        stored = memoryview(good.data)[128:448]
        reader._held.put(0, stored)
        reader._held.put(0, stored)
        assert len(reader._held._chunks) == 1
