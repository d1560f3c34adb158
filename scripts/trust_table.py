"""Writes the table at the end of docs/trust.md: where each T-rule is enforced, and its tests.

::

    python scripts/trust_table.py            # list rules without a source file or a test; exit 1
    python scripts/trust_table.py --write    # write the table
    python scripts/trust_table.py T6 F8      # list the tests that bear these ids

A source file counts for a rule when it names it (``T6``); a test, when it bears the rule's id as
:mod:`marks` reads it. The table names files alone, so that it changes seldom.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

from marks import ROOT, RULES, tests_of

PAGE = ROOT / "docs" / "trust.md"
HEADING = "| rule | enforced in | tests |\n|---|---|---|\n"
PLACES = ("src", "images/attested-host/attested_host")


def enforced(rule: str) -> list[str]:
    """Files of the source and of the image's recipe that name ``rule``."""
    word = re.compile(rf"\b{rule}\b")
    files = (p for place in PLACES for p in sorted((ROOT / place).rglob("*")))
    code = (p for p in files if p.suffix in (".py", ".sh") and "play" not in p.parts)
    return [str(p.relative_to(ROOT)) for p in code if word.search(p.read_text())]


def _cell(names: Iterable[str]) -> str:
    return ", ".join(f"`{n}`" for n in sorted(set(names))) or "-"


def page() -> str:
    """The whole page as it should be."""
    before, _, _ = PAGE.read_text().partition(HEADING)
    rows = [
        f"| {r} | {_cell(enforced(r))} | {_cell(t.split('::')[0] for t in tests_of(r))} |\n"
        for r in RULES
    ]
    return before + HEADING + "".join(rows)


def lacking() -> list[str]:
    """What the rules lack."""
    return [
        f"{rule}: {what}"
        for rule in RULES
        for what, found in (("no source file", enforced(rule)), ("no test", tests_of(rule)))
        if not found
    ]


def main() -> int:
    asked = [a for a in sys.argv[1:] if not a.startswith("-")]
    if asked:
        print("\n".join(f"{a}: {name}" for a in asked for name in tests_of(a)))
        return 0
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page())
    print("\n".join(lacking()) or "trust: every rule has a place and a test")
    return bool(lacking())


if __name__ == "__main__":
    sys.exit(main())
