"""The model of a release holds, and each check that is taken out breaks what it is there for."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

MODEL = Path(__file__).parents[1] / "formal" / "release.pml"
MUTANTS = {
    "UNAPPRAISED": "good[c]",
    "UNENROLLED": "enrolled[tpm[c]]",
    "SCOPE": "scope[c]==tpm[c]",
    "UNBOUND": "to==tpm[c]",
    "STALE_CONSENT": "!(taken_back)",
    "LAPSED": "!(ended)",
    "LATE_RECORD": "recorded[c]",
    "REUSE": "!(recorded[c])",
    "KEPT": "lease!=tpm[c]",
    "FORGOTTEN": "!(heard[c])",
    "INTERVAL": "role[c]!=1",
}


def search(folder: Path, *defines: str, challenges: int = 2) -> str:
    """What is violated within the bounds; nothing where all holds."""
    flags = [f"-D{d}" for d in (f"CHALLENGES={challenges}", *defines)]
    checker = ["-O2", "-w", "-DSAFETY", "-DCOLLAPSE", "-o", "pan", "pan.c"]
    for command in (["spin", *flags, "-a", str(MODEL)], ["gcc", *checker]):
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    done = subprocess.run(
        ["./pan", "-m200000"], cwd=folder, check=True, capture_output=True, text=True, timeout=1100
    ).stdout
    assert "max search depth too small" not in done
    errors = re.search(r"errors: (\d+)", done)
    assert errors is not None, done
    violated = re.search(r"assertion violated (.*) \(at depth", done)
    assert bool(violated) == (errors[1] != "0"), done
    return "" if violated is None else violated[1].replace(" ", "")


def test_the_model_holds(tmp_path: Path) -> None:
    """T5, T6, T12, K5, K6, I7: every state of two challenges."""
    assert search(tmp_path) == ""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("without", ["CRASHES=0", "WITHOUT_INTERVAL"])
def test_the_model_holds_with_three_challenges(tmp_path: Path, without: str) -> None:
    """T5, T6, T12, K5, K6, I7. Kills and intervals together have too many states to search."""
    assert search(tmp_path, without, challenges=3) == ""


def test_keys_do_get_out(tmp_path: Path) -> None:
    """A model in which nothing is ever granted would hold as well."""
    assert search(tmp_path, "REACHED") == "0"


@pytest.mark.parametrize("name", MUTANTS)
def test_each_check_is_needed(tmp_path: Path, name: str) -> None:
    assert MUTANTS[name] in search(tmp_path, f"MUTANT_{name}")


def test_every_mutant_of_the_model_is_tried() -> None:
    assert set(re.findall(r"MUTANT_(\w+)", MODEL.read_text())) == set(MUTANTS)
