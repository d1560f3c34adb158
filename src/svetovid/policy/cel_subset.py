"""The part of CEL that conditions are written in: parsed here before any engine sees it.

The subset (``docs/spec/policy.md``, section 5) leaves out whatever could make evaluation costly or
its meaning depend on the engine: ``map`` and ``filter`` (they can double a value at each step),
``matches``, timestamps, bytes, escapes in strings, nested comprehensions. A loop goes over a field
or a list of literals, and its body knows its own variable and literals only. What is left always
ends quickly, and every field it reads is known before it runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from svetovid.errors import LimitError, ParseError

__all__ = ["ROOTS", "Expression", "parse"]

MAX_SOURCE = 1024
MAX_DEPTH = 16
MAX_ARITHMETIC = 16
"""Of ``+ - * / %``: each ``+`` may copy the lists on both sides of it."""
MAX_LOOP_TOKENS = 128
"""In the bodies of all loops of a condition: each is looked at once an element."""
ROOTS = ("claims", "job")

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<number>[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?)
      | (?P<string>"[^"\\\n]*"|'[^'\\\n]*')
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<sign>\|\||&&|==|!=|<=|>=|[-+*/%!<>?:.,()\[\]])
    """,
    re.VERBOSE | re.ASCII,
)
_LEVELS: tuple[tuple[str, ...], ...] = (
    ("||",),
    ("&&",),
    ("==", "!=", "<", "<=", ">", ">=", "in"),
    ("+", "-"),
    ("*", "/", "%"),
)
_ARITHMETIC = frozenset("+-*/%")
_MACROS = frozenset({"all", "exists", "exists_one"})
_METHODS = frozenset({"size", "contains", "startsWith", "endsWith"})
_FUNCTIONS = frozenset({"size", "int", "double"})
_RESERVED = frozenset(
    {
        *("as", "break", "const", "continue", "else", "false", "for", "function", "has", "if"),
        *("import", "in", "let", "loop", "namespace", "null", "package", "return", "true", "var"),
        *("void", "while"),
    }
)

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Expression:
    """What is known of a parsed condition.

    Attributes:
        source: as written.
        paths: fields it reads, for example ``("claims", "measurement")``.
        tested: fields it asks for with ``has()``; these may be missing.
        literals: every literal in it.
    """

    source: str
    paths: frozenset[Path]
    tested: frozenset[Path]
    literals: tuple[str | int | float | bool, ...]


def _refuse(expected: str, observed: str) -> NoReturn:
    raise ParseError(
        "policy.cel",
        expected=expected,
        observed=observed,
        next_step="write the condition in the subset of docs/spec/policy.md, section 5",
    )


def _refuse_loop(expected: str, observed: str) -> NoReturn:
    raise ParseError(
        "policy.cel_loop",
        expected=expected,
        observed=observed,
        next_step="compare the loop's variable with literals; `x in job.list` needs no loop",
    )


def _tokens(source: str) -> Iterator[tuple[str, str]]:
    at = 0
    last = ""
    while at < len(source):
        m = _TOKEN.match(source, at)
        if m is None:
            _refuse("letters, digits, plain strings and operators", source[at : at + 20])
        kind = str(m.lastgroup)
        # r"..", b"..", """..""" and 1u are other literals to CEL than they look like here.
        if last and kind in ("string", "number", "word") and last in ("string", "number", "word"):
            _refuse("a space between two words", source[max(0, at - 10) : at + 10])
        if kind != "space":
            yield kind, m[0]
        last = kind
        at = m.end()
    yield "end", ""


