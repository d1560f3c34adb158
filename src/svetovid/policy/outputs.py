"""What may leave a job, and for whom (T9)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from svetovid.crypto.canonical import Document
from svetovid.crypto.envelope import Envelope
from svetovid.dtypes import Dtype

__all__ = ["MetricSpec", "OutputSpec", "Recipient", "TensorSpec"]

TensorName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,255}$")]


class TensorSpec(Document):
    """dtype as PyTorch names it, and shape.

    Attributes:
        dtype: as PyTorch names it.
        shape: length of each dimension; empty for a scalar.
    """

    dtype: Dtype
    shape: Annotated[tuple[Annotated[int, Field(ge=0, le=2**31)], ...], Field(max_length=8)]


class OutputSpec(Document):
    """One output: a safetensors file with exactly these tensors and no metadata (T9).

    Attributes:
        tensors: name to what it must be: these and no others.
    """

    tensors: Annotated[dict[TensorName, TensorSpec], Field(min_length=1, max_length=16384)]


class MetricSpec(Document):
    """A metric that may leave: its type, and how many values at the most (T9).

    Attributes:
        type: of every value.
        max_count: how many values may leave.
    """

    type: Literal["float", "int"]
    max_count: Annotated[int, Field(ge=1, le=1_000_000)]


class Recipient(Document):
    """Who can open the outputs: a self-signed card (:class:`svetovid.crypto.Card`).

    Attributes:
        card: self-signed :class:`Card`.
    """

    card: Envelope
