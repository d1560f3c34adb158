"""Parsers of containers, outputs, data files, and of what a sandbox or a TPM says."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import fsspec

from fuzz.documents import read_manifest
from fuzz.targets import ROOT, Target
from svetovid.assets import Manifest, load_bundle, open_asset, seal_stream
from svetovid.crypto import Secret, canonical, digest
from svetovid.errors import SvetovidError
from svetovid.host.channel import Channel
from svetovid.host.outputs import rebuild
from svetovid.host.tpm import Tpm
from svetovid.policy.outputs import OutputSpec, TensorSpec
from svetovid.stakeholder.readers import read_columns

_QUIET = contextlib.suppress(SvetovidError)
_URL = "memory://fuzz/asset"


def _store(data: bytes, url: str = _URL) -> None:
    fsspec.filesystem("memory").pipe_file(url, data)


@cache
def _vector() -> dict[str, Any]:
    path = ROOT / "tests" / "vectors" / "assets" / "container.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _container(data: bytes) -> None:
    _store(data)
    manifest = Manifest.from_json(read_manifest())
    key = Secret(bytes.fromhex(_vector()["key"]))
    with open_asset(_URL, manifest, key, expected=manifest.digest()) as reader:
        for block in reader.blocks():
            bytes(block)


def _manifest(data: bytes) -> None:
    manifest = Manifest.parse(data)
    assert manifest.layout
    with _QUIET:
        manifest.canonical()


def _code(data: bytes) -> None:
    who = {"owner": "ed25519:" + "1" * 64, "manager": "ed25519:" + "2" * 64}
    _remove(_URL)
    manifest, key = seal_stream(_URL, [data], kind="code", name="code", **who)  # type: ignore[arg-type]
    with open_asset(_URL, manifest, key, expected=manifest.digest()) as reader:
        load_bundle(reader)


def _remove(url: str) -> None:
    store = fsspec.filesystem("memory")
    for name in (url, f"{url}.manifest.json"):
        if store.exists(name):
            store.rm(name)


def _codes() -> Iterable[bytes]:
    files = {"train.py": b"print()\n", "pkg/__init__.py": b""}
    listed = [{"path": p, "sha256": digest(d), "size": len(d)} for p, d in sorted(files.items())]
    index = canonical({"files": listed})
    content = b"".join(d for _, d in sorted(files.items()))
    yield b"svetovid.bundle\0" + len(index).to_bytes(4, "big") + index + content


_SPEC = OutputSpec(
    tensors={
        "a": TensorSpec(dtype="uint8", shape=(3,)),
        "w": TensorSpec(dtype="float32", shape=(2, 2)),
    }
)


def _outputs() -> Iterable[bytes]:
    header = {
        "w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "a": {"dtype": "U8", "shape": [3], "data_offsets": [16, 19]},
    }
    text = json.dumps(header).encode()
    yield struct.pack("<Q", len(text)) + text + struct.pack("<4f", 1, 2, 3, 4) + b"abc"


_PIPE = 32 << 10
"""Bytes that a socket takes while nobody reads."""


def _channel(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        channel = Channel(ours, lambda _type, _name: 4096, stall_s=0.02)
        try:
            theirs.sendall(data[:_PIPE])
            theirs.shutdown(socket.SHUT_WR)
            while channel.receive() is not None:
                pass
        finally:
            channel.close()


def _frames() -> Iterable[bytes]:
    for header, payload in (
        ({"type": "ready"}, b""),
        ({"type": "metric", "name": "loss", "value": 0.5}, b""),
        ({"type": "progress", "done": 1, "total": 2}, b""),
        ({"type": "output", "name": "model"}, b"abc"),
        ({"type": "checkpoint"}, b"state"),
    ):
        text = json.dumps(header).encode()
        yield struct.pack("<IQ", len(text), len(payload)) + text + payload


_ENDINGS = (".npz", ".npy", ".csv", ".idx", ".idx.gz")


def _columns(data: bytes) -> None:
    """The first byte says what kind of file the rest is."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / f"a{_ENDINGS[data[0] % len(_ENDINGS) if data else 0]}"
        path.write_bytes(data[1:])
        read_columns(path)


def _data_files() -> Iterable[bytes]:
    import gzip
    import io

    import numpy as np

    array = np.arange(12, dtype="<i4").reshape(3, 4)
    npz, npy = io.BytesIO(), io.BytesIO()
    np.savez(npz, x=array, y=array * 2.0)
    np.save(npy, array)
    idx = struct.pack(">BBBBII", 0, 0, 8, 2, 3, 4) + bytes(12)
    found = (npz.getvalue(), npy.getvalue(), b"a,b\n1,2.5\n3,4\n", idx, gzip.compress(idx))
    return [bytes([i]) + data for i, data in enumerate(found)]


class _Scripted:
    """A TPM that answers ``data``, cut into answers as their headers say."""

    owns_power = True

    def __init__(self, data: bytes) -> None:
        self._data = data

    def transmit(self, command: bytes) -> bytes:
        size = max(10, int.from_bytes(self._data[2:6]) & 0xFFF)
        answer, rest = self._data[:size], self._data[size:]
        self._data = rest or answer
        return answer

    def close(self) -> None: ...


def _answers(data: bytes) -> None:
    acts = (
        *(Tpm.ek, Tpm.ak, Tpm.ek_certificate, Tpm.read_pcrs, Tpm.startup),
        lambda t: t.quote(bytes(32)),
        lambda t: t.activate_credential(b"\0\1x", b"\0\1x"),
        lambda t: t.unseal(b"\0\1x\0\1x"),
        lambda t: t.define_counter(0x01800001),
    )
    if data:
        tpm = Tpm(_Scripted(data[1:]))
        try:
            acts[data[0] % len(acts)](tpm)  # type: ignore[operator]
        finally:
            tpm.close()


def _transcripts() -> Iterable[bytes]:
    body = struct.pack(">I", 0x80000000) + struct.pack(">I", 4) + b"\0\2ab" + b"\0\0\1\0\0"
    answer = struct.pack(">HII", 0x8002, 10 + len(body), 0) + body
    plain = struct.pack(">HII", 0x8001, 10, 0)
    for act in range(9):
        yield bytes([act]) + answer + plain


_TPM_WIRE = ("svetovid.host.tpm.wire", "svetovid.host.tpm.commands", "svetovid.host.tpm.tpm")
TARGETS = (
    Target(
        "container",
        _container,
        ("svetovid.assets.reader", "svetovid.assets.format"),
        lambda: [bytes.fromhex(_vector()["container"])],
    ),
    Target(
        "manifest", _manifest, ("svetovid.assets.manifest",), lambda: [canonical(read_manifest())]
    ),
    Target("code-bundle", _code, ("svetovid.assets.bundle",), _codes),
    Target("outputs", lambda data: rebuild(data, _SPEC), ("svetovid.host.outputs",), _outputs),
    Target("sandbox-channel", _channel, ("svetovid.host.channel",), _frames),
    Target("data-files", _columns, ("svetovid.stakeholder.readers",), _data_files),
    Target("tpm-answers", _answers, _TPM_WIRE, _transcripts),
)
