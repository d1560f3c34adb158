"""The demo's picture: what each owner gets alone, and what they get together without showing
anything."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from svetovid.cli.results import try_place, write_file
from svetovid.errors import InputError

__all__ = ["check_plot", "plot_accuracy"]

_SEALED = "#1b6e53"
_OTHER = "#b9c2c0"


def check_plot(path: Path) -> None:
    """See that a picture can be written at ``path``, before what it shows is worked out.

    Raises:
        InputError: ``demo.plot`` for another format than these two.
        HostError: ``file.write``.
    """
    if path.suffix not in (".svg", ".png"):
        raise InputError(
            "demo.plot",
            expected="a file that ends in .svg or .png",
            observed=path,
            next_step="choose another file with --plot",
        )
    try_place(path, "--plot")


def plot_accuracy(accuracies: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draw test accuracy by task and way of training.

    Args:
        accuracies: task to (way of training to accuracy in [0, 1]); the way named ``sealed`` is
            set off.
        path: SVG or PNG file.

    Raises:
        HostError: ``file.write``.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(accuracies), figsize=(4.6 * len(accuracies), 2.6))
    for ax, (task, ways) in zip(
        axes if len(accuracies) > 1 else [axes], accuracies.items(), strict=True
    ):
        names = list(ways)[::-1]
        values = [100 * ways[n] for n in names]
        bars = ax.barh(names, values, color=[_SEALED if n == "sealed" else _OTHER for n in names])
        ax.bar_label(bars, fmt="%.1f %%", padding=3)
        lowest = min(values)
        ax.set_xlim(max(0.0, lowest - 12), 101 + 0.08 * (101 - max(0.0, lowest - 12)))
        ax.set_title(task, loc="left")
        ax.set_xlabel("test accuracy, %")
        ax.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:])
    pyplot.close(figure)
    write_file(path, picture.getvalue(), "--plot")
