"""The initial RAM file system: a cpio archive in "newc" form, without times, owners or chance.

It is not compressed. Its bytes then depend on no compressor's version, and the kernel measures it
as a whole anyway. Linux: Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

from attested_host.tree import Tree

__all__ = ["archive"]

_REGULAR, _FOLDER, _LINK, _CHARACTER = 0o100000, 0o040000, 0o120000, 0o020000
_CONSOLE = (5, 1)


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _entry(number: int, name: str, mode: int, data: bytes, device: tuple[int, int]) -> bytes:
    path = name.encode() + b"\0"
    links = 2 if mode & 0o170000 == _FOLDER else 1
    fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % f for f in fields)
    return _pad(head + path) + _pad(data)


def archive(tree: Tree) -> bytes:
    """``tree`` with ``/dev/console``, which the kernel opens for the first program."""
    rows: list[tuple[str, int, bytes, tuple[int, int]]] = []
    for folder in sorted({*tree.all_folders(), "dev"}):
        rows.append((folder, _FOLDER | 0o755, b"", (0, 0)))
    rows.append(("dev/console", _CHARACTER | 0o600, b"", _CONSOLE))
    for path, node in tree:
        if node.link is None:
            rows.append((path, _REGULAR | node.mode, node.data, (0, 0)))
        else:
            rows.append((path, _LINK | 0o777, node.link.encode(), (0, 0)))
    out = [_entry(i, *row) for i, row in enumerate(rows, 1)]
    out.append(_entry(0, "TRAILER!!!", 0, b"", (0, 0)))
    data = b"".join(out)
    return data + bytes(-len(data) % 512)
