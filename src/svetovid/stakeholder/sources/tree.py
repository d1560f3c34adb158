"""A file system in digests, put together layer by layer; links are followed, as a log names files.

A kernel's log names a file by where it lies, whatever link led there. So what an archive writes
below a symbolic link to a folder is listed below that folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Union

from svetovid.stakeholder.sources.archives import Member, odd_path

__all__ = ["Tree", "can_be_named", "parts"]

_MAX_HOPS = 40
_MAX_PARTS = 256
_MAX_PATH = 4096


@dataclass(frozen=True, slots=True)
class _Link:
    target: str


_Node = Union[str, _Link, "dict[str, _Node]"]
_Folder = dict[str, _Node]


def parts(name: str) -> tuple[str, ...]:
    """The parts of a path in an archive, whose root is the root.

    Raises:
        InputError: ``source.path`` for one that leads out of it, or is far too long.
    """
    found = tuple(p for p in name.split("/") if p not in ("", "."))
    if ".." in found or len(found) > _MAX_PARTS:
        raise odd_path(name)
    return found


class Tree:
    """Folders, files by their digest, and links; later ones replace earlier ones."""

    def __init__(self) -> None:
        self._root: _Folder = {}

    def add(self, member: Member) -> None:
        """What unpacking one member would do.

        Raises:
            InputError: ``source.path``, also for a hard link to what is no file.
        """
        path = parts(member.name)
        if not path:
            return
        folder, name = self._folder(path[:-1]), path[-1]
        if member.kind == "file":
            folder[name] = member.digest
        elif member.kind == "hard":
            folder[name] = self._linked(parts(member.link))
        elif member.kind == "link":
            folder[name] = _Link(member.link)
        elif member.kind == "folder":
            if not isinstance(folder.get(name), dict):
                folder[name] = {}
        else:
            folder.pop(name, None)

    def remove(self, path: Sequence[str]) -> None:
        """Take a file, or a folder with all that is in it, away."""
        self._folder(path[:-1]).pop(path[-1], None)

    def empty(self, path: Sequence[str]) -> None:
        """Take all away that is in a folder."""
        self._folder(path).clear()

    def files(self) -> Iterator[tuple[str, str]]:
        """Path and digest of each file, but for paths that no measurement log can name."""
        open_folders: list[tuple[str, _Folder]] = [("", self._root)]
        while open_folders:
            at, folder = open_folders.pop()
            for name, node in folder.items():
                path = f"{at}/{name}"
                if isinstance(node, dict):
                    open_folders.append((path, node))
                elif isinstance(node, str) and can_be_named(path):
                    yield path, node

    def _folder(self, path: Sequence[str]) -> _Folder:
        """The folder at a path, through links; made where there is none."""
        at, left, hops = [self._root], list(reversed(path)), 0
        while left:
            name = left.pop()
            if name in ("", ".", ".."):
                if name == ".." and len(at) > 1:
                    at.pop()
                continue
            node = at[-1].get(name)
            if isinstance(node, _Link):
                hops += 1
                if hops > _MAX_HOPS or len(left) > _MAX_PARTS:
                    raise odd_path("/".join(path))
                if node.target.startswith("/"):
                    at = [self._root]
                left.extend(reversed(node.target.split("/")))
                continue
            if not isinstance(node, dict):
                node = at[-1][name] = {}
            at.append(node)
        return at[-1]

    def _linked(self, path: Sequence[str]) -> _Node:
        node = self._folder(path[:-1]).get(path[-1]) if path else None
        if node is None or isinstance(node, dict):
            raise odd_path("hard link to /" + "/".join(path))
        return node


def can_be_named(path: str) -> bool:
    """Whether a measurement log may hold this path; others are refused there."""
    try:
        raw = path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return len(raw) <= _MAX_PATH and not {"\n", "\0"} & set(path)
