"""The command tree. Command files import what they need inside their functions, so that help and
completion answer at once, and the core works without torch."""

from __future__ import annotations

import typer

from svetovid.cli.asset import group as asset
from svetovid.cli.bench import bench
from svetovid.cli.demo.command import demo
from svetovid.cli.documents import anchors, reference
from svetovid.cli.example import example
from svetovid.cli.host import group as host
from svetovid.cli.identity import group as identity
from svetovid.cli.job import group as job
from svetovid.cli.manager import group as manager
from svetovid.cli.policy import group as policy
from svetovid.cli.receipt import output, receipt
from svetovid.cli.share import share
from svetovid.cli.tpm import group as tpm
from svetovid.cli.version import version

__all__ = ["app"]

app = typer.Typer(
    name="svetovid",
    help="Train and run models with parties who need not trust each other.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, group in {
    "identity": identity,
    "manager": manager,
    "asset": asset,
    "policy": policy,
    "anchors": anchors,
    "reference": reference,
    "job": job,
    "host": host,
    "tpm": tpm,
    "output": output,
    "receipt": receipt,
}.items():
    app.add_typer(group, name=name)
app.command()(share)
app.command()(bench)
app.command()(demo)
app.command()(example)
app.command()(version)
