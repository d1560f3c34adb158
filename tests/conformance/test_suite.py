"""The suite: every vector, whether it is what its maker makes, and a command that can fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conformance.making.__main__ import CASES, WORLDS, make
from svetovid.cli.main import run
from svetovid.crypto import canonical
from svetovid.evidence.recorded import ConformanceCase

ROOT = Path(__file__).parent
FOLDERS = [p for part in ("worlds", "cases") for p in sorted((ROOT / part).iterdir())]
MAX_BYTES = 2 << 20


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("said") / "results.json"
    assert run(["conformance", "--json", str(out)]) in (0, 1)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_vector(folder: Path, said: dict[str, Any]) -> None:
    """Its id is in its name; ``case.json`` says what must come of it."""
    name = f"{folder.parent.name}/{folder.name}"
    (result,) = [r for r in said["results"] if r["name"] == name]
    assert result["differences"] == {}
    assert result["passed"] is True
    if folder.parent.name == "cases":
        begins = folder.name.split("-")[0].upper()
        assert begins in result["attacks"] or (begins, result["attacks"]) == ("GOOD", [])


def test_all_pass_and_how_many(said: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["conformance"]) == 0
    assert capsys.readouterr().out == f"{len(FOLDERS)} of {len(FOLDERS)} vectors pass\n"
    assert (said["vectors"], said["passed"]) == (len(FOLDERS), len(FOLDERS))
    families = {a.rstrip("0123456789") for a in said["attacks"]}
    assert families == {"D", "F", "I", "M", "P", "TS", "U"}


def test_m10_rules_are_anchored_and_cheap(said: dict[str, Any]) -> None:
    """What is not checked is a subtree or a form, never whatever begins alike."""
    found = [r for r in said["results"] if "M10" in r["attacks"]]
    assert all(r["passed"] for r in found)
    assert {r["verdict"] for r in found} == {"affirmed", "refused", "unreadable"}


def test_the_suite_is_what_its_maker_makes(tmp_path: Path) -> None:
    """Byte for byte, but for what a TPM signed, which is kept."""
    make(tmp_path, kept=ROOT)
    assert len(WORLDS) + len(CASES) == len(FOLDERS)
    for folder in FOLDERS:
        made = tmp_path / folder.parent.name / folder.name
        assert contents(folder) == contents(made), folder.name


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_it_is_small_and_every_case_is_one_step() -> None:
    assert sum(p.stat().st_size for p in ROOT.rglob("*") if p.suffix != ".pyc") < MAX_BYTES
    for folder in FOLDERS:
        case = ConformanceCase.parse((folder / "case.json").read_bytes())
        expected = case.expected
        assert (expected.verdict == "affirmed") is (not expected.reasons)
        if expected.verdict == "affirmed":
            assert expected.measurement is not None
            assert expected.simulated is not None
        if case.world is None:
            assert expected.verdict == "affirmed"


# -- that it can fail


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A suite of one world and one case."""
    for name in ("worlds/tpm", "cases/m1-cut"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "case.json"
    case = json.loads(path.read_text())
    edit(case)
    path.write_bytes(canonical(case))


@pytest.mark.parametrize(
    ("folder", "edit", "shown"),
    [
        ("cases/m1-cut", {"verdict": "affirmed"}, "verdict: expected affirmed, said refused"),
        ("cases/m1-cut", {"reasons": ["ima.replay"]}, "reasons: expected ['ima.replay']"),
        ("cases/m1-cut", {"measurement": "kernel"}, "measurement: expected kernel"),
        ("worlds/tpm", {"simulated": False}, "simulated: expected False, said True"),
        ("worlds/tpm", {"claims": {"tpm.quote": False}}, "claims.tpm.quote: expected False"),
        ("worlds/tpm", {"claims": {"none": None}}, "claims.none: expected None, said absent"),
    ],
)
def test_one_wrong_expectation_fails_the_command(
    copied: Path,
    folder: str,
    edit: dict[str, Any],
    shown: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["conformance", str(copied), "--json", "-"]) == 0
    capsys.readouterr()
    change(copied / folder, lambda case: case["expected"].update(edit))
    assert run(["conformance", str(copied)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("1 of 2 vectors pass\n")
    assert f"NOT passed: {folder}: " in out
    assert shown in out


def test_evidence_that_was_mended_fails_the_command(copied: Path) -> None:
    (copied / "cases" / "m1-cut" / "ima.bin").unlink()
    assert run(["conformance", str(copied)]) == 1


def broken(copied: Path, what: str) -> None:
    case = copied / "cases" / "m1-cut"
    match what:
        case "nothing":
            shutil.rmtree(copied)
        case "no world":
            shutil.rmtree(copied / "worlds" / "tpm")
        case "no case.json":
            (case / "case.json").unlink()
        case "no file":
            change(case, lambda c: c["given"].update(references=["other.json"]))
        case "a path":
            change(case, lambda c: c["given"].update(references=["../../secret.json"]))
        case "a member":
            change(case, lambda c: c.update(trusted=True))
        case "many files":
            for i in range(64):
                (case / f"{i}").touch()
        case "a large file":
            (case / "ima.bin").write_bytes(bytes((1 << 20) + 1))
        case "no earlier log":
            change(case, lambda c: c["given"].update(after="cases/m1-cut", offset=1))


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("nothing", "conformance.suite"),
        ("no world", "conformance.suite"),
        ("no case.json", "json.syntax"),
        ("no file", "conformance.suite"),
        ("a path", "document.invalid"),
        ("a member", "document.invalid"),
        ("many files", "conformance.suite"),
        ("a large file", "file.size"),
        ("no earlier log", "conformance.suite"),
    ],
)
def test_a_suite_that_cannot_be_read(
    copied: Path, what: str, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """None of it passes for a suite in which everything is well."""
    broken(copied, what)
    assert run(["conformance", str(copied), "--json", "-"]) == 2
    assert json.loads(capsys.readouterr().out)["error"] == code
