"""The eight acts in their order, told as they happen."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from svetovid.cli.demo.auditing import search_for_canaries, verify_receipts
from svetovid.cli.demo.enclave import ask, check_answers, prepare_questions
from svetovid.cli.demo.findings import Findings
from svetovid.cli.demo.opening import open_house
from svetovid.cli.demo.plot import plot_accuracy
from svetovid.cli.demo.refusals import try_all
from svetovid.cli.demo.story import Story
from svetovid.cli.demo.tasks import BREAST_CANCER, FASHION_MNIST, Task
from svetovid.cli.demo.training import compare, prepare, train

__all__ = ["play"]


def play(folder: Path, plot: Path | None, clothes: Task = FASHION_MNIST) -> Findings:
    """The eight acts; what came of them.

    Raises:
        SvetovidError: where anything is not as it must be.
    """
    console = Console(stderr=True, highlight=False, markup=False)
    story = Story(
        folder,
        lambda line: console.print("  " + line, soft_wrap=True),
        lambda title: console.print(f"\n{title}", style="bold"),
    )
    try:
        with story.act("1. Keys, a manager, hosts"):
            open_house(story)
        with story.act("2. Two hospitals, one classifier of tumours"):
            job = prepare(story, BREAST_CANCER, runs=5)
            shops = story.begin(partial(prepare, story, clothes, runs=1))
            tumours = train(story, BREAST_CANCER, job)
        with story.act("3. Two shops, one classifier of clothes"):
            job = shops.result()
            questions = story.begin(partial(prepare_questions, story, clothes))
            worn = train(story, clothes, job)
        with story.act("4. The model answers inside a SIMULATED enclave"):
            questions.result()
            answers = ask(story, worn)
        with story.act("5. A third party verifies the receipts"):
            verify_receipts(story)
        with story.act("6. What must be refused"):
            for refusal, error in try_all(story, BREAST_CANCER):
                console.print(f"  {refusal.code:<18} {refusal.what}")
                reason = next(r for r in error.reasons if r.code == refusal.code)
                if reason.next_step:
                    console.print(f"  {'':<18} next: {reason.next_step}", style="dim")
        with story.act("7. What the operator could read"):
            search_for_canaries(story)
        with story.act("8. Sealed beside plain"):
            compare(story, tumours, worn)
            check_answers(story, worn, answers)
    finally:
        story.close()
    found = story.findings
    table = Table("task", "way of training", "test accuracy")
    for task, ways in found.accuracy.items():
        for way, value in ways.items():
            table.add_row(task, way, f"{100 * value:.1f} %")
    console.print()
    console.print(table)
    if plot is not None:
        plot_accuracy(found.accuracy, plot)
    found.check()
    return found
