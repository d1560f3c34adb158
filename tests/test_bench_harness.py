"""The benchmark harness: it refuses a loaded machine, takes turns, and tells ranges."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from svetovid.crypto import digest
from svetovid.errors import HostError
from svetovid.evidence.ima import boot_aggregate

ROOT = Path(__file__).resolve().parent.parent


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("harness", ROOT / "benchmarks" / "_harness.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["harness"] = module
    spec.loader.exec_module(module)
    return module


harness = _load()


def test_machine_tells_what_a_reader_needs(tmp_path: Path) -> None:
    facts = harness.machine()
    assert facts["cores"] >= 1
    assert facts["memory_mib"] > 100
    assert facts["libraries"]["svetovid"]
    cpu = tmp_path / "cpuinfo"
    cpu.write_text("model name\t: Some CPU\nflags\t\t: fpu vaes aes zzz\n")
    facts = harness.machine(cpu)
    assert facts["cpu"] == "Some CPU"
    assert facts["flags"] == ["aes", "vaes"]
    cpu.write_text("nothing known\n")
    assert harness.machine(cpu)["cpu"] == "unknown"
    assert json.dumps(facts)


def test_a_loaded_machine_is_refused() -> None:
    with pytest.raises(HostError) as e:
        harness.refuse_if_loaded(0.1, wait=0, busy=lambda: 0.9)
    assert e.value.code == "bench.loaded"
    assert "90%" in e.value.reason.observed
    assert e.value.reason.next_step


def test_it_waits_for_quiet() -> None:
    shares = iter([0.9, 0.5, 0.05])
    assert harness.refuse_if_loaded(0.1, wait=60, busy=lambda: next(shares)) == 0.05


def test_busy_share_is_what_is_not_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  10 0 0 80 10 0 0 0 0 0\ncpu0 1 2 3\n")

    def work(seconds: float) -> None:
        stat.write_text("cpu  40 0 0 150 10 0 0 0 0 0\n")

    monkeypatch.setattr(harness.time, "sleep", work)
    assert harness.busy_share(stat=stat) == pytest.approx(0.3)
    assert harness.busy_share(stat=stat) == 0.0


def test_turns_are_taken_both_ways_round() -> None:
    seen: list[str] = []
    work = {"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}
    seconds = harness.interleave(work, rounds=3, warmup=1)
    assert seen == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert {k: len(v) for k, v in seconds.items()} == {"a": 3, "b": 3}
    assert all(s >= 0 for v in seconds.values() for s in v)


def test_summary_is_a_median_and_a_range() -> None:
    assert harness.summary([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0, "n": 3}


def test_json_carries_the_machine_and_the_date(tmp_path: Path) -> None:
    path = tmp_path / "results" / "x.json"
    full = harness.stamped("x", {"ratio": 1.01})
    harness.write_json(path, full)
    assert json.loads(path.read_text()) == full
    assert full["ratio"] == 1.01
    assert full["benchmark"] == "x"
    assert full["machine"]["cores"]
    assert full["date"].endswith("+00:00")
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        harness.write_json(path, {"ratio": float("nan")})


def test_keylime_is_asked_only_where_somebody_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    keylime = importlib.import_module("benchmarks._keylime")
    log, files = boot_aggregate({i: bytes(32) for i in range(10)}), {"/x": digest(b"x")}
    monkeypatch.delenv("SVETOVID_KEYLIME", raising=False)
    assert keylime.reader(log, bytes(32), files) is None
    monkeypatch.setenv("SVETOVID_KEYLIME", "/bin/false")
    with pytest.raises(HostError) as e:
        keylime.reader(log, bytes(32), files)
    assert e.value.code == "bench.keylime"
