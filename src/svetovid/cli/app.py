"""The command tree. Command files import what they need inside their functions, so that help and
completion answer at once, and the core works without torch."""

from __future__ import annotations

from shutil import get_terminal_size
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from svetovid.cli.appraise import appraise
from svetovid.cli.asset import group as asset
from svetovid.cli.bench import bench
from svetovid.cli.conformance import conformance
from svetovid.cli.demo.command import demo
from svetovid.cli.documents import anchors
from svetovid.cli.example import example
from svetovid.cli.host import group as host
from svetovid.cli.identity import group as identity
from svetovid.cli.job import group as job
from svetovid.cli.manager import group as manager
from svetovid.cli.policy import group as policy
from svetovid.cli.receipt import output, receipt
from svetovid.cli.reference import group as reference
from svetovid.cli.share import share
from svetovid.cli.tpm import group as tpm
from svetovid.cli.version import print_version, version
from svetovid.cli.worker import group as worker

__all__ = ["app"]

_GROUPS = {
    "Parties": {"identity": identity, "asset": asset, "policy": policy, "job": job},
    "What came of a job": {"output": output, "receipt": receipt},
    "Whom a party believes": {"manager": manager, "anchors": anchors, "reference": reference},
    "The machine": {"host": host, "tpm": tpm, "worker": worker},
}
_COMMANDS = {
    "Start here": (example, demo),
    "Parties": (share,),
    "The machine": (appraise,),
    "This program": (bench, conformance, version),
}
# In fewer columns than this, help in panels would cut the names of options.
_NARROW = 60
_PANELS = ("Start here", *_GROUPS, "This program")


class _InOrder(TyperGroup):
    """Lists commands as a newcomer meets them, not single commands first."""

    def list_commands(self, ctx: Any) -> list[str]:
        def place(name: str) -> int:
            return _PANELS.index(str(getattr(self.commands[name], "rich_help_panel", "")))

        return sorted(self.commands, key=place)


app = typer.Typer(
    name="svetovid",
    cls=_InOrder,
    help="Train and run models with parties who need not trust each other.",
    epilog="Try `svetovid demo`, or walk through docs/guide/main-job.md by hand. "
    "`svetovid COMMAND --help` explains each command, with an example.",
    no_args_is_help=True,
    rich_markup_mode="markdown" if get_terminal_size().columns >= _NARROW else None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=print_version, help="Print the version."),
    ] = False,
) -> None:
    """Only there for the options that stand before any command."""


for panel, groups in _GROUPS.items():
    for name, group in groups.items():
        app.add_typer(group, name=name, rich_help_panel=panel)
for panel, functions in _COMMANDS.items():
    for function in functions:
        app.command(rich_help_panel=panel)(function)
