"""Refuses public names that do not say what they are.

``make lint`` runs it, and ``tests/test_docstrings.py`` does. Prints ``FILE:LINE: what``, exits 1.

Public is what a package exports (``__all__`` of its ``__init__.py``), wherever below it is defined.
Each has a docstring, and so has each public method and property of a class. A function or method of
three or more parameters names them under ``Args:``; a class that is made with as many does so in
its own docstring, under ``Args:`` or ``Attributes:``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_MANY = 3
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _exported(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [c.value for c in ast.walk(node.value) if isinstance(c, ast.Constant)]
    return []


def _definition(
    source: Path, path: Path, name: str
) -> tuple[Path, ast.ClassDef | _Function] | None:
    """Where ``name`` of a module is defined; None for a constant, or what is not ours."""
    for node in _tree(path).body:
        if isinstance(node, ast.ClassDef | _Function) and node.name == name:
            return path, node
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("svetovid."):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    module = source.parent.joinpath(*(node.module or "").split("."))
                    file = module.with_suffix(".py")
                    file = file if file.is_file() else module / "__init__.py"
                    return _definition(source, file, alias.name) if file.is_file() else None
    return None


def public(source: Path) -> dict[str, tuple[Path, ast.ClassDef | _Function]]:
    """What the packages below ``source`` export, by file and name."""
    found = {}
    for package in sorted(source.rglob("__init__.py")):
        for name in _exported(_tree(package)):
            if definition := _definition(source, package, name):
                found[f"{definition[0].relative_to(source)}:{definition[1].name}"] = definition
    return found


def _parameters(function: _Function, *, method: bool) -> int:
    given = function.args
    bound = method and not any(ast.unparse(d) == "staticmethod" for d in function.decorator_list)
    return len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) - bound


def _function(name: str, function: _Function, *, method: bool) -> Iterator[tuple[int, str]]:
    said = ast.get_docstring(function)
    if said is None:
        yield function.lineno, f"{name} has no docstring"
    elif _parameters(function, method=method) >= _MANY and "Args:\n" not in said:
        yield function.lineno, f"{name} names no Args"


def findings(name: str, node: ast.ClassDef | _Function) -> Iterator[tuple[int, str]]:
    """Line and words for each thing that a public name leaves unsaid."""
    if not isinstance(node, ast.ClassDef):
        yield from _function(name, node, method=False)
        return
    said = ast.get_docstring(node) or ""
    if not said:
        yield node.lineno, f"{name} has no docstring"
    for inner in node.body:
        if not isinstance(inner, _Function):
            continue
        if inner.name == "__init__":
            many = _parameters(inner, method=True) >= _MANY
            own = ast.get_docstring(inner) or ""
            if many and not any(f"{h}:\n" in said + own for h in ("Args", "Attributes")):
                yield inner.lineno, f"{name} names no Args"
        elif inner.name[0] != "_" and not _sets(inner):
            yield from _function(f"{name}.{inner.name}", inner, method=True)


def _sets(function: _Function) -> bool:
    """A property's setter or an overload: what it is says the first of its name."""
    marks = [ast.unparse(d) for d in function.decorator_list]
    return any(m.endswith((".setter", "overload")) for m in marks)


def main(source: Path = ROOT / "src" / "svetovid") -> int:
    bad = [
        f"{path.relative_to(source.parent)}:{line}: {what}"
        for path, node in public(source).values()
        for line, what in findings(node.name, node)
    ]
    print("\n".join(sorted(bad)) or "docstrings: every public name has one")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
