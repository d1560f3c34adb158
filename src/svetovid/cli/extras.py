"""What the core installs without, and how to get it."""

from __future__ import annotations

from importlib.util import find_spec

from svetovid.errors import HostError

__all__ = ["need", "without"]

_EXTRAS = {
    "torch": "train",
    "numpy": "train",
    "safetensors": "train",
    "s3fs": "s3",
    "sklearn": "dev",
    "matplotlib": "dev",
}


def need(*modules: str) -> None:
    """See that ``modules`` could be imported, without the seconds that importing torch takes.

    Raises:
        HostError: ``cli.extra``, one reason for all that are missing.
    """
    if missing := [name for name in modules if not _there(name)]:
        raise _missing(missing)


def without(error: BaseException | None) -> HostError | None:
    """``cli.extra`` where ``error`` comes of a package that was not installed; else nothing."""
    while error is not None:
        name = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
        if name in _EXTRAS and not _there(name):
            return _missing([name])
        error = error.__cause__ or error.__context__
    return None


def _there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # barred from being imported: sys.modules says None
        return False


def _missing(modules: list[str]) -> HostError:
    extras = ",".join(sorted({_EXTRAS[name] for name in modules}))
    return HostError(
        "cli.extra",
        expected=f"packages that svetovid[{extras}] brings",
        observed=f"no module {', '.join(modules)}",
        next_step=f"pip install 'svetovid[{extras}]'",
    )
