"""What a command prints: lines for people or one JSON value; errors made from the same reasons.

People's text is passed on without markup and without control characters: names and reasons come
from strangers, and a terminal obeys escape sequences.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from svetovid.errors import Reason, SvetovidError

__all__ = ["ask", "emit", "emit_error", "note", "plain", "table"]

_MAX_ANSWER = 64
_COLUMN = 12
"""Characters that a column of a table needs, on the average, to be read."""


def plain(value: object) -> str:
    """``value`` as text that a terminal prints and does not obey."""
    return "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(value)
    )


def emit(data: Mapping[str, Any], lines: Sequence[object], as_json: bool) -> None:
    """The result of a command, on standard output: ``data`` as JSON, or ``lines``."""
    if as_json:
        sys.stdout.write(json.dumps(data, ensure_ascii=True, allow_nan=False) + "\n")
    else:
        sys.stdout.write("".join(plain(line) + "\n" for line in lines))
    sys.stdout.flush()


def note(text: object) -> None:
    """A remark or progress, on standard error, so that results can be piped."""
    sys.stderr.write(plain(text) + "\n")
    sys.stderr.flush()


def ask(question: str) -> bool:
    """A question at the terminal, on standard error; only a yes is a yes."""
    sys.stderr.write(plain(question) + " [y/N]: ")
    sys.stderr.flush()
    return sys.stdin.readline(_MAX_ANSWER).strip().lower() in ("y", "yes")


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], data: Mapping[str, Any], as_json: bool
) -> None:
    """``rows`` as a table for people, or a field a line where there is no room for one; ``data``
    for machines."""
    if as_json:
        emit(data, (), True)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False, markup=False)
    if console.width < _COLUMN * len(columns):
        lines = [
            [f"{name}: {cell}" for name, cell in zip(columns, row, strict=True)] for row in rows
        ]
        emit({}, [line for row in lines for line in (*row, "")], False)
        return
    view = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        view.add_row(*(Text(plain(cell), overflow="fold") for cell in row))
    console.print(view)


def emit_error(error: SvetovidError, as_json: bool, readable: Callable[[str], str] = str) -> None:
    """A refusal: JSON on standard output, or a panel a reason on standard error.

    Args:
        error: what was refused.
        as_json: for machines: keys and digests as they are.
        readable: for people: puts names to keys and digests.
    """
    if as_json:
        emit(error.to_dict(), (), True)
        return
    from rich.console import Console
    from rich.panel import Panel

    console = Console(file=sys.stderr, highlight=False, markup=False)
    for reason in error.reasons:
        body, title = _body(reason, readable), plain(reason.code)
        console.print(Panel(body, title=title, title_align="left", border_style="red"))


def _body(reason: Reason, readable: Callable[[str], str]) -> Any:
    from rich.text import Text

    parts = (
        ("where", reason.clause),
        ("whose", reason.owner),
        ("expected", reason.expected),
        ("observed", reason.observed),
        ("next", reason.next_step),
    )
    shown = [f"{label + ':':<10}{plain(readable(value))}" for label, value in parts if value]
    return Text("\n".join(shown) or "no more is known", overflow="fold")
