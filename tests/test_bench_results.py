"""The committed figures meet what they must, and say on which machine they were taken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
AT_MOST = [
    ("train", "ratio", 1.05),
    ("seal", "random_1k_p50_us", 60),
    ("seal", "rss_mb_4gib", 200),
    ("release", "errors", 0),
    ("release", "p50_ms", 15.0),
    ("fleet", "p99_ms", 100),
    ("fleet", "lost", 0),
]
AT_LEAST = [
    ("seal", "open_ratio", 0.7),
    ("seal", "first_open_ratio", 0.25),
    ("seal", "vs_age", 2.0),
    ("release", "parallel_hosts", 64),
    ("fleet", "hosts", 2000),
]
NAMED = [
    *(("train", key) for key in ("attest_s", "release_s", "open_s")),
    ("release", "p99_ms"),
]


def result(name: str) -> dict[str, object]:
    value = json.loads((RESULTS / f"{name}.json").read_text())
    assert isinstance(value, dict)
    return value


def number(name: str, key: str) -> float:
    value = result(name)[key]
    assert isinstance(value, int | float)
    return value


@pytest.mark.parametrize(("name", "key", "bound"), AT_MOST)
def test_figures_are_low_enough(name: str, key: str, bound: float) -> None:
    assert number(name, key) <= bound


@pytest.mark.parametrize(("name", "key", "bound"), AT_LEAST)
def test_figures_are_high_enough(name: str, key: str, bound: float) -> None:
    assert number(name, key) >= bound


@pytest.mark.parametrize(("name", "key"), NAMED)
def test_figures_are_there(name: str, key: str) -> None:
    assert number(name, key) >= 0


@pytest.mark.parametrize("name", ["train", "seal", "release", "fleet"])
def test_figures_name_their_machine(name: str) -> None:
    machine = result(name)["machine"]
    assert isinstance(machine, dict)
    assert machine["cpu"]
    assert machine["cores"]


def test_the_readme_shows_these_figures() -> None:
    root = RESULTS.parent.parent
    command = [sys.executable, str(root / "scripts" / "figures.py"), "--check"]
    assert subprocess.run(command, check=False).returncode == 0
