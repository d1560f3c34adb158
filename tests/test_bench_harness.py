"""The benchmark harness: what it refuses, how it takes turns, and what a result says of itself."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from svetovid.crypto import digest
from svetovid.errors import HostError
from svetovid.evidence.ima import boot_aggregate

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
harness = importlib.import_module("benchmarks._harness")
parts = importlib.import_module("benchmarks._parts")
quiet = importlib.import_module("benchmarks._quiet")
stamp = importlib.import_module("benchmarks._stamp")
sys.path.pop(0)

IDLE = "cpu  10 0 0 80 10 0 0 0 0 0\ncpu0 1 2 3\n"


@pytest.fixture
def stat(tmp_path: Path) -> Path:
    """A /proc/stat of an idle machine."""
    path = tmp_path / "stat"
    path.write_text(IDLE)
    return path


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
        quiet.refuse_if_loaded(0.1, wait=0, busy=lambda: 0.9)
    assert e.value.code == "bench.loaded"
    assert "90%" in e.value.reason.observed
    assert e.value.reason.next_step


def test_it_waits_for_quiet() -> None:
    shares = iter([0.9, 0.5, 0.05])
    assert quiet.refuse_if_loaded(0.1, wait=60, busy=lambda: next(shares)) == 0.05


def test_busy_share_is_what_is_not_idle(stat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(seconds: float) -> None:
        stat.write_text("cpu  40 0 0 150 10 0 0 0 0 0\n")

    monkeypatch.setattr(quiet.time, "sleep", work)
    assert quiet.busy_share(stat=stat) == pytest.approx(0.3)
    assert quiet.busy_share(stat=stat) == 0.0


def test_a_disturbed_round_is_measured_again_whatever_came_of_it(stat: Path) -> None:
    # Before, after twice; before again, after; after twice: a round may leave something behind.
    shares = iter([0.0, 0.5, 0.5, 0.0, 0.1, 0.5, 0.05])
    rounds = iter(["disturbed", "first", "second"])
    taken = quiet.Quiet(busy=lambda: next(shares), stat=stat)
    assert [taken.round(lambda: next(rounds)) for _ in range(2)] == ["first", "second"]
    facts = {"rounds": 2, "repeated": 1, "busiest": 0.1, "most_stolen": 0.0}
    assert taken.facts() == facts


def test_what_the_hypervisor_took_disturbs_a_round(stat: Path) -> None:
    def once() -> str:
        found = next(rounds)
        if found == "robbed":
            stat.write_text("cpu  10 0 0 160 10 0 0 20 0 0\n")
        return found

    rounds = iter(["robbed", "whole"])
    taken = quiet.Quiet(busy=lambda: 0.0, stat=stat)
    assert taken.round(once) == "whole"
    assert taken.facts()["repeated"] == 1


def test_a_machine_that_stays_loaded_is_refused(stat: Path) -> None:
    shares = iter([0.0, 0.5, 0.5] * 3)
    asked: list[int] = []
    with pytest.raises(HostError) as e:
        quiet.Quiet(tries=3, busy=lambda: next(shares), stat=stat).round(lambda: asked.append(1))
    assert e.value.code == "bench.loaded"
    assert "3 times" in e.value.reason.observed
    assert len(asked) == 3


def test_a_quick_run_asks_nothing_of_the_machine(stat: Path) -> None:
    taken = quiet.Quiet(True, busy=lambda: 1.0, stat=stat)
    assert taken.round(lambda: 7) == 7
    taken.require_narrow("x", [1.0, 9.0])


def test_rounds_go_on_until_the_median_is_known(
    stat: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    calm = quiet.Quiet(busy=lambda: 0.0, stat=stat)

    def taken(values: list[float], most: int = 12) -> list[float]:
        return calm.until_narrow("x", 6, lambda i: values[i], lambda v: {"r": v}, most=most)

    assert len(taken([1.0] * 12)) == 6
    assert len(taken([9.0, *[1.0] * 11])) == 9
    with pytest.raises(HostError, match=r"bench\.spread"):
        taken([9.0, 1.0] * 6)
    assert len(taken([*[9.0, 0.1] * 3, *[1.0] * 18], most=24)) > 12
    assert "x, round 6: {'r': '1'}" in capfd.readouterr().err
    assert len(quiet.Quiet(True).until_narrow("x", 2, float, lambda v: {"r": v}, most=9)) == 2


def test_turns_are_taken_both_ways_round() -> None:
    seen: list[str] = []
    work = {"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}
    seconds = harness.interleave(work, 3, quiet.Quiet(True), warmup=1)
    assert seen == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert {k: len(v) for k, v in seconds.items()} == {"a": 3, "b": 3}
    assert all(s >= 0 for v in seconds.values() for s in v)


def test_summary_is_a_median_and_a_range() -> None:
    found = {"median": 2.0, "low": 1.0, "high": 3.0, "min": 1.0, "max": 3.0, "n": 3}
    assert harness.summary([3.0, 1.0, 2.0]) == found


@pytest.mark.parametrize(
    ("n", "low", "high"),
    [(1, 1, 1), (5, 1, 5), (6, 1, 6), (9, 2, 8), (11, 2, 10), (15, 4, 12), (21, 6, 16)],
)
def test_the_interval_of_a_median_is_that_of_the_tables(n: int, low: int, high: int) -> None:
    """Conover, Practical Nonparametric Statistics: order statistics about a median, 95 %."""
    values = [float(v) for v in range(n, 0, -1)]
    assert quiet.interval(values) == (low, high)
    assert quiet.width(values) == pytest.approx(2 * (high - low) / (high + low))


def test_a_median_that_is_too_unsure_is_refused() -> None:
    strict = quiet.Quiet()
    strict.require_narrow("ratio", [1.0] * 9 + [9.0, 0.1])
    with pytest.raises(HostError) as e:
        strict.require_narrow("ratio", [1.0, 1.2, 0.8, 1.1, 0.9, 1.3, 0.7])
    assert e.value.code == "bench.spread"
    assert "0.7 to 1.3 after 7 rounds" in e.value.reason.observed


def test_json_carries_the_code_the_machine_and_the_date(tmp_path: Path) -> None:
    path = tmp_path / "results" / "x.json"
    before = stamp.code("seal")
    full = stamp.stamped("seal", {"ratio": 1.01}, quick=True, before=before)
    harness.write_json(path, full)
    assert json.loads(path.read_text()) == full
    assert full["ratio"] == 1.01
    assert full["benchmark"] == "seal"
    assert full["quick"] is True
    assert full["machine"]["cores"]
    assert full["date"].endswith("+00:00")
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        harness.write_json(path, {"ratio": float("nan")})


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clean clone of one commit, that a benchmark named ``seal`` measures ``code`` of."""
    monkeypatch.setattr(stamp, "ROOT", tmp_path)
    monkeypatch.setitem(stamp.MEASURES, "seal", ("code",))
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "code").write_text("one")
    (tmp_path / "page").write_text("one")
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    return tmp_path


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True)


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "x")


