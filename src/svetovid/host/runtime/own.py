"""Reference values for a manager: every file that its process could load from this installation."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

from svetovid.evidence.documents import ReferenceValues
from svetovid.host.measure import agent_root, digests, find, loaded_files
from svetovid.host.measure.files import Found, found_file
from svetovid.host.runtime import sources

__all__ = ["manager_values"]


def manager_values(product: str, version: int, *, provenance: str = "") -> ReferenceValues:
    """Digests of the interpreter, its library, svetovid and what it requires, as installed here.

    Paths are those of this machine: make them where the manager runs, or where the same image does,
    on a machine whose files you trust.

    Args:
        product, version, provenance: as :class:`ReferenceValues` says.

    Raises:
        HostError: ``launcher.file``, ``runtime.distribution``, ``runtime.ldd``.
    """
    with suppress(OSError):
        ctypes.CDLL("libtpms.so.0")  # mapped, with all it needs, where the TPM is a software one
    paths = dict.fromkeys(path for _, path in sources.interpreter_files())
    for name in sources.requirements(["svetovid"]):
        paths.update(dict.fromkeys(path for _, path in sources.distribution_files(name)))
    paths.update(dict.fromkeys(path for _, path in sources.shared_objects(paths)))
    found = {f.path: f for p in paths if (f := _real(p)).path[-4:] != ".pyc"}
    found |= {f.path: f for f in (*find(agent_root()), *loaded_files())}
    measured = digests(found[path] for path in sorted(found))
    return ReferenceValues(
        product=product,
        version=version,
        files={file.path: (value,) for file, value in measured},
        provenance=provenance,
    )


def _real(path: Path) -> Found:
    return found_file(path.resolve())
