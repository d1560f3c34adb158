"""Writes the table at the end of docs/trust.md: where each T-rule is enforced, and its tests.

::

    python scripts/trust_table.py            # list rules without a source file or a test; exit 1
    python scripts/trust_table.py --write    # write the table

A source file counts for a rule when it names it (``T6``); a test, when its docstring, its body or
the comment above it does. In the tests of TPM structures the same marks number attacks on the
structures, so those do not count.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "trust.md"
HEADING = "| rule | enforced in | tests |\n|---|---|---|\n"
RULES = [f"T{n}" for n in range(1, 19)]
SHOWN = 5
_NOT_RULES = ("tests/evidence/tpm/", "tests/test_project.py")


def _names(rule: str, text: str) -> int:
    return len(re.findall(rf"\b{rule}\b", text))


def enforced(rule: str) -> list[str]:
    """Source files that name ``rule``, those that name it most first."""
    counts = {p: _names(rule, p.read_text()) for p in sorted((ROOT / "src").rglob("*.py"))}
    found = sorted((p for p, n in counts.items() if n), key=lambda p: -counts[p])
    return [str(p.relative_to(ROOT)) for p in found]


def tests(rule: str) -> list[str]:
    """Tests that name ``rule``, as ``FILE::FUNCTION``; a file alone where it does elsewhere."""
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        name = str(path.relative_to(ROOT))
        if name.startswith(_NOT_RULES):
            continue
        text = path.read_text()
        tree = ast.parse(text)
        lines = text.splitlines()
        inside = []
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                while first > 1 and lines[first - 2].startswith("#"):
                    first -= 1
                if _names(rule, "\n".join(lines[first - 1 : node.end_lineno])):
                    inside.append(f"{name}::{node.name}")
        if not inside and _names(rule, text):
            inside = [name]
        found += inside
    return found


def _cell(names: list[str]) -> str:
    shown = ", ".join(f"`{n}`" for n in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "") or "-"


def table() -> str:
    """The table, heading included, in Markdown."""
    rows = [f"| {r} | {_cell(enforced(r))} | {_cell(tests(r))} |\n" for r in RULES]
    return HEADING + "".join(rows)


def main() -> int:
    if "--write" in sys.argv[1:]:
        before, _, _ = PAGE.read_text().partition(HEADING)
        PAGE.write_text(before + table())
    lacking = [
        f"{rule}: {what}"
        for rule in RULES
        for what, found in (("no source file", enforced(rule)), ("no test", tests(rule)))
        if not found
    ]
    print("\n".join(lacking) or "trust: every rule has a place and a test")
    return bool(lacking)


if __name__ == "__main__":
    sys.exit(main())