class _Parser:
    """Recursive descent, one method a precedence level group; depth is counted, not assumed."""

    def __init__(self, source: str) -> None:
        self._tokens = list(_tokens(source))
        self._at = 0
        self._depth = 0
        self._bound: str | None = None
        self._arithmetic = 0
        self._loop_tokens = 0
        self._reads = 0
        self.paths: set[Path] = set()
        self.tested: set[Path] = set()
        self.literals: list[str | int | float | bool] = []

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._tokens[self._at][0] != "string" else ""

    def _take(self) -> tuple[str, str]:
        token = self._tokens[self._at]
        if token[0] == "end":
            _refuse("a whole expression", "its end")
        self._at += 1
        return token

    def _accept(self, text: str) -> bool:
        if self._peek() == text and self._tokens[self._at][0] != "end":
            self._at += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            _refuse(text, self._tokens[self._at][1] or "the end")

    def whole(self) -> None:
        self._expression()
        if self._tokens[self._at][0] != "end":
            _refuse("the end", self._tokens[self._at][1])

    def _expression(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise LimitError(
                "limit.depth",
                expected=f"at most {MAX_DEPTH} levels in a condition",
                next_step="write it flatter",
            )
        self._binary(0)
        if self._accept("?"):
            self._binary(0)
            self._expect(":")
            self._expression()
        self._depth -= 1

    def _binary(self, level: int) -> None:
        if level == len(_LEVELS):
            self._unary()
            return
        self._binary(level + 1)
        while self._peek() in _LEVELS[level]:
            if self._take()[1] in _ARITHMETIC:
                self._sum()
            self._binary(level + 1)

    def _sum(self) -> None:
        if self._bound is not None:
            _refuse_loop("no arithmetic in a loop", self._bound)
        self._arithmetic += 1
        if self._arithmetic > MAX_ARITHMETIC:
            _refuse(f"at most {MAX_ARITHMETIC} of + - * / %", "more")

    def _unary(self) -> None:
        if self._peek() in ("!", "-"):
            self._take()
        self._member()

    def _member(self) -> None:
        literal, before = self._peek() == "[", self._reads
        path = self._primary()
        literal = literal and self._reads == before
        while True:
            if self._accept("."):
                name = self._name()
                if self._peek() == "(":
                    self._close(path)
                    self._method(name, plain=literal or path is not None)
                    path, literal = None, False
                elif path is not None:
                    path = (*path, name)
            elif self._accept("["):
                start = self._at
                kind, text = self._tokens[start]
                self._expression()
                alone = kind == "string" and self._at == start + 1
                self._expect("]")
                if path is not None and len(path) > 1 and alone:
                    path = (*path, text[1:-1])
                else:
                    self._close(path)
                    path, literal = None, False
            else:
                self._close(path)
                return

    def _close(self, path: Path | None) -> None:
        if path is None or path[0] == self._bound:
            return
        if len(path) == 1:
            _refuse(f"a field of {path[0]}, written {path[0]}.name", path[0])
        self.paths.add(path)

    def _name(self) -> str:
        kind, text = self._take()
        if kind != "word" or text in _RESERVED:
            _refuse("a name", text)
        return text

    def _primary(self) -> Path | None:
        kind, text = self._take()
        if kind == "number":
            self._number(text)
        elif kind == "string":
            self.literals.append(text[1:-1])
        elif text == "(":
            self._expression()
            self._expect(")")
        elif text == "[":
            self._arguments("]")
        elif text in ("true", "false"):
            self.literals.append(text == "true")
        elif self._bound is not None and text in (*ROOTS, "has"):
            _refuse_loop("a loop's own variable and literals", text)
        elif text == "has":
            self._has()
        elif text in _FUNCTIONS and self._accept("("):
            if self._arguments(")") != 1:
                _refuse(f"one argument to {text}", text)
        elif kind == "word" and (text in ROOTS or text == self._bound):
            self._reads += 1
            return (text,)
        elif text != "null":
            _refuse("claims, job, a literal or a known function", text)
        return None

    def _number(self, text: str) -> None:
        value = float(text) if set(text) & set(".eE") else int(text) if len(text) < 17 else 2**60
        if abs(value) > 2**53 - 1:
            _refuse("a number within 2**53 - 1", text)
        self.literals.append(value)

    def _arguments(self, end: str) -> int:
        count = 0
        while not self._accept(end):
            if count:
                self._expect(",")
            self._expression()
            count += 1
        return count

    def _has(self) -> None:
        self._expect("(")
        path: Path = (self._name(),)
        while self._accept("."):
            path = (*path, self._name())
        self._expect(")")
        if path[0] not in ROOTS or len(path) < 2:
            _refuse("has(claims.name) or has(job.name)", ".".join(path))
        self.tested.add(path)

    def _method(self, name: str, *, plain: bool) -> None:
        self._expect("(")
        if name in _METHODS:
            if self._arguments(")") != (name != "size"):
                _refuse(f"{name} with its argument", name)
            return
        if name not in _MACROS or self._bound is not None:
            _refuse("contains, startsWith, endsWith, size, or one all/exists level", name)
        variable = self._name()
        if variable in ROOTS or variable in _FUNCTIONS:
            _refuse("a variable with a name of its own", variable)
        if not plain:
            _refuse_loop("a loop over a field or a list of literals", name)
        self._expect(",")
        self._bound = variable
        start = self._at
        self._expression()
        self._bound = None
        self._loop_tokens += self._at - start
        if self._loop_tokens > MAX_LOOP_TOKENS:
            _refuse_loop(f"at most {MAX_LOOP_TOKENS} words and signs in loops", "more")
        self._expect(")")


def parse(source: str) -> Expression:
    """Parse a condition, without evaluating it.

    Raises:
        LimitError: ``limit.size`` beyond 1024 bytes, ``limit.depth`` beyond 16 levels.
        ParseError: ``policy.cel`` for what is not in the subset, ``policy.cel_loop`` for a loop
            that does more than compare its variable with literals.
    """
    if len(source) > MAX_SOURCE:
        raise LimitError(
            "limit.size",
            expected=f"at most {MAX_SOURCE} bytes in a condition",
            observed=len(source),
            next_step="write a shorter condition, or split it in several",
        )
    parser = _Parser(source)
    parser.whole()
    return Expression(
        source, frozenset(parser.paths), frozenset(parser.tested), tuple(parser.literals)
    )
