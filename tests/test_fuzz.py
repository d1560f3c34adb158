"""D1 of every parser: what fuzzing found stays mended; its guard and its account of time hold."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from evidence.ima_bytes import raw_entry  # noqa: E402
from firmware import Event, Firmware  # noqa: E402
from fuzz import __main__ as driver  # noqa: E402
from fuzz import guard  # noqa: E402
from fuzz.guard import FindingError, Guard, examined, timed  # noqa: E402
from fuzz.mutate import changed  # noqa: E402
from fuzz.targets import FOUND, MAX_BYTES, Target, all_targets  # noqa: E402
from svetovid.crypto import Envelope  # noqa: E402
from svetovid.crypto.canonical import load_json  # noqa: E402
from svetovid.errors import ParseError, SvetovidError  # noqa: E402
from svetovid.evidence.boot import MAX_BOOT_EVENTS, parse_boot_log  # noqa: E402
from svetovid.evidence.ima import parse_log  # noqa: E402
from svetovid.evidence.recorded import read_authorities  # noqa: E402
from svetovid.policy import Job, load_yaml  # noqa: E402

sys.path.pop(0)
TARGETS = all_targets()
SECONDS = 0.05
NEVER_GOOD = {"merkle-proof", "tee-report"}
"""Whose seeds are refused in the end: they would need a signature, or a root, that fits."""


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What measures coverage slows Python down several times; the second is for Python alone."""
    if sys.gettrace() is not None:
        monkeypatch.setattr(guard, "MAX_SECONDS", 6.0)


def found() -> Iterable[Path]:
    return sorted(p for p in FOUND.glob("*/*") if p.is_file())


@pytest.mark.parametrize("path", found(), ids=lambda p: f"{p.parent.name}-{p.name}")
def test_d1_what_was_found_stays_mended(path: Path) -> None:
    examined(TARGETS[path.parent.name].run, path.read_bytes())


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_d1_a_parser_from_its_seeds(name: str) -> None:
    """Each seed, then changes of them for a moment; some seed is a good input."""
    target, good = TARGETS[name], 0
    seeds = sorted(set(target.seeds()))
    watch = Guard(target.run)
    for seed in seeds:
        watch(seed)
    for seed in seeds[:20]:
        try:
            target.run(seed)
            good += 1
        except SvetovidError:
            continue
    assert good or name in NEVER_GOOD
    chance, until = random.Random(1), time.monotonic() + SECONDS
    while time.monotonic() < until:
        watch(changed(chance.choice(seeds), seeds, chance, MAX_BYTES))
    watch.check()


def test_every_parser_is_known_by_its_sources() -> None:
    assert {p.parent.name for p in found()} <= set(TARGETS)
    assert set(driver.read_log()) <= set(TARGETS)
    for target in TARGETS.values():
        assert target.sources().startswith("sha256:")
    assert TARGETS["tpm-attest"].sources() != TARGETS["json"].sources()


def _commas(count: int, member: bytes = b'"k%d":0') -> bytes:
    return b"{" + b",".join(member % i for i in range(count)) + b"}"


LARGE = {
    "measured files": (parse_log, lambda: b"".join(raw_entry(b"/%d" % i) for i in range(50_000))),
    "boot events": (parse_boot_log, lambda: Firmware(events=[_EVENT] * MAX_BOOT_EVENTS).log()),
    "more boot events": (
        parse_boot_log,
        lambda: Firmware(events=[_EVENT] * (MAX_BOOT_EVENTS + 1)).log(),
    ),
    "unknown members": (Envelope.parse, lambda: _commas(300_000)),
    "unknown members of a job": (Job.parse, lambda: _commas(300_000)),
    "empty lists": (Job.parse, lambda: b"[" + b"[]," * 300_000 + b"[]]"),
    "a deep list": (load_json, lambda: b"[" * 4_000_000),
    "many numbers": (load_json, lambda: b"[" + b"0," * 900_000 + b"0]"),
    "escapes": (load_json, lambda: b'"' + b"\\u00e9" * 600_000 + b'"'),
    "zeros in YAML": (load_yaml, lambda: b"a: [" + b"0," * 120_000 + b"0]"),
    "keys in YAML": (load_yaml, lambda: b"".join(b"k%d: 0\n" % i for i in range(26_000))),
    "a number in YAML": (load_yaml, lambda: b"a: " + b"9" * 250_000),
    "begun certificates": (read_authorities, lambda: b"-----BEGIN X-----\n" * 400_000),
}
"""As large as each parser takes them, or larger: what fuzzing does not reach."""
_EVENT = Event(5, 0xD, b"", b"")


