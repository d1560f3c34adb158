"""Where the checkout lies that this installation runs from: for benchmarks and examples."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from svetovid.errors import HostError, InputError

__all__ = ["checkout", "load_module"]


def checkout() -> Path:
    """Root of the checkout.

    Raises:
        HostError: ``cli.checkout`` where the package runs from elsewhere.
    """
    import svetovid

    for root in (Path(svetovid.__file__).parents[2], Path.cwd()):
        if (root / "pyproject.toml").is_file() and (root / "examples").is_dir():
            return root
    raise HostError(
        "cli.checkout",
        expected="a checkout of svetovid with its examples and benchmarks",
        observed="an installed package alone",
        next_step="run this from the root of a clone",
    )


def load_module(folder: str, name: str) -> ModuleType:
    """Import ``FOLDER/NAME.py`` of the checkout.

    Raises:
        InputError: ``cli.name`` where there is none of this name.
    """
    names = sorted(p.stem for p in (checkout() / folder).glob("*.py") if not p.stem.startswith("_"))
    if name not in names:
        raise InputError(
            "cli.name",
            expected=f"one of {', '.join(names) or 'none'}",
            observed=name,
            next_step="name one of these",
        )
    if str(checkout()) not in sys.path:
        sys.path.insert(0, str(checkout()))
    return importlib.import_module(f"{folder}.{name}")
