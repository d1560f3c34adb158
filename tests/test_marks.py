"""Every trust rule and every attack has a test that says so, and that pytest runs."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
marks = importlib.import_module("marks")
trust_table = importlib.import_module("trust_table")
sys.path.pop(0)

FAMILIES = {
    "F": 11,
    "I": 10,
    "TS": 9,
    "P": 9,
    "U": 10,
    "M": 21,
    "C": 10,
    "V": 15,
    "K": 11,
    "A": 7,
    "D": 5,
    "L": 7,
}


def _ever_run(path: Path) -> bool:
    return "\npytestmark = pytest.mark.slow" not in path.read_text()


@pytest.fixture(scope="module")
def collected(request: pytest.FixtureRequest) -> set[str]:
    """Tests that run, as ``FILE::FUNCTION``: of this session where it is a run of everything."""
    tests = (ROOT / "tests").rglob("test_*.py")
    files = {str(p.relative_to(ROOT)) for p in tests if _ever_run(p)}
    names = {i.nodeid.split("[")[0] for i in request.session.items}
    if not files <= {n.split("::")[0] for n in names}:
        # The option "-q" of pyproject.toml, a second time, would leave out the names.
        options = ["-o", "addopts=--import-mode=importlib -p no:cacheprovider", "-q"]
        command = [sys.executable, "-m", "pytest", "--collect-only", "-m", "not slow", *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        names = {line.split("[")[0] for line in done.stdout.splitlines() if "::" in line}
    return names


def test_every_attack_has_its_line() -> None:
    wanted = [f"{family}{n + 1}" for family, count in FAMILIES.items() for n in range(count)]
    assert list(marks.attacks()) == wanted
    assert not set(marks.RULES) & set(wanted), "one id, two things"


def test_every_attack_that_is_claimed_is_carried_out(collected: set[str]) -> None:
    for attack, shown in marks.attacks().items():
        if re.fullmatch(r"later: [a-z]+", shown):
            continue
        named = re.fullmatch(r"`(tests/[^`:]+::test_\w+)`", shown)
        assert named, f"{attack}: {shown}"
        assert attack in marks.marked().get(named[1], ()), f"{attack}: {named[1]} does not bear it"
        assert named[1] in collected, f"{attack}: {named[1]} does not run"


def test_every_trust_rule_has_a_place_and_a_test(collected: set[str]) -> None:
    assert trust_table.lacking() == []
    for rule in marks.RULES:
        assert set(marks.tests_of(rule)) & collected, f"{rule}: no test of it runs"


def test_the_page_of_trust_is_current() -> None:
    assert trust_table.PAGE.read_text() == trust_table.page(), "make docs"


def test_where_an_id_counts() -> None:
    known = frozenset({"T6", "F8", "TS3"})

    def read(name: str, docstring: str = "") -> set[str]:
        return set(marks.ids_of(name, docstring, known))

    assert read("test_t6_f8_two_at_once") == {"T6", "F8"}
    assert read("test_ts3_short") == {"TS3"}
    assert read("test_two_t6") == set()
    assert read("test_a", "F8, T6: as it says.") == {"F8", "T6"}
    assert read("test_a", "T6 and F8.") == {"F8", "T6"}
    assert read("test_a", "F8") == {"F8"}
    assert read("test_a", "As T6 says, in (F8).") == set()
    assert read("test_a", "T6 is kept.") == set()
    with pytest.raises(ValueError, match="X9"):
        read("test_a", "T6, X9: what is that?")