def test_a_result_names_its_code_and_whether_it_was_touched(checkout: Path) -> None:
    clean = stamp.code("seal")
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    assert clean["measures"].keys() == {"code"}
    (checkout / "benchmarks" / "results" / "seal.json").write_text("{}")
    assert stamp.code("seal") == clean  # one run of several writes them one by one
    assert stamp.stamped("seal", {}, quick=False, before=clean)["dirty"] is False
    (checkout / "page").write_text("two")
    assert stamp.code("seal")["dirty"] is True
    assert stamp.stamped("seal", {}, quick=False, before=clean)["dirty"] is True
    (checkout / "page").write_text("one")
    (checkout / "new").write_text("")
    assert stamp.code("seal")["dirty"] is True
    commit(checkout)  # clean again, but not what was there before
    assert stamp.stamped("seal", {}, quick=False, before=clean)["dirty"] is True


def test_no_result_is_clean_outside_of_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamp, "ROOT", tmp_path)
    nothing = {"commit": None, "dirty": True, "measures": {}}
    assert stamp.code("seal") == nothing
    monkeypatch.setenv("PATH", str(tmp_path))
    assert stamp.code("seal") == nothing
    assert not stamp.long_unmeasured({"date": "2020-01-01T00:00:00+00:00"})


def test_it_is_said_when_measured_code_has_changed_since(checkout: Path) -> None:
    found = stamp.stamped("seal", {}, quick=False, before=stamp.code("seal"))
    assert stamp.changed(found) == []
    (checkout / "page").write_text("two")
    commit(checkout)
    assert stamp.changed(found) == []
    (checkout / "code").write_text("two")
    commit(checkout)
    assert stamp.changed(found) == ["code"]
    assert stamp.changed({"benchmark": "seal"}) == ["code"]
    assert not stamp.long_unmeasured(found)
    assert stamp.long_unmeasured(found | {"date": "2020-01-01T00:00:00+00:00"})


@pytest.mark.parametrize("name", sorted(stamp.MEASURES))
def test_every_measured_path_is_there(name: str) -> None:
    assert [p for p in stamp.MEASURES[name] if not (ROOT / p).exists()] == []
    assert (ROOT / "benchmarks" / f"{name}.py").exists()


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The benchmark of the demo, beside a checkout whose set-up is what the test says."""
    monkeypatch.syspath_prepend(ROOT)
    module = importlib.import_module("benchmarks.demo")
    root = tmp_path / "root"
    root.mkdir()
    (root / "Makefile").write_text("help demo:\n\t@test ! -e away\nsetup:\n\t@test -e away\n")
    git(root, "init", "-q")
    commit(root)
    monkeypatch.setattr(module, "ROOT", root)
    monkeypatch.setattr(module, "Quiet", lambda quick, tries: quiet.Quiet(True))
    monkeypatch.setenv("SVETOVID_BENCH_DIR", str(tmp_path))
    return module


def test_the_demo_is_timed_in_a_clean_clone(demo: ModuleType, tmp_path: Path) -> None:
    (demo.ROOT / "away").touch()  # in no commit
    found = demo.run(quick=True)
    assert found["setup_s"] > 0
    assert found["demo_s"] > 0
    assert (found["demo_in"], found["setup_why"]) == ("clone", "")
    assert [p.name for p in tmp_path.iterdir()] == ["root"]


def test_a_set_up_that_is_impossible_is_said_so(demo: ModuleType) -> None:
    found = demo.run()
    assert found["setup_s"] is None
    assert found["setup_why"]
    assert found["demo_in"] == "checkout"
    (demo.ROOT / "away").touch()
    with pytest.raises(HostError) as e:
        demo.run()
    assert e.value.code == "bench.make"


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


def test_a_benchmark_goes_on_after_the_parts_that_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = {"commit": "c", "dirty": False, "measures": {"a": "1"}}
    monkeypatch.setattr(parts, "code", lambda _: now)
    monkeypatch.setattr(parts, "Quiet", lambda quick: quiet.Quiet(True))
    seen: list[int] = []

    def measure(taken: Any) -> list[int]:
        return [taken.round(lambda: seen.append(1) or len(seen))]

    def refused(_: object) -> None:
        raise HostError("bench.spread")

    first = parts.Parts("masked", False, tmp_path)
    assert first.take("one", measure) == [1]
    with pytest.raises(HostError):
        first.take("two", refused)
    again = parts.Parts("masked", False, tmp_path)
    assert again.take("one", refused) == [1]
    assert again.take("two", measure) == [2]
    assert again.facts()["rounds"] == 2
    assert set(again.dates()) == {"one", "two"}
    now["commit"] = "d"
    assert parts.Parts("masked", False, tmp_path).take("one", measure) == [3]
    now["commit"] = "c"
    again.forget()
    assert parts.Parts("masked", False, tmp_path).take("one", measure) == [4]


@pytest.mark.parametrize(("quick", "dirty"), [(True, False), (False, True)])
def test_nothing_is_kept_of_what_no_figure_is_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: bool, dirty: bool
) -> None:
    now = {"commit": "c", "dirty": dirty, "measures": {}}
    monkeypatch.setattr(parts, "code", lambda _: now)
    for expected in (1, 2):
        assert (
            parts.Parts("masked", quick, tmp_path).take("one", lambda _, e=expected: e) == expected
        )
    assert not list(tmp_path.iterdir())
