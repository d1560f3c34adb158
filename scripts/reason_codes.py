"""Finds every reason code that the source can raise, and whether a test names it.

::

    python scripts/reason_codes.py            # list codes that no test names; exit 1 if there are
    python scripts/reason_codes.py --write    # write docs/spec/reason-codes.md

A code is a constant string given to one of our error classes, to ``Reason`` or to any function of
ours that has a parameter called ``code`` (both arms of a conditional expression count).
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "svetovid"
TESTS = ROOT / "tests"
PAGE = ROOT / "docs" / "spec" / "reason-codes.md"

EXIT = {
    "InputError": 2,
    "ParseError": 2,
    "LimitError": 2,
    "RefusalError": 3,
    "IntegrityError": 3,
    "EvidenceError": 3,
    "PolicyError": 3,
    "HostError": 4,
    "TransportError": 5,
}
_CODE = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z0-9_]+)+")


@dataclass
class Use:
    """Where a code is raised, and by which class."""

    classes: set[str] = field(default_factory=set)
    modules: set[str] = field(default_factory=set)


def _constants(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from _constants(node.body)
        yield from _constants(node.orelse)
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from _constants(value)


def _called(node: ast.Call) -> str:
    f = node.func
    return f.attr if isinstance(f, ast.Attribute) else f.id if isinstance(f, ast.Name) else ""


def _takers(trees: dict[Path, ast.Module]) -> dict[str, int]:
    """Name of each function or class of ours with a positional ``code``, and at which place."""
    takers = dict.fromkeys((*EXIT, "SvetovidError", "Reason"), 0)
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
                if "code" in names and node.name != "__init__":
                    bound = names[0] in ("self", "cls")
                    takers[node.name] = names.index("code") - bound
            elif isinstance(node, ast.ClassDef):
                fields = [
                    s.target.id
                    for s in node.body
                    if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)
                ]
                if "code" in fields:
                    takers[node.name] = fields.index("code")
    return takers


def codes(source: Path = SOURCE) -> dict[str, Use]:
    """Every reason code below ``source``, sorted."""
    trees = {p: ast.parse(p.read_bytes(), str(p)) for p in sorted(source.rglob("*.py"))}
    takers = _takers(trees)
    found: defaultdict[str, Use] = defaultdict(Use)
    for path, tree in trees.items():
        module = ".".join(path.relative_to(source.parent).with_suffix("").parts)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = _called(node)
            given = [k.value for k in node.keywords if k.arg == "code"]
            place = takers.get(name)
            if place is not None and place < len(node.args):
                given.append(node.args[place])
            for code in (c for g in given for c in _constants(g) if _CODE.fullmatch(c)):
                found[code].modules.add(module.removesuffix(".__init__"))
                found[code].classes.add(name)
    return dict(sorted(found.items()))


def untested(found: dict[str, Use], tests: Path = TESTS) -> list[str]:
    """Those codes that stand in no test file."""
    text = "\n".join(p.read_text() for p in sorted(tests.rglob("*.py")))
    text = text.replace("\\.", ".")  # codes in patterns, as pytest.raises(match=...) takes them
    named = set(re.findall(r"[a-z][a-z0-9_]*(?:\.[a-z0-9_]+)+", text))
    return [c for c in found if c not in named]


def page(found: dict[str, Use]) -> str:
    """The page of all codes, in Markdown."""
    lines = [
        "# Reason codes",
        "",
        "Every refusal carries one of these. They are stable: a code is never given a second",
        "meaning. `make docs` writes this page from the source; a test holds that it is current",
        "and that some test names every code. What the exit statuses mean stands in",
        "[`svetovid.errors`](../../src/svetovid/errors.py).",
        "",
        "| code | exit status | raised by |",
        "|---|---|---|",
    ]
    for code, use in found.items():
        status = ", ".join(sorted({str(EXIT[c]) for c in use.classes if c in EXIT})) or "3"
        where = ", ".join(f"`{m.removeprefix('svetovid.')}`" for m in sorted(use.modules))
        lines.append(f"| `{code}` | {status} | {where} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    found = codes()
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page(found))
    missing = untested(found)
    for code in missing:
        print(f"{code}: in no test; raised by {', '.join(sorted(found[code].modules))}")
    print(f"reason codes: {len(found)}, without a test: {len(missing)}")
    return bool(missing)


if __name__ == "__main__":
    sys.exit(main())
