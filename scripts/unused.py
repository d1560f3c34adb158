"""Lists what the source defines and nothing but a test uses.

::

    python scripts/unused.py    # exit 1 where there is such a name

Looked at are functions, classes, methods and constants of ``src`` and ``benchmarks``. A name counts
as used where source, a benchmark, an example or a script reads it, by this name, anywhere: so two
things of one name hide each other, and whatever is listed is certainly used by nobody. What a
decorator hands to a framework is used by it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = {
    "list_commands": "typer calls it",
    "capture_signals": "uvicorn calls it",
    "load_manifest": "what seal_* wrote beside a container, for whoever uses the library alone",
}


def _read(tree: ast.AST) -> Iterator[str]:
    """Names that ``tree`` reads, also by keyword or, for ``getattr``, as a string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
            yield from (a.value for a in node.args if isinstance(a, ast.Constant))


def _defined(body: list[ast.stmt]) -> Iterator[tuple[str, int]]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if not node.decorator_list or any(
                getattr(d, "id", "") in ("property", "classmethod", "staticmethod", "dataclass")
                or getattr(getattr(d, "func", d), "id", "") in ("dataclass", "contextmanager")
                for d in node.decorator_list
            ):
                yield node.name, node.lineno
            if isinstance(node, ast.ClassDef):
                methods = [n for n in node.body if not isinstance(n, ast.Assign | ast.AnnAssign)]
                yield from _defined(methods)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield target.id, node.lineno
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node.lineno


def unused(root: Path, defining: Iterable[str], using: Iterable[str]) -> list[str]:
    """``FILE:LINE NAME`` for each name defined below ``defining`` and read nowhere in ``using``."""

    def trees(folders: Iterable[str]) -> dict[Path, ast.Module]:
        paths = sorted(p for f in folders for p in (root / f).rglob("*.py"))
        return {p: ast.parse(p.read_bytes(), str(p)) for p in paths}

    read = {name for tree in trees(using).values() for name in _read(tree)}
    return [
        f"{path.relative_to(root)}:{line} {name}"
        for path, tree in trees(defining).items()
        for name, line in _defined(tree.body)
        if name not in read and name not in KEPT and not name.startswith("__")
    ]


def main() -> int:
    found = unused(ROOT, ("src", "benchmarks"), ("src", "benchmarks", "examples", "scripts"))
    print("\n".join(found) or "unused: nothing")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
