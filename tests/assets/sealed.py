"""What the tests of sealed assets share: two keys, and small containers in fsspec's memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import fsspec
import pytest

from svetovid.assets import Manifest, open_asset, seal_stream
from svetovid.crypto import Secret
from svetovid.errors import SvetovidError

OWNER = "ed25519:" + "11" * 32
MANAGER = "ed25519:" + "22" * 32
WHO = {"owner": OWNER, "manager": MANAGER}
_numbers = itertools.count()


def fresh_url() -> str:
    return f"memory://tests/asset-{next(_numbers)}"


def stored(url: str) -> bytes:
    return bytes(fsspec.filesystem("memory").cat_file(url))


def store(data: bytes) -> str:
    url = fresh_url()
    fsspec.filesystem("memory").pipe_file(url, data)
    return url


@dataclass
class Sealed:
    url: str
    manifest: Manifest
    key: Secret
    content: bytes

    @property
    def data(self) -> bytes:
        return stored(self.url)


def sealed(content: bytes, *, chunk_bytes: int = 64, **fields: object) -> Sealed:
    url = fresh_url()
    named = {"kind": "model", "name": "thing", **WHO, **fields}
    manifest, key = seal_stream(url, [content], chunk_bytes=chunk_bytes, **named)  # type: ignore[arg-type]
    return Sealed(url, manifest, key, content)


def read_all(data: bytes, manifest: Manifest, key: Secret) -> bytes:
    """Open changed bytes, with everything else as agreed, and read the whole content."""
    with open_asset(store(data), manifest, key, expected=manifest.digest()) as reader:
        return b"".join(bytes(b) for b in reader.blocks())


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(SvetovidError) as caught:
        act()
    ours = caught.value.code.startswith(("asset.", "bundle.", "dataset."))
    assert caught.value.reason.next_step or not ours
    return caught.value.code
