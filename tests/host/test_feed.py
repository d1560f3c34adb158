"""Decrypted data in shared memory: read-only for others, in order, bounded, and gone at the end."""

from __future__ import annotations

import fcntl
import gc
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from svetovid.assets import open_asset, seal_stream
from svetovid.crypto import Identity
from svetovid.errors import HostError, IntegrityError
from svetovid.host import feed as module
from svetovid.host.feed import Feed
from svetovid.training._session import Shared


class Slow:
    """A source whose chunks come when the test says so."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = chunks
        self.size = sum(map(len, chunks))
        self.go = [threading.Event() for _ in chunks]
        self.error: Exception | None = None

    def stream_into(
        self, buffer: memoryview, on_progress: Callable[[int], None] | None = None
    ) -> None:
        at = 0
        for chunk, go in zip(self.chunks, self.go, strict=True):
            assert go.wait(5)
            if self.error is not None:
                raise self.error
            buffer[at : at + len(chunk)] = chunk
            at += len(chunk)
            assert on_progress is not None
            on_progress(at)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def shared(feed: Feed, slot: str) -> Shared:
    region = feed.regions[slot]
    return Shared(region.data, region.mark, region.size)


def test_a_sealed_asset_arrives_whole(alice: Identity) -> None:
    content = os.urandom(300_000)
    manifest, key = seal_stream(
        "memory://feed-whole",
        [content],
        kind="model",
        name="m",
        owner=alice.key_id,
        manager=alice.key_id,
    )
    with (
        open_asset("memory://feed-whole", manifest, key, expected=manifest.digest()) as reader,
        Feed({"m": reader, "again": reader}) as feed,
    ):
        there = shared(feed, "again")
        there.wait(len(content))
        assert bytes(there.buffer) == content
        assert bytes(shared(feed, "m").buffer) == content
        wait_for(lambda: feed.open_s > 0)
        assert feed.failed is None


def test_reading_starts_before_all_is_decrypted_and_waits_beyond() -> None:
    source = Slow([b"first", b"second"])
    with Feed({"x": source}) as feed:
        there = shared(feed, "x")
        source.go[0].set()
        there.wait(5)
        assert bytes(there.buffer[:5]) == b"first"
        done = threading.Event()

        def later() -> None:
            there.wait(11)
            done.set()

        thread = threading.Thread(target=later)
        thread.start()
        assert not done.wait(0.05)
        source.go[1].set()
        assert done.wait(5)
        thread.join()
        assert bytes(there.buffer) == b"firstsecond"


SEAL_EXEC = 0x20
"""Nobody makes a program of it: a kernel from 6.3 on sets it, fcntl(2)."""


@pytest.fixture
def regions() -> Iterator[Feed]:
    source = Slow([b"data"])
    source.go[0].set()
    with Feed({"x": source}) as feed:
        yield feed


def test_nobody_else_can_write_or_resize(regions: Feed) -> None:
    """T8: not through the descriptor that a sandbox gets, nor through any made from it."""
    region = regions.regions["x"]
    for fd in (region.data, region.mark):
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & ~SEAL_EXEC
        assert seals == module.SEALS | module.F_SEAL_FUTURE_WRITE
        with pytest.raises(OSError):  # noqa: PT011
            os.write(fd, b"x")
        with pytest.raises(OSError):  # noqa: PT011
            mmap.mmap(fd, 4)
        for size in (0, 1 << 20):
            with pytest.raises(OSError):  # noqa: PT011
                os.ftruncate(fd, size)
        # Opened anew for writing, the seal still holds: neither write(2) nor a writable mapping.
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        try:
            with pytest.raises(PermissionError):
                os.write(again, b"x")
            with pytest.raises(PermissionError):
                mmap.mmap(again, 4)
        finally:
            os.close(again)


def test_memory_is_not_dumped_and_locked_where_it_may_be(regions: Feed) -> None:
    text = Path("/proc/self/smaps").read_text()
    blocks = text.split("memfd:asset")[1:]
    assert blocks
    for block in blocks:
        flags = next(x for x in block.splitlines() if x.startswith("VmFlags"))
        assert " dd" in flags
    if regions.locked:
        assert any(" lo" in block.split("VmFlags")[1].splitlines()[0] for block in blocks)


def test_what_does_not_fit_is_refused() -> None:
    """The present bound: all data of a job is in memory at once."""
    with pytest.raises(HostError) as e:
        Feed({"a": Slow([b"12345"]), "b": Slow([b"12345"])}, max_bytes=9)
    assert e.value.code == "feed.memory"
    assert "at most 1 MiB" in e.value.reason.expected
    assert e.value.reason.observed == "1 MiB: a 1 MiB, b 1 MiB"
    Feed({"a": Slow([b"12345"])}, max_bytes=5).close()


def test_a_refusal_says_what_there_is_and_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    images = Slow([])
    images.size = 9 << 30
    monkeypatch.setattr(module, "free_bytes", lambda: 10 << 30)
    with pytest.raises(HostError) as e:
        Feed({"small": Slow([b"12345"]), "images": images})
    assert e.value.code == "feed.memory"
    assert "at most 8192 MiB (80% of 10240 MiB that are free)" in e.value.reason.expected
    assert e.value.reason.observed == "9217 MiB: images 9216 MiB, small 1 MiB"
    assert "a host with 11521 MiB of free memory" in e.value.reason.next_step


def test_swap_without_locked_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """T16: plaintext never reaches a disk: memory that may be swapped is no place for it."""
    monkeypatch.setattr(module._Memory, "_lock", lambda self: False)
    with Feed({"x": Slow([])}) as feed:
        assert feed.locked is module._swaps()
    monkeypatch.setattr(module, "_swaps", lambda: True)
    with pytest.raises(HostError) as e:
        Feed({"x": Slow([b"1"])})
    assert e.value.code == "feed.swap"


def test_swaps_and_free_memory_as_the_kernel_writes_them(tmp_path: Path) -> None:
    swaps = tmp_path / "swaps"
    swaps.write_text("Filename Type Size Used Priority\n")
    assert not module._swaps(swaps)
    swaps.write_text("Filename Type Size Used Priority\n/dev/vdb partition 1 0 -2\n")
    assert module._swaps(swaps)
    assert not module._swaps(tmp_path / "none")
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable: 3 kB\n")
    assert module.free_bytes(meminfo) == 3072
    meminfo.write_text("")
    assert module.free_bytes(meminfo) == 0


def test_a_chunk_that_does_not_hold_stops_the_mark() -> None:
    source = Slow([b"good", b"bad"])
    source.error = None
    with Feed({"x": source}) as feed:
        there = shared(feed, "x")
        source.go[0].set()
        there.wait(4)
        source.error = IntegrityError("asset.altered")
        source.go[1].set()
        wait_for(lambda: feed.failed is not None)
        assert feed.failed is not None
        assert feed.failed.code == "asset.altered"
        assert there._mark[0] == 4


def test_an_unknown_error_is_ours() -> None:
    source = Slow([b"x"])
    source.error = RuntimeError("LEAK")
    source.go[0].set()
    with Feed({"x": source}) as feed:
        wait_for(lambda: feed.failed is not None)
        assert feed.failed is not None
        assert feed.failed.code == "feed.failed"
        assert "LEAK" not in str(feed.failed)


def _writable_mappings() -> int:
    gc.collect()  # what other tests left is not to go between two counts
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sum("memfd:asset" in line and "rw-s" in line for line in lines)


def test_closing_stops_decrypting_and_frees() -> None:
    """T12: nothing of it stays mapped or open here."""
    before = _writable_mappings()
    source = Slow([b"one", b"two", b"three"])
    feed = Feed({"x": source})
    feed.start()
    source.go[0].set()
    region = feed.regions["x"]
    wait_for(lambda: os.pread(region.mark, 1, 0) == b"\3")
    for go in source.go:
        go.set()
    feed.close()
    for fd in (region.data, region.mark):
        with pytest.raises(OSError):  # noqa: PT011
            os.fstat(fd)
    assert _writable_mappings() == before
    assert feed.failed is None


def test_t12_what_failed_keeps_nothing_open(alice: Identity, tmp_path: Path) -> None:
    """The error outlives the job, in reports; views of the plaintext in its frames must not."""
    path = tmp_path / "x"
    name, owner = "x", alice.key_id
    manifest, key = seal_stream(
        path.as_uri(), [bytes(200_000)], kind="model", name=name, owner=owner, manager=owner
    )
    before = _writable_mappings()
    with open_asset(path.as_uri(), manifest, key, expected=manifest.digest()) as reader:
        path.write_bytes(path.read_bytes()[:-70_000] + bytes(70_000))
        feed = Feed({name: reader})
        feed.start()
        wait_for(lambda: feed.failed is not None)
        region = feed.regions[name]
        feed.close()
    assert isinstance(feed.failed, IntegrityError)
    assert _writable_mappings() == before
    for fd in (region.data, region.mark):
        with pytest.raises(OSError):  # noqa: PT011
            os.fstat(fd)


def test_t12_whoever_keeps_a_view_sees_nothing_after_the_end() -> None:
    source = Slow([b"secret"])
    source.go[0].set()
    with Feed({"x": source}) as feed:
        wait_for(lambda: feed.open_s > 0)
        view = feed._memory["x"][0].view[:6]
        assert view.tobytes() == b"secret"
        region = feed.regions["x"]
    assert view.tobytes() == bytes(6)
    with pytest.raises(OSError):  # noqa: PT011
        os.fstat(region.data)


def test_t12_storage_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ENDS_S", 0.1)
    source = Slow([b"secret", b"more"])
    source.go[0].set()
    feed = Feed({"x": source})
    view = feed._memory["x"][0].view[:6]
    feed.start()
    wait_for(lambda: view.tobytes() == b"secret")
    begun = time.monotonic()
    feed.close()
    assert time.monotonic() - begun < 2
    assert view.tobytes() == bytes(6)
    source.go[1].set()


def test_empty_asset() -> None:
    source = Slow([])
    with Feed({"x": source}) as feed:
        there = shared(feed, "x")
        there.wait(0)
        assert bytes(there.buffer) == b""
