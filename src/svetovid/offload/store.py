"""Tensors at rest outside a limit of trusted memory: sealed, and taken back only as they were.

A TEE has less memory than a training step saves for its backward pass. What does not fit is sealed
with AES-256-GCM under a key of this process and lies in a file that nobody has to trust. Associated
data are a tensor's number and version, so that no other tensor's bytes and no older ones are taken
for it (Goten's memory-aware measures kept neither).

::

    store = TensorStore(limit_mib=128, folder=outside)
    with store.saving():
        loss = model(x)
    loss.backward()
"""

from __future__ import annotations

import os
import secrets
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from svetovid.errors import HostError, IntegrityError, LimitError

__all__ = ["Kept", "TensorStore"]

_TAG = 16
_SMALL = 4096
"""Bytes below which a saved tensor is left alone: less than a page."""


@dataclass(eq=False)
class Kept:
    """A tensor that the store has.

    Attributes:
        number: of the tensor.
        version: how often the number was sealed; part of what is authenticated.
    """

    number: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    size: int
    version: int = 0
    place: int = -1


class TensorStore:
    """Keeps tensors, at most ``limit_mib`` of them as plaintext. Of one thread.

    Args:
        limit_mib: MiB of plaintext that it holds at the most.
        folder: for its file, on storage that need not be trusted; the file has no name.

    Raises:
        HostError: ``offload.outside``: the folder takes no file.
    """

    def __init__(self, limit_mib: float, folder: Path) -> None:
        self._limit = int(limit_mib * 2**20)
        self._key = AESGCM(secrets.token_bytes(32))
        self._pid = os.getpid()
        self._plain: OrderedDict[int, tuple[Kept, torch.Tensor]] = OrderedDict()
        self._free: dict[int, list[int]] = {}
        self._end = self._next = self._nonce = 0
        self.plain_bytes = 0
        """Of plaintext that it holds."""
        self.sealed_bytes = 0
        """That it ever wrote outside."""
        try:
            self._file = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
        except OSError as e:
            raise _outside(f"no file in {folder}: {e.strerror}") from e

    def close(self) -> None:
        """Forget everything."""
        self._plain.clear()
        self.plain_bytes = 0
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def put(self, value: torch.Tensor) -> Kept:
        """Keep a copy of a tensor.

        Raises:
            LimitError: ``offload.memory``: it is larger than the limit.
            HostError: ``offload.outside``.
        """
        size = value.numel() * value.element_size()
        if size > self._limit:
            raise LimitError(
                "offload.memory",
                expected=f"tensors of at most {self._limit:,} bytes",
                observed=f"{size:,}",
                next_step="raise the limit of trusted memory, or make batches smaller",
            )
        self._make_room(size)
        kept = Kept(self._next, tuple(value.shape), value.dtype, size)
        self._next += 1
        self._hold(kept, value.detach().clone(memory_format=torch.contiguous_format))
        return kept

    def change(self, kept: Kept, value: torch.Tensor) -> None:
        """Keep another value of the same shape and type in the place of the one before.

        Raises:
            LimitError, HostError: as of :meth:`put`.
        """
        if (tuple(value.shape), value.dtype) != (kept.shape, kept.dtype):
            raise ValueError(f"{kept.dtype} {kept.shape} was put, not {value.dtype} {value.shape}")
        self.drop(kept)
        self._make_room(kept.size)
        self._hold(kept, value.detach().clone(memory_format=torch.contiguous_format))

    def _hold(self, kept: Kept, value: torch.Tensor) -> None:
        self._plain[kept.number] = kept, value
        self.plain_bytes += kept.size

    def take(self, kept: Kept) -> torch.Tensor:
        """The tensor as it was put; it stays kept.

        Raises:
            IntegrityError: ``offload.sealed``: what lies outside is not what was put there.
        """
        found = self._plain.get(kept.number)
        if found is not None:
            self._plain.move_to_end(kept.number)
            return found[1]
        self._make_room(kept.size)
        value = self._opened(kept)
        self._hold(kept, value)
        return value

    def drop(self, kept: Kept) -> None:
        """Forget a tensor."""
        if self._plain.pop(kept.number, None) is not None:
            self.plain_bytes -= kept.size
        if kept.place >= 0:
            self._free.setdefault(kept.size, []).append(kept.place)
            kept.place = -1

    def _make_room(self, size: int) -> None:
        """Seal those that were not used for the longest time."""
        while self.plain_bytes + size > self._limit:
            kept, value = next(iter(self._plain.values()))
            if kept.place < 0:  # else these very bytes lie there already
                self._seal(kept, value)
            # It is safe outside; or its graph went while it was sealed, and dropped it.
            if self._plain.pop(kept.number, None) is not None:
                self.plain_bytes -= kept.size

    def _about(self, kept: Kept) -> bytes:
        return b"svetovid tensor" + kept.number.to_bytes(8, "big") + kept.version.to_bytes(8, "big")

    def _seal(self, kept: Kept, value: torch.Tensor) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError("a forked process has the key and its counter: make another store")
        free = self._free.get(kept.size)
        place = free[-1] if free else self._end
        kept.version += 1
        self._nonce += 1
        nonce = self._nonce.to_bytes(12, "big")
        data = value.reshape(-1).view(torch.uint8).numpy().data
        sealed = nonce + self._key.encrypt(nonce, data, self._about(kept))
        view = memoryview(sealed)
        at = place
        try:
            while view:
                written = os.pwrite(self._file, view, at)
                view, at = view[written:], at + written
        except OSError as e:
            raise _outside(e.strerror) from e
        if free:
            free.pop()
        else:
            self._end += len(sealed)
        kept.place = place
        self.sealed_bytes += len(sealed)

    def _opened(self, kept: Kept) -> torch.Tensor:
        try:
            held = os.pread(self._file, 12 + kept.size + _TAG, kept.place)
            data = self._key.decrypt(held[:12], held[12:], self._about(kept))
        except (InvalidTag, ValueError) as e:
            raise IntegrityError(
                "offload.sealed",
                expected=f"tensor {kept.number}, version {kept.version}, as it was sealed",
                observed="other bytes",
                next_step="somebody changes this process's files: move them, and begin again",
            ) from e
        except OSError as e:
            raise _outside(e.strerror) from e
        flat = torch.from_numpy(np.frombuffer(bytearray(data), np.uint8))
        return flat.view(kept.dtype).view(kept.shape)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Inside, what autograd saves for the backward pass is kept here. Parameters are not: they
        are there anyway."""

        def pack(value: torch.Tensor) -> torch.Tensor | _Saved:
            size = value.numel() * value.element_size()
            if size < _SMALL or (value.is_leaf and value.requires_grad):
                return value
            return _Saved(self, self.put(value))

        def unpack(saved: torch.Tensor | _Saved) -> torch.Tensor:
            return saved.take() if isinstance(saved, _Saved) else saved

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield


class _Saved:
    """What autograd holds in the place of a tensor; forgotten with its graph."""

    def __init__(self, store: TensorStore, kept: Kept) -> None:
        self._store, self._kept = store, kept

    def take(self) -> torch.Tensor:
        return self._store.take(self._kept)

    def __del__(self) -> None:
        self._store.drop(self._kept)


def _outside(observed: object) -> HostError:
    return HostError(
        "offload.outside",
        expected="storage for sealed tensors",
        observed=observed,
        next_step="name a folder with room, or raise the limit of trusted memory",
    )