@pytest.mark.parametrize("name", LARGE)
def test_d1_large_inputs_end_in_time(name: str) -> None:
    parse, make = LARGE[name]
    examined(parse, make())


# -- the guard


def _error(data: bytes) -> None:
    raise KeyError(data)


def _ours(data: bytes) -> None:
    raise ParseError("x.y", expected="", observed="", next_step="")


def _slow(data: bytes) -> None:
    until = time.process_time() + 0.4
    while time.process_time() < until:
        pass


def _large(data: bytes) -> None:
    if data == b"large":
        bytearray(40 << 20)[:] = b"x" * (40 << 20)


def _deep(data: bytes) -> None:
    _deep(data)


@pytest.mark.parametrize(
    ("run", "why"), [(_error, "KeyError"), (_slow, "processor time"), (_deep, "RecursionError")]
)
def test_a_finding_is_one(run: object, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_SECONDS", 0.3)
    with pytest.raises(FindingError, match=why) as e:
        timed(run, b"input")  # type: ignore[arg-type]
    assert e.value.data == b"input"


def test_our_errors_are_none() -> None:
    examined(_ours, b"input")


def test_memory_beyond_the_input_is_a_finding() -> None:
    with pytest.raises(FindingError, match="MiB"):
        examined(_large, b"large")
    watch = Guard(_large)
    for data in [b"small"] * 30 + [b"large"] + [b"small"] * 32:
        watch(data)
    with pytest.raises(FindingError, match="MiB") as e:
        watch(b"small")
    assert e.value.data == b"large"


# -- the driver


def _picky(data: bytes) -> None:
    if b"\xde\xad" in data:
        raise ValueError("dead")


PICKY = Target("picky", _picky, ("svetovid.errors",), lambda: [b"seed"])


def test_a_finding_is_shortened() -> None:
    assert driver.shortened(PICKY, b"a" * 50 + b"\xde\xad" + b"b" * 50) == b"\xde\xad"


def test_time_is_kept_by_the_sources() -> None:
    """Another source of the parser: its hour begins anew."""
    log: dict[str, dict[str, object]] = {}
    driver.credit(log, PICKY, seconds=5, inputs=10, engine="chance")
    driver.credit(log, PICKY, seconds=6.5, inputs=20, engine="atheris")
    assert log["picky"]["seconds"] == driver.spent(log, PICKY) == 11.5
    assert (log["picky"]["inputs"], log["picky"]["engines"]) == (30, ["atheris", "chance"])
    other = Target("picky", _picky, ("svetovid.crypto.canonical",), lambda: [b"seed"])
    assert driver.spent(log, other) == 0
    driver.credit(log, other, seconds=1, inputs=1, engine="chance")
    assert driver.spent(log, other) == 1


def test_a_run_finds_keeps_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's own way of a run, over a parser of the real list, and over a finding."""
    monkeypatch.setattr(driver, "LOG", tmp_path / "log.json")
    monkeypatch.setattr(driver, "WORK", tmp_path / "work")
    monkeypatch.setattr(driver, "FOUND", tmp_path / "found")
    assert driver.run([TARGETS["pcr-file"]], 1 / 60, "chance") == 0
    (entry,) = json.loads((tmp_path / "log.json").read_text()).values()
    assert entry["inputs"] > 0
    assert entry["seconds"] > 0
    monkeypatch.setattr(
        driver, "_fuzzed", lambda *_: ({"inputs": 3, "seconds": 1.0}, [b"a\xde\xad"])
    )
    assert driver.run([PICKY], 1 / 60, "chance") == 1
    (kept,) = (tmp_path / "found" / "picky").iterdir()
    assert kept.read_bytes() == b"\xde\xad"
    assert "picky" not in json.loads((tmp_path / "log.json").read_text())


def test_a_parser_that_does_not_run_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(driver, "LOG", tmp_path / "log.json")
    monkeypatch.setattr(driver, "WORK", tmp_path / "work")
    unknown = Target("unknown", _picky, ("svetovid.errors",), lambda: [b"seed"])
    assert driver.run([unknown], 1 / 60, "chance") == 1
    assert "DID NOT RUN" in capsys.readouterr().out
    assert driver.read_log() == {}
