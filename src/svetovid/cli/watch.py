"""``svetovid job watch``: a progress bar for a recipient, until the receipt is there."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svetovid.cli.options import AsJson, HomeOption, passphrase
from svetovid.cli.output import emit, plain
from svetovid.errors import InputError

if TYPE_CHECKING:
    from svetovid.policy import Job
    from svetovid.stakeholder import Stakeholder

__all__ = ["watch"]

_LOOK_S = 0.5


def watch(
    file: Annotated[Path, typer.Argument(help="The signed job.")],
    home: HomeOption,
    outputs: Annotated[Path, typer.Option("--outputs", help="Folder the job's outputs go to.")],
    once: Annotated[bool, typer.Option("--once", help="Look once, and do not wait.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch a running job; only its recipients can. Ends when its receipt appears.

    The bar shows what the host says, which proves nothing; the receipt is the proof.

    Example: `svetovid job watch public/train.job.json --home rita --outputs out`
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from svetovid import stakeholder

    job, _ = stakeholder.read_job(file)
    if not outputs.is_dir():
        raise InputError(
            "watch.outputs",
            expected="the folder that the host writes this job's outputs to",
            observed=f"{outputs}: no such folder",
            next_step="give what `svetovid host run` has for --outputs; "
            "the folder is there as soon as that starts",
        )
    who = stakeholder.load(home, passphrase(home))
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr),
        disable=as_json or once or not sys.stderr.isatty(),
        transient=True,
    )
    with bar:
        task = bar.add_task(plain(job.name), total=None)
        while True:
            finished = _finished(job, outputs)
            done, total = _progress(who, job, outputs)
            bar.update(task, completed=done, total=total or None)
            if finished or once:
                break
            time.sleep(_LOOK_S)
    emit(
        {"job": job.digest(), "done": done, "total": total, "finished": finished},
        [f"{done} of {total} steps, {'finished' if finished else 'no receipt yet'}"],
        as_json,
    )


def _progress(who: Stakeholder, job: Job, outputs: Path) -> tuple[int, int]:
    from svetovid import stakeholder
    from svetovid.errors import SvetovidError

    url = (outputs / f"{job.name}.progress.json").absolute().as_uri()
    try:
        return stakeholder.read_progress(who, job, url)
    except SvetovidError as e:
        if e.code in ("asset.missing", "progress.job"):  # not started, or an older job's
            return 0, 0
        raise


def _finished(job: Job, outputs: Path) -> bool:
    """Whether this job's receipt is there. It is not verified here."""
    from svetovid import stakeholder

    path = outputs / f"{job.name}.receipt.json"
    return path.is_file() and stakeholder.read_receipt(path).job.digest() == job.digest()
