"""``svetovid demo``: the main job end to end, with everything it must refuse."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from svetovid.cli.demo.plot import check_plot
from svetovid.cli.extras import need
from svetovid.cli.output import emit
from svetovid.cli.results import try_place, write_result

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

    need("torch", "numpy", "safetensors", "sklearn", *(["matplotlib"] if plot else []))
    if to is not None and str(to) != "-":
        try_place(to, "--json")
    if plot is not None:
        check_plot(plot)
    from svetovid.cli.demo.play import play

    begun = time.monotonic()
    with _ending_in_order():
        if folder is None:
            with tempfile.TemporaryDirectory(prefix="svetovid-demo-") as place:
                Path(place).chmod(0o755)
                result = play(Path(place) / "demo", plot)
        else:
            result = play(folder, plot)
    data: dict[str, Any] = asdict(result)
    data["total_s"] = round(time.monotonic() - begun, 1)
    data["main_job"] = "ok"
    if str(to) == "-":
        emit(data, (), True)
        return
    if to is not None:
        write_result(to, data)
    emit({}, [f"{data['total_s']} s", "main job: ok"], False)


class _Ended(BaseException):
    """A signal that asks this process to end."""

    def __init__(self, number: int) -> None:
        self.number = number


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP end the play as a fault in it would: with nothing left that runs.

    Exit code 128 and the signal's number. A signal that was ignored (nohup) stays so.
    """

    def end(number: int, _frame: object) -> None:
        for one in before:  # once: whatever comes now must not break off the clearing up
            signal.signal(one, signal.SIG_IGN)
        raise _Ended(number)

    asked = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]
    before = {n: signal.signal(n, end) for n in asked}
    try:
        yield
    except _Ended as e:
        raise typer.Exit(128 + e.number) from None
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
