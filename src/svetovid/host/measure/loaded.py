"""The files that this very process runs: a manager's own measurement (T1).

Sources of imported modules and every file that is mapped as code. They are measured after they were
loaded, by the process itself: root can do otherwise, which is why the word for it is ``launcher``.
Byte code in ``__pycache__`` is not measured; it differs from machine to machine, and whoever can
change it can change the process as well.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from svetovid.errors import HostError
from svetovid.host.measure.files import Found, found_file

__all__ = ["loaded_files"]

_MAPS = Path("/proc/self/maps")


def loaded_files() -> list[Found]:
    """What this process has loaded so far, under real paths, sorted.

    Raises:
        HostError: ``launcher.file`` for a file that was replaced or removed since it was loaded.
    """
    paths = {Path(p).resolve() for p in _modules()} | {Path(p) for p in _mapped()}
    return [found_file(p) for p in sorted(paths)]


def _modules() -> Iterable[str]:
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        # Names like <frozen os> or __main__ of a command line are no files.
        if isinstance(path, str) and path.startswith("/"):
            yield path


def _mapped() -> Iterable[str]:
    """Files mapped executable: the interpreter, extension modules, shared libraries (proc(5))."""
    try:
        lines = _MAPS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError as e:
        raise HostError(
            "launcher.file",
            expected=f"to read {_MAPS}",
            observed=e.strerror or e,
            next_step="mount /proc",
        ) from e
    for line in lines:
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and "x" in fields[1] and fields[5].startswith("/"):
            yield fields[5]
