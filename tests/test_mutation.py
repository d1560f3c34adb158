"""The search for checks that nothing tests: what it takes away, and what it leaves as it is."""

from __future__ import annotations

import ast
import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
mutation_sites = importlib.import_module("mutation_sites")
mutate = importlib.import_module("mutate")
sys.path.pop(0)

CONDITIONS = """
def check(self, ok: bool, code, said): ...

class Reader:
    def read(self, data, book):
        if len(data) > 9 or (first := data[:1]) == b"x":
            raise LimitError("limit.size", expected="less")
        if first:
            data = data[1:]
        if not data:
            raise _bad("ä", first)
        book.check(data == b"y" and not first, "data.same", f"{data}")
        return data
"""
CALLS = """
def _bounded(n) -> None:
    if n > 9:
        raise LimitError("limit.size", expected="less")

def check_key(n):
    _bounded(n)
    return n

def check_later(n): ...

def put(rows, n) -> None:
    if n in rows:
        raise _bad(n)
    rows[n] = n

async def read(rows, n):
    _bounded(n)
    n = check_key(n)
    check_later(n)
    check_key(
        n + 1,
    )
    await self.check_key("ä")
    put(rows, n)
    return _bounded(n)
"""


def room(folder: Path, source: str) -> Path:
    inner = folder / "src" / "svetovid" / "room"
    inner.mkdir(parents=True)
    (inner / "a.py").write_text(source)
    return folder


def test_every_condition_that_a_refusal_hangs_on_is_a_site(tmp_path: Path) -> None:
    found = list(mutation_sites.sites(room(tmp_path, CONDITIONS), "room"))
    assert [(s.code, s.means, s.condition) for s in found] == [
        ("limit.size", "refuse", "len(data) > 9"),
        ("limit.size", "refuse", '(first := data[:1]) == b"x"'),
        ("", "refuse", "not data"),
        ("data.same", "pass", 'data == b"y"'),
        ("data.same", "pass", "not first"),
    ]
    assert {s.function for s in found} == {"Reader.read"}


def test_a_mutant_computes_the_condition_and_never_refuses(tmp_path: Path) -> None:
    found = mutation_sites.sites(room(tmp_path, CONDITIONS), "room")
    first, second, _, passing, _ = found
    changed = ast.parse(mutation_sites.mutated(CONDITIONS, first))
    assert "len(data) > 9 and False or (first := data[:1])" in ast.unparse(changed)
    changed = ast.parse(mutation_sites.mutated(CONDITIONS, second))
    assert "(first := data[:1]) == b'x' and False" in ast.unparse(changed)
    changed = ast.parse(mutation_sites.mutated(CONDITIONS, passing))
    assert "(data == b'y' or True) and (not first)" in ast.unparse(changed)


def test_a_bare_call_of_a_function_that_is_there_to_refuse_is_a_site(tmp_path: Path) -> None:
    found = mutation_sites.sites(room(tmp_path, CALLS), "room")
    # Not where its result is used, where nothing under the name raises, or where it also changes
    # what it was handed.
    assert [(s.function, s.condition) for s in found if s.means == "call"] == [
        ("check_key", "_bounded(n)"),
        ("read", "_bounded(n)"),
        ("read", "check_key( n + 1, )"),
        ("read", 'await self.check_key("ä")'),
    ]


def test_a_mutant_leaves_the_call_out_and_nothing_else(tmp_path: Path) -> None:
    calls = [s for s in mutation_sites.sites(room(tmp_path, CALLS), "room") if s.means == "call"]
    text = mutation_sites.mutated(CALLS, calls[2])
    assert text == CALLS.replace("check_key(\n        n + 1,\n    )", "None")
    text = mutation_sites.mutated(CALLS, calls[3])
    assert text == CALLS.replace('await self.check_key("ä")', "None")


def test_the_checks_that_only_a_call_makes_are_among_the_sites() -> None:
    calls = {s.place for s in mutation_sites.sites(ROOT, "evidence") if s.means == "call"}
    assert ("src/svetovid/evidence/verify.py", "_keys", "check_ek(ek)") in calls


def test_of_two_conditions_that_read_alike_a_survivor_is_tried_again() -> None:
    row = {"file": "a.py", "function": "read", "condition": "not n"}
    other = row | {"function": "write", "killed_by": "t2"}
    mutants = [row | {"killed_by": None}, row | {"killed_by": "t1"}, other]
    assert mutate._killed(mutants) == {("a.py", "write", "not n"): "t2"}


@pytest.mark.parametrize("name", mutate.ROOMS)
def test_a_room_that_is_searched_is_there(name: str) -> None:
    assert (ROOT / "src" / "svetovid" / name).is_dir()
    for folder in [f"tests/{name}", *mutate.ALSO.get(name, [])]:
        assert (ROOT / folder).is_dir()


@pytest.mark.parametrize("room", ["evidence", "policy"])
def test_what_decides_about_trust_is_tested_check_by_check(room: str) -> None:
    found = json.loads(mutate.RESULT.read_text())[room]
    assert found["not_tried"] == 0
    assert found["sites"] == len(found["mutants"])
    assert found["killed"] == sum(m["killed_by"] is not None for m in found["mutants"])
    assert found["killed"] >= 0.9 * found["sites"]
