"""Entry point: runs a command, and turns whatever it raises into words and an exit code.

Exit codes are those of :mod:`svetovid.errors` (2 input, 3 refusal, 4 host, 5 transport); 1 is a
defect of our own, 130 an interrupt. ``docs/spec/cli.md`` is the specification.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from svetovid.cli.extras import without
from svetovid.cli.options import Places
from svetovid.cli.output import emit_error
from svetovid.errors import InputError, SvetovidError

if TYPE_CHECKING:
    from svetovid.stakeholder import Labels

__all__ = ["main", "run"]


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(args: Sequence[str]) -> int:
    """Run one command; the exit code. Nothing but a real defect reaches the last clause."""
    from svetovid.cli.app import app

    # --json decides how errors look even where the command line itself cannot be parsed
    as_json = any(a == "--json" or a.startswith("--json=") for a in args)
    places = Places()
    try:
        result = app(list(args), prog_name="svetovid", standalone_mode=False, obj=places)
    except SvetovidError as e:
        emit_error(e, as_json, _namer(places))
        return e.exit_code
    except SystemExit:
        return 1  # typer's answer to a reader of our output that has gone
    except (KeyboardInterrupt, EOFError):
        return 130
    except Exception as e:  # noqa: BLE001 - the one place that catches everything
        return _unexpected(e, as_json, args)
    return result if isinstance(result, int) else 0


def _namer(places: Places) -> Callable[[str], str]:
    """Puts names to keys, from the folders that the command was given."""

    @cache
    def labels() -> Labels:
        from svetovid.stakeholder import read_labels

        return read_labels(places.home, places.public)

    def readable(text: str) -> str:
        return labels().readable(text) if "ed25519:" in text or "sha256:" in text else text

    return readable


def _command_of(args: Sequence[str]) -> str:
    """The command that ``args`` name, as far as they do: not every error of click's knows it."""
    from typer.main import get_command

    from svetovid.cli.app import app

    command, path = get_command(app), ["svetovid"]
    for word in args:
        inner = getattr(command, "commands", {}).get(word)
        if inner is None:
            break
        command = inner
        path.append(word)
    return " ".join(path)


def _unexpected(error: Exception, as_json: bool, args: Sequence[str]) -> int:
    if type(error).__name__ == "Abort":
        return 130
    if type(error).__name__ == "NoArgsIsHelpError":  # the help is printed: nothing else is wrong
        return InputError.exit_code
    describe = getattr(error, "format_message", None)
    if describe is not None:  # the command line itself is wrong, in whichever click typer has
        usage = InputError(
            "cli.usage",
            expected="a command as its help describes it",
            observed=describe(),
            next_step=f"{_command_of(args)} --help",
        )
        emit_error(usage, as_json)
        return usage.exit_code
    if (missing := without(error)) is not None:
        emit_error(missing, as_json)
        return missing.exit_code
    if os.environ.get("SVETOVID_DEBUG"):
        import traceback

        traceback.print_exception(error)
    emit_error(
        SvetovidError(
            "internal",
            expected="no defect in svetovid",
            observed=type(error).__name__,
            next_step="run again with SVETOVID_DEBUG=1 and report what it prints",
        ),
        as_json,
    )
    return SvetovidError.exit_code
