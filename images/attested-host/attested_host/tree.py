"""A file tree in memory, each file with where it comes from; written out in one way only.

Rules:

1. Every file belongs to root, was made at second 0, and has mode 0644, or 0755 where its source
   could be executed: times, owners and other bits of the build machine never reach the image.
2. Names are relative, plain and printable; ``bin``, ``sbin``, ``lib`` and ``lib64`` are below
   ``usr``, whatever an old package says.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from attested_host.lock import BuildError

__all__ = ["Node", "Tree"]

_MERGED = ("bin", "sbin", "lib", "lib64")


@dataclass(frozen=True, slots=True)
class Node:
    """A regular file, or a link where ``link`` is set.

    Attributes:
        origin: package and version, or which part of this recipe.
    """

    data: bytes
    executable: bool
    link: str | None
    origin: str

    @property
    def mode(self) -> int:
        return 0o755 if self.executable else 0o644


def _plain(name: str) -> str:
    path = PurePosixPath(name.removeprefix("./"))
    parts = path.parts
    if path.is_absolute() or not parts or ".." in parts or not name.isprintable():
        raise BuildError(f"not a plain file name: {name!r}")
    if parts[0] in _MERGED:
        parts = ("usr", *parts)
    return "/".join(parts)


class Tree:
    """Path (without a leading slash) to node, and folders that stand even when empty."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self.folders: set[str] = set()

    def __contains__(self, path: str) -> bool:
        return path in self._nodes

    def __getitem__(self, path: str) -> Node:
        return self._nodes[path]

    def add(self, path: str, data: bytes, origin: str, *, executable: bool = False) -> None:
        self._put(_plain(path), Node(data, executable, None, origin))

    def link(self, path: str, target: str, origin: str) -> None:
        self._put(_plain(path), Node(b"", False, target, origin))

    def merge_link(self, name: str) -> None:
        """Let ``/name`` stand for ``/usr/name``, for paths that are written down in programs."""
        self._put(name, Node(b"", False, f"usr/{name}", "recipe"))

    def put(self, path: str, node: Node) -> None:
        """Take over a node of another tree."""
        self._put(_plain(path), node)

    def folder(self, *paths: str) -> None:
        self.folders.update(paths)

    def _put(self, path: str, node: Node) -> None:
        known = self._nodes.get(path)
        if known is not None and known != node:
            same = (known.data, known.link) == (node.data, node.link)
            if not same:
                raise BuildError(f"{path} is in {known.origin} and in {node.origin}")
        self._nodes[path] = node

    def update(self, other: Tree) -> None:
        for path, node in other:
            self._put(path, node)
        self.folders |= other.folders

    def keep(self, wanted: Callable[[str], bool]) -> None:
        """Drop every path that is not wanted, and links that lead nowhere after that."""
        self._nodes = {p: n for p, n in self._nodes.items() if wanted(p)}
        while dead := [p for p, n in self if n.link is not None and self.resolve(p) is None]:
            for path in dead:
                del self._nodes[path]

    def resolve(self, path: str) -> str | None:
        """The regular file that ``path`` names, through links; None where there is none."""
        for _ in range(16):
            node = self._nodes.get(path)
            if node is None or node.link is None:
                return path if node is not None else None
            base = "/" if node.link.startswith("/") else "/" + str(PurePosixPath(path).parent)
            path = _plain(os.path.normpath(f"{base}/{node.link}").lstrip("/"))
        return None

    def __iter__(self) -> Iterator[tuple[str, Node]]:
        """In the order of paths."""
        return iter(sorted(self._nodes.items()))

    def files(self) -> Iterator[tuple[str, Node]]:
        return ((p, n) for p, n in self if n.link is None)

    def all_folders(self) -> list[str]:
        """Every folder there is, parents first."""
        found = set(self.folders)
        for path in (*self._nodes, *self.folders):
            found.update(str(p) for p in PurePosixPath(path).parents if str(p) != ".")
        return sorted(found)

    def digests(self) -> dict[str, str]:
        """Absolute path to SHA-256 of every regular file."""
        return {"/" + p: "sha256:" + hashlib.sha256(n.data).hexdigest() for p, n in self.files()}

    def write(self, folder: Path, paths: Iterable[str] | None = None) -> None:
        """Write the tree (or those paths of it) to ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.all_folders():
            target = folder / name
            target.mkdir(exist_ok=True)
            target.chmod(0o755)
        chosen = None if paths is None else set(paths)
        for path, node in self:
            if chosen is not None and path not in chosen:
                continue
            target = folder / path
            if node.link is not None:
                target.symlink_to(node.link)
                continue
            target.write_bytes(node.data)
            target.chmod(node.mode)
