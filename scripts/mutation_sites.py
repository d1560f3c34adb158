"""Where a refusal hangs on a condition or a call, and the source in which it does not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_CODE = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z0-9_]+)+")
_CHECKS = re.compile(
    r"_*(check|verify|validate|require|refuse|expect|demand|ensure|deny|not?)(_\w+)?"
)


@dataclass(frozen=True)
class Site:
    """One condition, or one call of a function that may refuse.

    Attributes:
        room, file, function, line: where; ``line`` counts from 1.
        code: the reason code, or "" where a called function chooses it.
        condition: its source text, on one line.
        span: where it stands in the file, in bytes.
        means: ``refuse`` where its truth refuses, ``pass`` where its truth lets through, ``call``
            where the function that is called refuses.
        refusing: lines that run only when there is a refusal (else: that run either way).
    """

    room: str
    file: str
    function: str
    line: int
    code: str
    condition: str
    span: tuple[int, int]
    means: str
    refusing: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.code or '-'}: {self.condition}"

    @property
    def place(self) -> tuple[str, str, str]:
        """File, function and condition: what stays the same when lines move."""
        return self.file, self.function, self.condition

    def row(self) -> dict[str, Any]:
        """What the result keeps: no line numbers, which change with every edit."""
        kept = ("file", "function", "code", "condition")
        return {k: v for k, v in asdict(self).items() if k in kept}


def _code(nodes: list[ast.AST]) -> str | None:
    """The reason code that stands in ``nodes``; "" for a bare raise; None for no refusal."""
    found = None
    for node in (n for top in nodes for n in ast.walk(top)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if _CODE.fullmatch(node.value):
                return node.value
        elif isinstance(node, ast.Raise) and node.exc is not None:
            found = found or ""
    return found


def _operands(test: ast.expr, operator: type[ast.boolop]) -> list[ast.expr]:
    if isinstance(test, ast.BoolOp) and isinstance(test.op, operator):
        return list(test.values)
    return [test]


def _judges(trees: dict[Path, ast.Module]) -> dict[str, int]:
    """Functions and classes that take a truth and a code: name to the truth's place."""
    found = {}
    for tree in trees.values():
        for node in ast.walk(tree):
            fields: list[tuple[str, ast.expr | None]] = []
            if isinstance(node, ast.FunctionDef):
                fields = [(a.arg, a.annotation) for a in node.args.args]
                fields = fields[1:] if fields and fields[0][0] in ("self", "cls") else fields
            elif isinstance(node, ast.ClassDef):
                fields = [
                    (s.target.id, s.annotation)
                    for s in node.body
                    if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)
                ]
            else:
                continue
            truths = [i for i, (_, a) in enumerate(fields) if a and "bool" in ast.unparse(a)]
            if truths and "code" in [name for name, _ in fields]:
                found[node.name] = truths[0]
    return found


def _called(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _only_checks(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether it can do nothing that its caller sees, but raise."""
    if function.returns is None or ast.unparse(function.returns) != "None":
        return False
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            return False
        if isinstance(node, ast.With | ast.AsyncWith | ast.Yield | ast.Global | ast.Nonlocal):
            return False
    return _raises(function)


def _raises(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(isinstance(n, ast.Raise) and n.exc is not None for n in ast.walk(function))


def _checkers(trees: dict[Path, ast.Module]) -> set[str]:
    """Names of our functions whose call, its result unused, stands there to refuse.

    Either the name says so and a function of that name raises, itself or in one that it calls; or
    each function of that name raises, returns nothing and changes nothing that it was handed.
    Names stand for functions, as a call shows no type: one too many costs a mutant, no verdict.
    """
    functions: dict[str, list[ast.FunctionDef | ast.AsyncFunctionDef]] = {}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions.setdefault(node.name, []).append(node)
    direct = {name for name, all_of in functions.items() if any(map(_raises, all_of))}

    def reaches(function: ast.AST) -> bool:
        calls = (n for n in ast.walk(function) if isinstance(n, ast.Call))
        return any(_called(c) in direct for c in calls)

    return {
        name
        for name, all_of in functions.items()
        if all(map(_only_checks, all_of))
        or (_CHECKS.fullmatch(name) and (name in direct or any(map(reaches, all_of))))
    }


def sites(root: Path, room: str) -> Iterator[Site]:
    """Every site of a room of the checkout at ``root``."""
    source = root / "src" / "svetovid"
    trees = {p: ast.parse(p.read_bytes()) for p in sorted(source.rglob("*.py"))}
    judges, checkers = _judges(trees), _checkers(trees)
    for path, tree in trees.items():
        if not path.is_relative_to(source / room):
            continue
        data = path.read_bytes()
        starts = [0]
        for line in data.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))

        def make(
            node: ast.expr,
            means: str,
            code: str,
            refusing: list[ast.stmt] | list[ast.expr],
            function: str,
            path: Path = path,
            data: bytes = data,
            starts: list[int] = starts,
        ) -> Site:
            assert node.end_lineno is not None
            assert node.end_col_offset is not None
            span = (
                starts[node.lineno - 1] + node.col_offset,
                starts[node.end_lineno - 1] + node.end_col_offset,
            )
            text = " ".join(data[slice(*span)].decode().split())
            lines = tuple(s.lineno for s in refusing)
            file = str(path.relative_to(root))
            return Site(room, file, function, node.lineno, code, text, span, means, lines)

        for function, node in _within(tree):
            if isinstance(node, ast.If):
                code = _code(list(node.body))
                if code is not None:
                    for test in _operands(node.test, ast.Or):
                        yield make(test, "refuse", code, node.body, function)
            elif isinstance(node, ast.Expr):
                call = node.value.value if isinstance(node.value, ast.Await) else node.value
                if isinstance(call, ast.Call) and _called(call) in checkers - judges.keys():
                    yield make(node.value, "call", _code([call]) or "", [node], function)
            elif isinstance(node, ast.Call):
                place = judges.get(_called(node))
                code = _code([*node.args, *(k.value for k in node.keywords)])
                if place is None or place >= len(node.args) or not code:
                    continue
                if not isinstance(node.args[place], ast.Constant):
                    for test in _operands(node.args[place], ast.And):
                        yield make(test, "pass", code, [node], function)


def _within(tree: ast.AST, function: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Every node, with the dotted name of the function it stands in."""
    for node in ast.iter_child_nodes(tree):
        inner = function
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{function}.{node.name}".lstrip(".")
        yield inner, node
        yield from _within(node, inner)


def mutated(text: str, site: Site) -> str:
    """``text`` in which the condition is still computed, or the call left out: none refuses."""
    data = text.encode()
    start, end = site.span
    if site.means == "call":
        return (data[:start] + b"None" + data[end:]).decode()
    never = b" and False)" if site.means == "refuse" else b" or True)"
    return (data[:start] + b"((" + data[start:end] + b")" + never + data[end:]).decode()
