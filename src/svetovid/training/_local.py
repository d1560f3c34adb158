"""The same script at home, on data of one's own: nothing is sealed, attested or confined here."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svetovid.training._tensors import pack

if TYPE_CHECKING:
    from svetovid.training._masked import StepMultiplier

__all__ = ["LocalSession"]


class _Ready:
    """Content that is all there."""

    def __init__(self, buffer: memoryview) -> None:
        self.buffer = buffer

    def wait(self, end: int) -> None:
        """Nothing to wait for."""


def _zip(columns: Mapping[str, Any]) -> tuple[bytearray, dict[str, Any]]:
    """Columns of equal length as records, field after field, and their schema."""
    import torch

    tensors = {name: torch.as_tensor(c).contiguous() for name, c in columns.items()}
    counts = {len(t) for t in tensors.values()}
    if len(counts) != 1:
        raise ValueError("columns of a dataset have one length")
    (records,) = counts
    data = bytearray()
    if records:
        parts = [t.reshape(records, -1).view(torch.uint8) for t in tensors.values()]
        rows = torch.cat(parts, dim=1).flatten()
        data = bytearray(rows.numel())
        torch.frombuffer(data, dtype=torch.uint8).copy_(rows)
    fields = [
        {"name": n, "dtype": str(t.dtype).removeprefix("torch."), "shape": list(t.shape[1:])}
        for n, t in tensors.items()
    ]
    return data, {"fields": fields, "records": records}


class LocalSession:
    """Reads from memory, writes to a folder: ``<output>.safetensors``, ``metrics.jsonl``,
    ``checkpoint.safetensors``."""

    def __init__(
        self,
        datasets: Mapping[str, Mapping[str, Any]],
        models: Mapping[str, Mapping[str, Any]],
        parameters: Mapping[str, Any],
        seed: int,
        folder: Path,
    ) -> None:
        self.parameters = dict(parameters)
        self.seed = seed
        self._folder = folder
        self._schemas: dict[str, dict[str, Any]] = {}
        self._content: dict[str, bytearray] = {}
        self._multiplier: StepMultiplier | None = None
        for slot, columns in datasets.items():
            self._content[slot], self._schemas[slot] = _zip(columns)
        for slot, tensors in models.items():
            self._content[slot] = pack(tensors)
        folder.mkdir(parents=True, exist_ok=True)

    def content(self, slot: str) -> _Ready:
        return _Ready(memoryview(self._content[slot]))

    def schema(self, slot: str) -> Mapping[str, Any]:
        return self._schemas[slot]

    def save(self, name: str, data: bytes | bytearray) -> None:
        (self._folder / f"{name}.safetensors").write_bytes(data)

    def checkpoint(self, data: bytes | bytearray) -> None:
        (self._folder / "checkpoint.safetensors").write_bytes(data)

    def resume(self) -> bytes | None:
        path = self._folder / "checkpoint.safetensors"
        return path.read_bytes() if path.exists() else None

    def metric(self, name: str, value: float) -> None:
        with (self._folder / "metrics.jsonl").open("a") as f:
            f.write(json.dumps({name: value}) + "\n")

    def progress(self, done: int, total: int) -> None:
        sys.stderr.write(f"\r{done}/{total}" + ("\n" if done == total else ""))

    def multiplier(self) -> StepMultiplier:
        """The plain 8-bit simulator: the numbers of masked mode, without a mask or a worker."""
        if self._multiplier is None:
            from svetovid.training._simulated import Simulator

            self._multiplier = Simulator()
        return self._multiplier

    @property
    def steps(self) -> int:
        return 0 if self._multiplier is None else self._multiplier.steps

    @steps.setter
    def steps(self, value: int) -> None:
        if value:
            self.multiplier().steps = value
