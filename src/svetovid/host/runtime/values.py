"""What a runtime tree is, in digests: for jobs, for reference values, for whoever checks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from svetovid.crypto import canonical, digest
from svetovid.evidence.documents import ReferenceValues
from svetovid.host.measure import Root, agent_root, digests, find

__all__ = ["environment_digest", "reference_values", "runtime_files"]


def runtime_files(tree: Path) -> dict[str, str]:
    """Path in the sandbox to SHA-256 digest of every file in the tree, sorted by path.

    Links and special files are refused, not recorded: a tree that was built has none.

    Raises:
        HostError: ``launcher.file``.
    """
    return {file.path: value for file, value in digests(find(Root(tree, "/")))}


def environment_digest(tree: Path) -> str:
    """One digest for all a job can load besides its own code (T5).

    SHA-256 over the canonical form of ``{"files": {path: digest}, "label": "svetovid
    environment"}``.

    Raises:
        HostError: ``launcher.file``.
    """
    return _environment(runtime_files(tree))


def _environment(files: dict[str, str]) -> str:
    return digest(canonical({"label": "svetovid environment", "files": files}))


def reference_values(
    tree: Path,
    product: str,
    version: int,
    *,
    provenance: str = "",
    roots: Sequence[Root] | None = None,
    tee_measurements: Sequence[str] | None = None,
    valid_from: int | None = None,
    valid_until: int | None = None,
) -> ReferenceValues:
    """Reference values for a runtime and the agent that launches it; sign and publish them (T2).

    Args:
        tree: from :func:`build_runtime`.
        product, version, provenance, valid_from, valid_until: as :class:`ReferenceValues` says.
        roots: what else the launcher measures; by default svetovid's own code.
        tee_measurements: by default the environment digest of the tree, which is what the
            simulated TEE reports.

    Raises:
        HostError: ``launcher.file``.
    """
    inside = runtime_files(tree)
    allowed: dict[str, tuple[str, ...]] = {path: (value,) for path, value in inside.items()}
    for root in (agent_root(),) if roots is None else roots:
        for file, value in digests(find(root)):
            known = allowed.get(file.path, ())
            allowed[file.path] = known if value in known else (*known, value)
    if tee_measurements is None:
        tee_measurements = (_environment(inside),)
    return ReferenceValues(
        product=product,
        version=version,
        files=allowed,
        tee_measurements=tuple(tee_measurements),
        valid_from=valid_from,
        valid_until=valid_until,
        provenance=provenance,
    )
