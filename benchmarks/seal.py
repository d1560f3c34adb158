"""What sealing costs: opening over bare AES-GCM, over age, random access, memory.

The baseline is ``AESGCM.decrypt_into`` and nothing else, over as many distinct 256 KiB ciphertexts
as the container has chunks, all in memory, into one buffer: the same bytes that opening decrypts.
One buffer decrypted again and again would measure the processor's cache; that figure is reported
too, under ``hot``. All passes are timed turn by turn, on one core.

Top-level keys:
    open_ratio: over the baseline, for chunks whose verified ciphertext the reader holds.
    first_open_ratio: over the baseline, from a file in the page cache, each chunk read and hashed.
    open_ratio_hot, first_open_ratio_hot: the same two over ``hot``.
    seal_gb_per_s: sealing from memory into a file (GB/s), hashed and flushed to the disk.
    seal_ratio: that over ``AESGCM.encrypt_into`` and nothing else, chunk by chunk as above.
    vs_age: throughput over that of ``age -d``, hash included, for one file in the page cache. Both
        are processes on one core that write plaintext to /dev/null; of each, the time that the very
        same command takes for an empty file is subtracted. ``age.whole`` has whole processes.
    random_1k_p50_us: a 1 KiB record at a random place, from a file, chunks of 64 KiB, each chunk
        read, hashed and decrypted again.
    rss_mb_4gib: peak resident memory (MB) of a process that seals and opens 4 GiB.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks._harness import interleave, summary
from benchmarks._quiet import Quiet
from svetovid.assets import AssetReader, RecordSchema, open_asset, seal_file, seal_stream

WHO = {"owner": "ed25519:" + "11" * 32, "manager": "ed25519:" + "22" * 32}
CHUNK = 256 << 10
MIB = 1 << 20
KEYS = (
    *("open_ratio", "first_open_ratio", "open_ratio_hot", "first_open_ratio_hot"),
    *("seal_gb_per_s", "seal_ratio", "vs_age", "random_1k_p50_us", "rss_mb_4gib"),
)

_OPEN = """
import sys
from pathlib import Path
from svetovid.assets import load_manifest, manifest_url, open_asset
from svetovid.crypto import Secret
url = Path(sys.argv[1]).as_uri()
manifest = load_manifest(manifest_url(url))
key = Secret(Path(sys.argv[2]).read_bytes())
with open("/dev/null", "wb", buffering=0) as out:
    with open_asset(url, manifest, key, expected=manifest.digest(), hold_bytes=0) as reader:
        for block in reader.blocks():
            out.write(block)
"""

_MEMORY = """
import sys, time
from pathlib import Path
from svetovid.assets import open_asset, seal_stream
url, size = Path(sys.argv[1]).as_uri(), int(sys.argv[2])
block = bytes(range(256)) * 4096
who = dict(owner="ed25519:" + "11" * 32, manager="ed25519:" + "22" * 32)
start = time.perf_counter()
blocks = (block for _ in range(size >> 20))
manifest, key = seal_stream(url, blocks, kind="model", name="large", **who)
middle = time.perf_counter()
seen = 0
with open_asset(url, manifest, key, expected=manifest.digest()) as reader:
    for part in reader.blocks():
        seen += len(part)
