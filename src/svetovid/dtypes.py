"""Types of numbers in records and tensors, named as PyTorch names them: the one table of them.

On the ground, as :mod:`svetovid.errors` is: owners' documents, sealed records, the host's check of
outputs and the code inside the sandbox all mean the same by a name.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["ITEM_BYTES", "SAFETENSORS", "Dtype"]

Dtype = Literal[
    "bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"
]
ITEM_BYTES: dict[str, int] = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
}
"""Bytes of one number, stored little-endian."""
SAFETENSORS: dict[str, str] = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}
"""What a safetensors header calls it."""
