"""Reads off each test which trust rules (T1 to T18) and attacks (F1, TS3, ...) it stands for.

A test bears an id in its name, behind ``test_`` (``test_t13_l6_every_part_counts``), or in front of
its docstring (``T13, L6: nothing is left out``, or the ids alone). Nothing else counts: an id in
the midst of a sentence, a comment or a module's docstring is prose. Ids are those of docs/trust.md
and of tests/world/attacks.md; the two lists share none.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RULES = tuple(f"T{n}" for n in range(1, 19))
ATTACKS = ROOT / "tests" / "world" / "attacks.md"
_ID = r"[A-Z]{1,2}\d{1,2}"
_FRONT = re.compile(rf"{_ID}(?:(?:, | and ){_ID})*(?=[:;.]|$)")
_ROW = re.compile(rf"^\| ({_ID}) \| (.*) \|$", re.MULTILINE)


def attacks(page: Path = ATTACKS) -> dict[str, str]:
    """Each attack's id and what stands in its row: a test in backquotes, or ``later: word``."""
    return dict(_ROW.findall(page.read_text()))


def ids_of(name: str, docstring: str, known: frozenset[str]) -> frozenset[str]:
    """The ids that a test bears.

    Raises:
        ValueError: for an id in front of the docstring that is in neither list.
    """
    found = set()
    for part in name.removeprefix("test_").split("_"):
        if part.upper() not in known:
            break
        found.add(part.upper())
    if front := _FRONT.match(docstring):
        said = set(re.findall(_ID, front[0]))
        if unknown := said - known:
            raise ValueError(f"{name}: {', '.join(sorted(unknown))} is no rule and no attack")
        found |= said
    return frozenset(found)


@cache
def marked(root: Path = ROOT) -> dict[str, frozenset[str]]:
    """Every test below ``root``/tests as ``FILE::FUNCTION``, and the ids that it bears."""
    known = frozenset((*RULES, *attacks()))
    found = {}
    for path in sorted((root / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                name = f"{path.relative_to(root)}::{node.name}"
                found[name] = ids_of(node.name, ast.get_docstring(node) or "", known)
    return found


def tests_of(mark: str) -> list[str]:
    """Tests that bear ``mark``, as :func:`marked` names them."""
    return [name for name, ids in marked().items() if mark in ids]