assert seen == size
end = time.perf_counter()
# Not ru_maxrss: Linux carries the parent's peak into it over exec.
status = Path("/proc/self/status").read_text()
peak = int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
print(peak, middle - start, end - middle)
"""


def run(quick: bool = False) -> dict[str, Any]:
    """Measure; ``quick`` uses small files and few rounds, and does not ask for a quiet machine.

    Raises:
        HostError: ``bench.loaded``, ``bench.spread``.
    """
    quiet = Quiet(quick)
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory(prefix="svetovid-seal-", dir=_roomy()) as name:
        folder = Path(name)
        os.sched_setaffinity(0, {min(cores)})
        try:
            result = _opening(folder, (8 if quick else 64) * MIB, 5 if quick else 31, quiet)
            result |= _sealing(folder, (8 if quick else 256) * MIB, 3 if quick else 15, quiet)
            result |= _age(folder, (64 if quick else 1024) * MIB, 3 if quick else 15, quiet)
            size, reads = ((8 if quick else 256) * MIB, 500 if quick else 20_000)
            result |= quiet.round(lambda: _random(folder, size, reads))
            result |= quiet.round(lambda: _memory(folder, (256 if quick else 4096) * MIB))
        finally:
            os.sched_setaffinity(0, cores)
    return {key: result[key] for key in KEYS} | result | {"quiet": quiet.facts()}


def _roomy() -> str:
    """A folder on a disk rather than in memory: a large file in tmpfs would take memory itself."""
    return os.environ.get("SVETOVID_BENCH_DIR", "/var/tmp")


def _opening(folder: Path, size: int, rounds: int, quiet: Quiet) -> dict[str, Any]:
    url = (folder / "open").as_uri()
    manifest, key = seal_stream(
        url,
        (os.urandom(MIB) for _ in range(size // MIB)),
        kind="model",
        name="open",
        chunk_bytes=CHUNK,
        **WHO,
    )
    cipher = AESGCM(os.urandom(32))
    nonce, data = bytes(12), bytes(48)
    ciphertexts = [cipher.encrypt(nonce, os.urandom(CHUNK), data) for _ in range(size // CHUNK)]
    out = bytearray(CHUNK)

    def bare() -> None:
        for ciphertext in ciphertexts:
            cipher.decrypt_into(nonce, ciphertext, data, out)

    def hot() -> None:
        ciphertext = ciphertexts[0]
        for _ in ciphertexts:
            cipher.decrypt_into(nonce, ciphertext, data, out)

    agreed = manifest.digest()
    with (
        open_asset(url, manifest, key, expected=agreed, hold_bytes=2 * size) as holding,
        open_asset(url, manifest, key, expected=agreed, hold_bytes=0) as fetching,
    ):
        seconds = interleave(
            {
                "bare": bare,
                "hot": hot,
                "held": _pass(holding, out),
                "first": _pass(fetching, out),
            },
            rounds,
            quiet,
        )
    speeds = {name: [size / s / 1e9 for s in times] for name, times in seconds.items()}
    ratios = {
        "open_ratio": _ratios(seconds, "bare", "held"),
        "first_open_ratio": _ratios(seconds, "bare", "first"),
        "open_ratio_hot": _ratios(seconds, "hot", "held"),
        "first_open_ratio_hot": _ratios(seconds, "hot", "first"),
    }
    for name, values in ratios.items():
        quiet.require_narrow(name, values)
    return {
        **{name: statistics.median(values) for name, values in ratios.items()},
        "ratios": {name: summary(values) for name, values in ratios.items()},
        "gb_per_s": {name: summary(values) for name, values in speeds.items()},
        "open_bytes": size,
    }


def _pass(reader: AssetReader, out: bytearray) -> Callable[[], None]:
    def once() -> None:
        for offset in range(0, reader.size, CHUNK):
            reader.read_into(offset, out)

    return once


def _ratios(seconds: dict[str, list[float]], base: str, candidate: str) -> list[float]:
    return [b / c for b, c in zip(seconds[base], seconds[candidate], strict=True)]


def _sealing(folder: Path, size: int, rounds: int, quiet: Quiet) -> dict[str, Any]:
    blocks = [os.urandom(MIB) for _ in range(size // MIB)]
    cipher = AESGCM(os.urandom(32))
    nonce, data, out = bytes(12), bytes(48), bytearray(CHUNK + 16)
    numbers = itertools.count()

    def bare() -> None:
        for block in blocks:
            for offset in range(0, MIB, CHUNK):
                cipher.encrypt_into(nonce, memoryview(block)[offset : offset + CHUNK], data, out)

    def seal() -> None:
        url = (folder / f"sealing-{next(numbers)}").as_uri()
        seal_stream(url, iter(blocks), kind="model", name="sealing", chunk_bytes=CHUNK, **WHO)

    def forget() -> None:
        for path in folder.glob("sealing-*"):
            path.unlink()

    seconds = interleave({"bare": bare, "seal": seal, "forget": forget}, rounds, quiet)
    speeds = [size / s / 1e9 for s in seconds["seal"]]
    ratios = _ratios(seconds, "bare", "seal")
    quiet.require_narrow("seal_gb_per_s", speeds)
    return {
        "seal_gb_per_s": statistics.median(speeds),
        "seal_ratio": statistics.median(ratios),
        "sealing": {"gb_per_s": summary(speeds), "ratio": summary(ratios), "bytes": size},
    }


def _age(folder: Path, size: int, rounds: int, quiet: Quiet) -> dict[str, Any]:
    if not shutil.which("age"):
        raise SystemExit("vs_age needs age: apt-get install age")
    plain, secret, sealed = folder / "plain", folder / "age.key", folder / "plain.age"
    with plain.open("wb") as f:
        for _ in range(size // MIB):
            f.write(os.urandom(MIB))
    subprocess.run(["age-keygen", "-o", secret], check=True, stderr=subprocess.DEVNULL)
    recipient = secret.read_text().split("public key: ")[1].split()[0]
    subprocess.run(["age", "-r", recipient, "-o", sealed, plain], check=True)
    ours = folder / "plain.sealed"
    _, key = seal_file(ours.as_uri(), plain, name="plain", **WHO)
    plain.unlink()
    raw = folder / "asset.key"
    raw.write_bytes(key.reveal())

    nothing = folder / "nothing"
    nothing.write_bytes(b"")
    empty_age, empty_ours = folder / "nothing.age", folder / "nothing.sealed"
    subprocess.run(["age", "-r", recipient, "-o", empty_age, nothing], check=True)
    seal_file(empty_ours.as_uri(), nothing, name="nothing", key=key, **WHO)

    def age(path: Path) -> None:
        with Path("/dev/null").open("wb") as out:
            subprocess.run(["age", "-d", "-i", secret, path], check=True, stdout=out)

    def svetovid(path: Path) -> None:
        subprocess.run([sys.executable, "-c", _OPEN, path, raw], check=True)

    seconds = interleave(
        {
            "age": lambda: age(sealed),
            "svetovid": lambda: svetovid(ours),
            "age_empty": lambda: age(empty_age),
            "svetovid_empty": lambda: svetovid(empty_ours),
        },
        rounds,
        quiet,
    )
    for path in (sealed, ours):
        path.unlink()
    net = {
        name: [whole - statistics.median(seconds[f"{name}_empty"]) for whole in seconds[name]]
        for name in ("age", "svetovid")
    }
    ratios = _ratios(net, "age", "svetovid")
    quiet.require_narrow("vs_age", ratios)
    return {
        "vs_age": statistics.median(ratios),
        "age": {
            "net": summary(ratios),
            "whole": summary(_ratios(seconds, "age", "svetovid")),
            "seconds": {name: summary(values) for name, values in seconds.items()},
            "bytes": size,
        },
    }


def _random(folder: Path, size: int, reads: int) -> dict[str, Any]:
    url = (folder / "records").as_uri()
    schema = {"fields": [{"name": "x", "dtype": "uint8", "shape": [1024]}], "records": size >> 10}
    manifest, key = seal_stream(
        url,
        (os.urandom(MIB) for _ in range(size // MIB)),
        kind="dataset",
        name="records",
        record_schema=RecordSchema.from_json(schema),
        chunk_bytes=64 << 10,
        **WHO,
    )
    with open_asset(url, manifest, key, expected=manifest.digest(), hold_bytes=0) as reader:
        fetched = _latencies(reader, reads)
    with open_asset(url, manifest, key, expected=manifest.digest(), hold_bytes=2 * size) as reader:
        reader.read_at(0, reader.size)
        held = _latencies(reader, reads)
    return {
        "random_1k_p50_us": fetched["p50"],
        "random_1k_us": {"fetched": fetched, "held": held, "bytes": size},
    }


def _latencies(reader: AssetReader, reads: int) -> dict[str, float]:
    last = reader.size // 1024 - 1
    choose = random.Random(1)
    out = bytearray(1024)
    micros = []
    for _ in range(reads):
        record = choose.randint(0, last)
        start = time.perf_counter_ns()
        reader.read_into(record * 1024, out)
        micros.append((time.perf_counter_ns() - start) / 1e3)
    cuts = statistics.quantiles(micros, n=100)
    return {"p50": statistics.median(micros), "p99": cuts[98], "min": min(micros)}


def _memory(folder: Path, size: int) -> dict[str, Any]:
    path = folder / "large"
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, path, str(size)], check=True, capture_output=True, text=True
    )
    peak, seal_s, open_s = (float(x) for x in done.stdout.split())
    path.unlink()
    return {
        "rss_mb_4gib": peak,
        "large": {
            "bytes": size,
            "seal_s": seal_s,
            "open_s": open_s,
        },
    }


if __name__ == "__main__":
    print(json.dumps(run(quick="--quick" in sys.argv), indent=2))
