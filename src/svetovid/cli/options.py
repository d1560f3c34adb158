"""Options that many commands share, and the passphrase, which is never one of them."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svetovid.cli.output import plain
from svetovid.crypto import Secret
from svetovid.errors import InputError

if TYPE_CHECKING:
    from svetovid.protocol import ManagerPin

__all__ = [
    "AnchorsOption",
    "AsJson",
    "HomeOption",
    "HostHomeOption",
    "ManagerHomeOption",
    "PinsOption",
    "Places",
    "PublicOption",
    "ReferencesOption",
    "moment",
    "passphrase",
    "read_pins",
    "storage_url",
]

_PUBLIC = "SVETOVID_PUBLIC"


@dataclass(slots=True)
class Places:
    """Which folders a command was given: what they call a key is what its errors call it."""

    home: Path | None = None
    public: Path = field(default_factory=lambda: Path(os.environ.get(_PUBLIC) or "public"))


def _remember(context: typer.Context, parameter: typer.CallbackParam, value: Path) -> Path:
    if isinstance(context.obj, Places):
        setattr(context.obj, str(parameter.name), value)
    return value


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value on standard output.")]
HomeOption = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="SVETOVID_HOME",
        callback=_remember,
        help="A party's own private folder, made by `identity create`.",
    ),
]
# No variable for these two: a party's SVETOVID_HOME must not become a host or a manager.
HostHomeOption = Annotated[
    Path, typer.Option("--home", callback=_remember, help="The host's private folder.")
]
ManagerHomeOption = Annotated[
    Path, typer.Option("--home", callback=_remember, help="The manager's private folder.")
]
PublicOption = Annotated[
    Path,
    typer.Option(
        "--public",
        envvar=_PUBLIC,
        callback=_remember,
        help="Folder of what the parties show each other: cards, manifests, jobs, receipts.",
    ),
]
AnchorsOption = Annotated[
    list[Path] | None,
    typer.Option("--anchors", help="Trust anchors you choose to believe: $anchors in the policy."),
]
ReferencesOption = Annotated[
    list[Path] | None,
    typer.Option("--references", help="Reference values you believe: $references in the policy."),
]

PinsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--manager",
        help="A manager's manager.json, got by hand; once for each manager.",
    ),
]

_MAX_PASSPHRASE = 1024


def read_pins(files: Sequence[Path]) -> list[ManagerPin]:
    from svetovid.stakeholder import read_pin

    return [read_pin(f) for f in files]


def storage_url(place: str | None) -> str | None:
    """A local path as a ``file`` URL; URLs as they are."""
    if place is None or "://" in place:
        return place
    return Path(place).absolute().as_uri()


def moment(text: str, option: str) -> int:
    """Unix seconds of a time that stands on a command line.

    Raises:
        InputError: ``cli.time``.
    """
    try:
        if text.isdecimal() and text.isascii():
            found = datetime.fromtimestamp(int(text), UTC)
        else:
            found = datetime.fromisoformat(text)
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError, OSError) as e:
        raise InputError(
            "cli.time",
            expected="Unix seconds, or a time as 2026-11-21T12:00:00Z",
            observed=text,
            next_step=f"give {option} a time that certificates can have",
        ) from e


def passphrase(whose: object, *, confirm: bool = False) -> Secret:
    """From ``SVETOVID_PASSPHRASE_FILE``, ``SVETOVID_PASSPHRASE_FD`` or a prompt; never from argv.

    Args:
        whose: what a prompt names: the home or homes it opens.
        confirm: ask twice, where something new is put under it.

    Raises:
        InputError: ``passphrase.file``, ``passphrase.fd``, ``passphrase.missing``.
    """
    if name := os.environ.get("SVETOVID_PASSPHRASE_FILE"):
        return _from_file(Path(name))
    if number := os.environ.get("SVETOVID_PASSPHRASE_FD"):
        return _from_fd(number)
    if not sys.stdin.isatty():
        raise InputError(
            "passphrase.missing",
            expected=f"the passphrase of {whose}",
            observed="no terminal to ask at",
            next_step="set SVETOVID_PASSPHRASE_FILE to a file with mode 0600",
        )
    text = typer.prompt(
        plain(f"Passphrase of {whose}"), hide_input=True, confirmation_prompt=confirm, err=True
    )
    return Secret(str(text).encode())


def _from_file(path: Path) -> Secret:
    try:
        with path.open("rb") as f:
            mode = os.fstat(f.fileno()).st_mode
            data = f.read(_MAX_PASSPHRASE + 1)
    except (OSError, ValueError) as e:
        raise InputError(
            "passphrase.file",
            expected="a readable file in SVETOVID_PASSPHRASE_FILE",
            observed=getattr(e, "strerror", None) or "not a path",
            next_step="check the path",
        ) from e
    if stat.S_ISREG(mode) and stat.S_IMODE(mode) & 0o077:
        raise InputError(
            "passphrase.file",
            expected="mode 0600",
            observed=oct(stat.S_IMODE(mode)),
            next_step=f"chmod 600 {path}",
        )
    return _checked(data, "passphrase.file")


def _from_fd(number: str) -> Secret:
    try:
        with os.fdopen(int(number), "rb", closefd=False) as f:
            data = f.read(_MAX_PASSPHRASE + 1)
    except (OSError, ValueError) as e:
        raise InputError(
            "passphrase.fd",
            expected="an open file descriptor in SVETOVID_PASSPHRASE_FD",
            observed="none that can be read",
            next_step="for example: SVETOVID_PASSPHRASE_FD=3 svetovid … 3<FILE",
        ) from e
    return _checked(data, "passphrase.fd")


def _checked(data: bytes, code: str) -> Secret:
    line = data.rstrip(b"\r\n")
    if not line or len(data) > _MAX_PASSPHRASE:
        raise InputError(
            code,
            expected=f"one passphrase of 1 to {_MAX_PASSPHRASE} bytes",
            observed=f"{len(data)} bytes" if data else "an empty file",
            next_step="write the passphrase into it",
        )
    return Secret(line)
