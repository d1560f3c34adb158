"""A slot's records as a map-style dataset of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from svetovid.training._session import Bytes
from svetovid.training._tensors import columns, typed_rows

__all__ = ["Records"]

Sample = tuple[Any, ...]


class Records:
    """Map-style dataset: ``dataset[i]`` is a tuple of tensors, one for each field of a record.

    Works with ``torch.utils.data.DataLoader`` and any number of workers: they share the one
    decrypted copy. Tensors are views of read-only memory; ``clone()`` before writing in place.

    Args:
        content: decrypted bytes, perhaps still arriving; reading waits for what it needs.
        schema: ``{"fields": [{"name", "dtype", "shape"}], "records": n}``.
        transform: called with each sample; its result is the sample.
    """

    def __init__(
        self,
        content: Bytes,
        schema: Mapping[str, Any],
        transform: Callable[[Sample], Any] | None = None,
    ) -> None:
        import torch

        self._content = content
        self._records: int = schema["records"]
        self._record_bytes = len(content.buffer) // self._records if self._records else 0
        self._types = {
            f["name"]: (getattr(torch, f["dtype"]), tuple(f.get("shape", ())))
            for f in schema["fields"]
        }
        self._columns = columns(content.buffer, schema)
        self._transform = transform

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields of a record, in order."""
        return tuple(self._types)

    def __len__(self) -> int:
        return self._records

    def _index(self, index: int) -> int:
        index = int(index)
        if not -self._records <= index < self._records:
            raise IndexError(f"record {index} of {self._records}")
        return index % self._records

    def _values(self, name: str, rows: Any) -> Any:
        dtype, shape = self._types[name]
        raw = self._columns[name].dtype != dtype or self._columns[name].shape[1:] != shape
        return typed_rows(rows, dtype, shape) if raw else rows

    def column(self, name: str) -> Any:
        """All records' values of one field: a view where memory allows it."""
        self._content.wait(len(self._content.buffer))
        return self._values(name, self._columns[name])

    def __getitem__(self, index: int) -> Any:
        i = self._index(index)
        self._content.wait((i + 1) * self._record_bytes)
        sample = tuple(self._values(n, c[i : i + 1])[0] for n, c in self._columns.items())
        return sample if self._transform is None else self._transform(sample)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Many samples with one gather a field; DataLoader calls this by itself."""
        import torch

        wanted = [self._index(i) for i in indices]
        self._content.wait((max(wanted, default=-1) + 1) * self._record_bytes)
        rows = torch.tensor(wanted, dtype=torch.int64)
        batch = [self._values(n, c.index_select(0, rows)) for n, c in self._columns.items()]
        samples = list(zip(*(field.unbind(0) for field in batch), strict=True))
        return samples if self._transform is None else [self._transform(s) for s in samples]
