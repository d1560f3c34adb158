"""``svetovid demo``: the main job end to end, with everything it must refuse."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["demo"]


def demo(
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Keep everything here, to look at afterwards.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Write the accuracies as SVG or PNG.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--json", help="File to write what was found to; - prints it.")
    ] = None,
) -> None:
    """Watch owners who do not trust each other train a model, and what is refused.

    Example: `svetovid demo --folder out/demo --plot out/demo.svg`
    """
    from dataclasses import asdict

    begun = time.monotonic()
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="svetovid-demo-") as place:
            Path(place).chmod(0o755)
            result = _play(Path(place) / "demo", plot)
    else:
        result = _play(folder, plot)
    data: dict[str, Any] = asdict(result)
    data["total_s"] = round(time.monotonic() - begun, 1)
    data["main_job"] = "ok"
    text = json.dumps(data, indent=2, allow_nan=False) + "\n"
    if to is not None and str(to) != "-":
        to.write_text(text)
    typer.echo(text if str(to) == "-" else f"{data['total_s']} s\nmain job: ok", nl=str(to) != "-")


def _play(folder: Path, plot: Path | None) -> Any:
    from rich.console import Console
    from rich.table import Table

    from svetovid.cli.demo.plot import plot_accuracy
    from svetovid.cli.demo.refusals import try_all
    from svetovid.cli.demo.story import Story
    from svetovid.cli.demo.tasks import BREAST_CANCER, FASHION_MNIST

    console = Console(stderr=True, highlight=False, markup=False)
    story = Story(
        folder,
        lambda line: console.print("  " + line, soft_wrap=True),
        lambda title: console.print(f"\n{title}", style="bold"),
    )
    try:
        with story.act("1. Keys, a manager, hosts"):
            story.open_house()
        with story.act("2. Two hospitals, one classifier of tumours"):
            story.train(BREAST_CANCER, runs=5)
        with story.act("3. Two shops, one classifier of clothes"):
            model = story.train(FASHION_MNIST, runs=1)
        with story.act("4. The model answers inside a SIMULATED enclave"):
            story.ask_in_enclave(FASHION_MNIST, model)
        with story.act("5. A third party verifies the receipts"):
            story.verify_receipts()
        with story.act("6. What must be refused"):
            for refusal, error in try_all(story, BREAST_CANCER):
                console.print(f"  {refusal.code:<18} {refusal.what}")
                reason = next(r for r in error.reasons if r.code == refusal.code)
                if reason.next_step:
                    console.print(f"  {'':<18} next: {reason.next_step}", style="dim")
        with story.act("7. What the operator could read"):
            story.search_for_canaries()
        with story.act("8. Sealed beside plain"):
            story.compare()
    finally:
        story.close()
    table = Table("task", "way of training", "test accuracy")
    for task, ways in story.result.accuracy.items():
        for way, value in ways.items():
            table.add_row(task, way, f"{100 * value:.1f} %")
    console.print()
    console.print(table)
    if plot is not None and plot_accuracy(story.result.accuracy, plot):
        console.print(f"plot: {plot}")
    story.check()
    return story.result
