"""What holds for the project as a whole: its names, its words, its reason codes, its set-up."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import svetovid

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
check_names = importlib.import_module("check_names")
reason_codes = importlib.import_module("reason_codes")
unused = importlib.import_module("unused")
sys.path.pop(0)

in_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the git checkout")


def packages() -> list[str]:
    found = pkgutil.walk_packages(svetovid.__path__, "svetovid.")
    return ["svetovid", *(m.name for m in found if m.ispkg)]


def _order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, as ruff's RUF022 has it."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("name", packages())
def test_public_names_are_complete_and_sorted(name: str) -> None:
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip(".\n "), f"{name} has no docstring"
    listed = list(getattr(module, "__all__", []))
    public = {
        n
        for n, v in vars(module).items()
        if not n.startswith("_") and not isinstance(v, ModuleType) and n != "annotations"
    }
    assert listed == sorted(set(listed), key=_order), f"{name}.__all__ is not sorted"
    missing = public - set(listed)
    assert not missing, f"{name}.__all__ lacks {sorted(missing)}"
    for public_name in listed:
        assert hasattr(module, public_name), f"{name}.__all__ names {public_name}, which is absent"


@in_git
def test_no_tracked_file_names_one_machine() -> None:
    assert list(check_names.findings(check_names.tracked())) == []


def test_the_check_of_names_finds_what_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["/ro" + "ot/x", "py" + "pi.org", "--extra-in" + "dex-url", "/ho" + "me/me"]
    words.append("-----BEGIN PRIV" + "ATE KEY-----")
    monkeypatch.setattr(check_names, "ROOT", tmp_path)
    path = tmp_path / "note"
    for word in words:
        path.write_text(f"fine\nsee {word} here\n")
        (line,) = check_names.findings([path])
        assert line.startswith("note:2: ")


def test_every_reason_code_stands_in_a_test() -> None:
    """A refusal that no test provokes may never happen; see scripts/reason_codes.py."""
    found = reason_codes.codes()
    assert reason_codes.untested(found) == []


def test_the_page_of_reason_codes_is_current() -> None:
    assert reason_codes.PAGE.read_text() == reason_codes.page(reason_codes.codes()), "make docs"


def test_the_scan_finds_codes_however_they_are_given(tmp_path: Path) -> None:
    package = tmp_path / "svetovid"
    package.mkdir()
    (package / "a.py").write_text(
        "from svetovid.errors import ParseError, Reason\n"
        "def refuse(what, code): raise ParseError(code, expected=what)\n"
        "class Claim:\n    name: str\n    code: str\n"
        "class C:\n    def no(self, code): pass\n"
        "def f(x):\n"
        "    refuse('v', 'one.a'); Reason(code='two.b'); C().no('three.c')\n"
        "    Claim('n', 'four.d')\n"
        "    raise ParseError('five.e' if x else 'six.f', expected='not.this')\n"
    )
    names = ["five.e", "four.d", "one.a", "six.f", "three.c", "two.b"]
    assert list(reason_codes.codes(package)) == names


def test_nothing_is_there_for_tests_alone() -> None:
    users = ("src", "benchmarks", "examples", "scripts")
    assert unused.unused(ROOT, ("src", "benchmarks"), users) == []


def test_the_search_for_unused_names_finds_them(tmp_path: Path) -> None:
    for folder in ("src", "scripts"):
        (tmp_path / folder).mkdir()
    (tmp_path / "src" / "a.py").write_text(
        "import b\n"
        "USED = 1\nLONE = USED\n"
        "class C:\n    x: int = 0\n    def lone(self): return self.used()\n"
        "    def used(self): pass\n    @property\n    def odd(self): pass\n"
        "@b.command\ndef shown(): pass\n"
        "def by_name(): pass\ndef called(): return C(size=1)\ndef size(): pass\n"
    )
    (tmp_path / "scripts" / "b.py").write_text("getattr(a, 'by_name')(); a.called()\n")
    found = unused.unused(tmp_path, ("src",), ("src", "scripts"))
    assert [line.split()[1] for line in found] == ["LONE", "lone", "odd"]


@in_git
def test_nothing_that_is_built_is_tracked() -> None:
    names = [str(p.relative_to(ROOT)) for p in check_names.tracked()]
    assert [n for n in names if re.search(r"(^|/)(\.venv|__pycache__|build|dist)/|\.pyc$", n)] == []


def test_every_requirement_is_pinned() -> None:
    """`make setup` installs nothing that constraints.txt does not fix to one version."""
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            assert "+" not in version, line
            pins[re.sub(r"[-_.]+", "-", name).lower()] = version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = list(project["project"]["dependencies"]) + project["build-system"]["requires"]
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    names = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~ ]", w)[0]).lower() for w in wanted}
    assert names <= pins.keys()
    assert pins["torch"] == "2.13.0"


def test_the_core_needs_no_torch() -> None:
    script = (
        "import importlib, sys\n"
        "for room in 'crypto evidence policy assets transparency protocol manager stakeholder cli'"
        ".split():\n"
        "    importlib.import_module('svetovid.' + room)\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_make_names_every_word_of_the_house() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    words = {line.split()[0] for line in done.stdout.splitlines() if line}
    wanted = "setup demo test lint bench test-long fuzz mutate format docs clean"
    assert set(wanted.split()) <= words


def _documents() -> list[Path]:
    return [p for p in check_names.tracked() if p.suffix == ".md"]


@in_git
def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for page in _documents():
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []
