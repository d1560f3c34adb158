"""Where the parts of a container image lie: an OCI layout or ``docker save``, a folder or a tar."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from svetovid.crypto.canonical import load_json
from svetovid.errors import ParseError, SvetovidError
from svetovid.stakeholder.sources.archives import members
from svetovid.stakeholder.sources.streams import (
    Part,
    Progress,
    file_digest,
    malformed,
    opened,
    quiet,
    unpack,
)
from svetovid.stakeholder.sources.tree import parts

__all__ = ["Box", "listed", "opened_box", "read_json", "text"]

_MAX_MEMBERS = 1 << 16
_MAX_JSON = 4 << 20
_COMPRESSED = (b"\x1f\x8b", b"BZ", b"\xfd7", b"\x28\xb5")


def _missing(name: str) -> ParseError:
    return malformed(f"{name} in the image", "not there")


class Box(Protocol):
    """Files of an image by name; a missing one is ``source.malformed``."""

    def has(self, name: str) -> bool: ...
    def digest(self, name: str) -> str: ...
    def open(self, name: str, progress: Progress = quiet) -> Part: ...


class _Folder:
    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack

    def has(self, name: str) -> bool:
        try:
            return self._folder.joinpath(*parts(name)).is_file()
        except OSError as e:  # a name that no file system has
            raise malformed("a file of the image", e.strerror) from e

    def digest(self, name: str) -> str:
        return file_digest(self.open(name))

    def open(self, name: str, progress: Progress = quiet) -> Part:
        if not self.has(name):
            raise _missing(name)
        path = self._folder.joinpath(*parts(name))
        file = self._stack.enter_context(opened(path, what=f"{name} of an image"))
        return Part(file, 0, file.seek(0, io.SEEK_END), progress)


class _Archive:
    """A tar whose members are found by name, and read from where they lie in it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._found: dict[str, tuple[str, tuple[int, int]]] = {}
        if file.read(2) in _COMPRESSED:
            raise malformed("an image as it was saved", "compressed as a whole; unpack it first")
        with unpack(Part(file, 0, file.seek(0, io.SEEK_END), quiet)) as raw:
            for member in members(raw):
                if member.place is not None:
                    self._found["/".join(parts(member.name))] = (member.digest, member.place)
                if len(self._found) > _MAX_MEMBERS:
                    raise malformed(f"an image of at most {_MAX_MEMBERS} files", "more")

    def has(self, name: str) -> bool:
        return "/".join(parts(name)) in self._found

    def _of(self, name: str) -> tuple[str, tuple[int, int]]:
        if not self.has(name):
            raise _missing(name)
        return self._found["/".join(parts(name))]

    def digest(self, name: str) -> str:
        return self._of(name)[0]

    def open(self, name: str, progress: Progress = quiet) -> Part:
        return Part(self._file, *self._of(name)[1], progress)


@contextmanager
def opened_box(image: Path) -> Iterator[Box]:
    """The files of an image.

    Raises:
        InputError: ``file.unreadable``, ``source.*``.
    """
    with ExitStack() as stack:
        if image.is_dir():
            yield _Folder(image, stack)
        else:
            yield _Archive(stack.enter_context(opened(image, what="a container image")))


def read_json(box: Box, name: str) -> Any:
    """A small JSON file of the image."""
    data = box.open(name).read(_MAX_JSON + 1)
    try:
        return load_json(data, max_bytes=_MAX_JSON)
    except SvetovidError as e:
        raise malformed(f"{name} as JSON", e.code) from e


def _at(value: Any, names: Sequence[str]) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def text(value: Any, *names: str) -> str:
    """The text at ``value[name][name]…``; empty where there is none."""
    found = _at(value, names)
    return found if isinstance(found, str) else ""


def listed(value: Any, *names: str) -> Sequence[Any]:
    """The list at ``value[name][name]…``.

    Raises:
        ParseError: ``source.malformed``.
    """
    found = _at(value, names)
    if not isinstance(found, list):
        raise malformed(f"a list of {names[-1]}", type(found).__name__)
    return found
