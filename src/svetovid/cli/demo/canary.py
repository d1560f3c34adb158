"""Look for secrets in everything an operator can read: files, stores and captured traffic (T18).

A needle is a run of bytes that can only be there if somebody let plaintext or a key out. Keys are
looked for raw, in hex and in base64 at each of its three alignments.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Hit", "Needle", "key_needles", "needles_of", "search"]

_SIZE = 24
_BLOCK = 8 << 20


@dataclass(frozen=True, slots=True)
class Needle:
    """Bytes to look for, and what finding them would mean."""

    what: str
    data: bytes

    def __repr__(self) -> str:
        return f"<Needle {self.what}>"


@dataclass(frozen=True, slots=True)
class Hit:
    """A needle that was found."""

    what: str
    where: str
    offset: int


def needles_of(what: str, data: bytes, count: int = 12) -> list[Needle]:
    """Up to ``count`` distinctive runs of ``data``, spread over its whole length.

    A run counts as distinctive with at least nine different byte values, so that blank image
    borders and padding, which also occur by chance, are not looked for.
    """
    found: dict[bytes, None] = {}
    step = max(1, len(data) // (count * 4))
    for start in range(0, max(1, len(data) - _SIZE), step):
        run = data[start : start + _SIZE]
        if len(run) == _SIZE and len(set(run)) >= 9:
            found[run] = None
        if len(found) == count:
            break
    return [Needle(what, run) for run in found]


def key_needles(what: str, key: bytes) -> list[Needle]:
    """A key in the forms in which it could slip out."""
    forms = [key, key.hex().encode(), key.hex().upper().encode()]
    for shift in range(3):
        # Drop what depends on the neighbours; what is left stands in any base64 text around it.
        text = base64.b64encode(b"\0" * shift + key)
        forms.append(text[4 if shift else 0 : len(text) // 4 * 4 - 4])
    return [Needle(what, form) for form in forms]


def _files(roots: Iterable[Path], skip: Collection[Path]) -> Iterator[Path]:
    for root in roots:
        if root.is_file():
            yield root
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(f for f in folders if Path(folder, f) not in skip)
            for path in (Path(folder, name) for name in sorted(names)):
                if path.is_file() and not path.is_symlink():
                    yield path


def search(
    roots: Iterable[Path], needles: Iterable[Needle], skip: Collection[Path] = ()
) -> list[Hit]:
    """Every needle found in the files under ``roots``, folders in ``skip`` left out.

    Files are read in overlapping blocks, so memory stays bounded.
    """
    wanted = list(needles)
    longest = max((len(n.data) for n in wanted), default=0)
    hits = []
    for path in _files(roots, skip):
        with path.open("rb") as f:
            base, tail = 0, b""
            while block := f.read(_BLOCK):
                data = tail + block
                for n in wanted:
                    if (at := data.find(n.data)) >= 0:
                        hits.append(Hit(n.what, str(path), base - len(tail) + at))
                base += len(block)
                tail = data[-(longest - 1) :] if longest > 1 else b""
    return hits
