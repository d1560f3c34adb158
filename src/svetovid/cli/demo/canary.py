"""Look for secrets in everything an operator can read: files, stores and captured traffic (T18).

A needle is a run of bytes that can only be there if somebody let plaintext or a key out. Keys are
looked for raw, in hex and in base64 at each of its three alignments.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Hit", "Needle", "key_needles", "needles_of", "search"]

_SIZE = 48
_BLOCK = 8 << 20
_WORD = 8


@dataclass(frozen=True, slots=True)
class Needle:
    """Bytes to look for, at least 15 of them, and what finding them would mean."""

    what: str
    data: bytes

    def __post_init__(self) -> None:
        assert len(self.data) >= 2 * _WORD - 1, "one aligned word must lie in it, wherever it does"

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
    runs = list(found)
    if len(runs) > count:
        runs = [runs[i * len(runs) // count] for i in range(count)]
    return [Needle(what, run) for run in runs]


def key_needles(what: str, key: bytes) -> list[Needle]:
    """A key in the forms in which it could slip out."""
    forms = [key, key.hex().encode(), key.hex().upper().encode()]
    for shift in range(3):
        # Drop what depends on the neighbours; what is left stands in any base64 text around it.
        text = base64.b64encode(b"\0" * shift + key)
        forms.append(text[4 if shift else 0 : len(text) // 4 * 4 - 4])
    return [Needle(what, form) for form in forms]


def _files(roots: Iterable[Path], skip: Collection[Path]) -> Iterator[Path]:
    """Every file once, under whichever of its names comes first."""
    seen = set()
    for root in roots:
        alone: list[tuple[str, list[str], list[str]]] = [(str(root.parent), [], [root.name])]
        inside = alone if root.is_file() else os.walk(root)
        for folder, folders, names in inside:
            folders[:] = sorted(f for f in folders if Path(folder, f) not in skip)
            for path in (Path(folder, name) for name in sorted(names)):
                with suppress(FileNotFoundError):  # a temporary file of a manager at work
                    status = path.lstat()
                    place = (status.st_dev, status.st_ino)
                    if stat.S_ISREG(status.st_mode) and place not in seen:
                        seen.add(place)
                        yield path


class _Seeker:
    """Finds many needles in one pass.

    Of 15 bytes or more, wherever they lie, eight are an aligned word of what is looked through: so
    it is enough to look at every eighth place, and at few of those twice.
    """

    def __init__(self, needles: Sequence[Needle]) -> None:
        import numpy as np

        self.longest = max((len(n.data) for n in needles), default=1)
        self._at: dict[int, list[tuple[Needle, int]]] = {}
        for needle in needles:
            for shift in range(_WORD):
                word = int.from_bytes(needle.data[shift : shift + _WORD], "little")
                self._at.setdefault(word, []).append((needle, shift))
        self._words = np.array(sorted(self._at), dtype="<u8")
        self._low = np.zeros(1 << 16, dtype=bool)
        self._low[self._words & 0xFFFF] = True

    def found(self, data: bytes) -> Iterator[tuple[Needle, int]]:
        import numpy as np

        whole = len(data) // _WORD
        near = np.flatnonzero(self._low[np.frombuffer(data, "<u2", whole * _WORD // 2)[::4]])
        if not near.size:
            return
        words = np.frombuffer(data, "<u8", whole)[near]
        # Not np.isin, which takes its time to begin, and most files are small.
        there = np.searchsorted(self._words, words) % self._words.size
        sure = self._words[there] == words
        for place, word in zip(near[sure].tolist(), words[sure].tolist(), strict=True):
            for needle, shift in self._at[word]:
                start = place * _WORD - shift
                if start >= 0 and data.startswith(needle.data, start):
                    yield needle, start


def search(
    roots: Iterable[Path], needles: Iterable[Needle], skip: Collection[Path] = ()
) -> list[Hit]:
    """Every needle found in the files under ``roots``, folders in ``skip`` left out.

    Files are read in overlapping blocks, so memory stays bounded. What a needle is found in more
    than once is told once.
    """
    seeker = _Seeker(list(needles))
    hits: dict[tuple[Path, bytes], Hit] = {}
    for path in _files(roots, skip):
        with suppress(FileNotFoundError), path.open("rb") as file:
            base, tail = 0, b""
            while block := file.read(_BLOCK):
                data = tail + block
                for needle, at in seeker.found(data):
                    hit = Hit(needle.what, str(path), base - len(tail) + at)
                    hits.setdefault((path, needle.data), hit)
                base += len(block)
                tail = data[-(seeker.longest - 1) :] if seeker.longest > 1 else b""
    return list(hits.values())
