"""What is fuzzed: each parser by name, with the modules that decide what it does."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOUND = ROOT / "fuzz" / "found"
MAX_BYTES = 64 << 10
"""Longer inputs are not worth their time: bounds beyond it are held by tests of their own."""


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
        run: reads bytes; only a ``SvetovidError`` may come out.
        modules: modules and packages whose sources it is; another source begins a new account in
            the log.
        seeds: valid inputs, made from committed vectors.
    """

    name: str
    run: Callable[[bytes], object]
    modules: tuple[str, ...]
    seeds: Callable[[], Iterable[bytes]]

    def sources(self) -> str:
        """Digest of the sources, by which time spent is kept."""
        total = hashlib.sha256()
        for module in sorted(self.modules):
            spec = importlib.util.find_spec(module)
            assert spec is not None
            assert spec.origin is not None
            origin = Path(spec.origin)
            whole = sorted(origin.parent.glob("*.py")) if spec.parent == module else [origin]
            for path in whole:
                data = path.read_bytes()
                total.update(f"{module} {path.name} {len(data)}\n".encode() + data)
        return "sha256:" + total.hexdigest()


def all_targets() -> dict[str, Target]:
    from fuzz import archives, documents, evidence, files, workers

    rooms = (evidence, documents, files, archives, workers)
    return {target.name: target for room in rooms for target in room.TARGETS}
