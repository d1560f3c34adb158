"""Reference values of the stories, as a reader would publish them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import firmware as uefi
from conformance.making.story import FILES
from firmware import EVENTS, KERNEL, LINE, sha


def edition(
    files: Mapping[str, bytes | tuple[bytes, ...]] = FILES,
    boot: Mapping[str, Any] | None = None,
    **more: Any,
) -> bytes:
    """A set of reference values.

    Args:
        files: path to content, or to several that are good.
        boot: changes to what may boot.
        more: further members.
    """
    contents = {path: c if isinstance(c, tuple) else (c,) for path, c in files.items()}
    listed = {
        "kernels": {"linux": [sha(KERNEL)]},
        "command_lines": [LINE],
        "events": {p: {n: list(d) for n, d in e.items()} for p, e in EVENTS.items()},
        "measured": ["/opt/runtime/lib0.so"],
        **(boot or {}),
    }
    values = {
        "product": "conformance",
        "version": 1,
        "files": {path: [sha(c) for c in found] for path, found in contents.items()},
        "boot": listed,
        **more,
    }
    return text(values)


def text(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=1, sort_keys=True) + "\n").encode()


def without_boot() -> bytes:
    """What :func:`edition` lists, and no word about the boot."""
    values = json.loads(edition())
    del values["boot"]
    return text(values)


def banked(bank: str, boot: uefi.Firmware) -> bytes:
    """What :func:`edition` lists, in another bank."""

    def named(data: bytes) -> str:
        return f"{bank}:" + hashlib.new(bank, data).hexdigest()

    events = {
        str(pcr): {str(i): [named(e.measured)] for i, e in enumerate(boot.events) if e.pcr == pcr}
        for pcr in (0, 2, 9)
    }
    return edition(boot={"kernels": {"linux": [named(KERNEL)]}, "events": events})
