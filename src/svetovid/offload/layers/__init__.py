"""Layers whose products are asked of a multiplier: one file a family, which registers itself."""

from __future__ import annotations

import svetovid.offload.layers.conv
import svetovid.offload.layers.conv_transpose
import svetovid.offload.layers.encoder
import svetovid.offload.layers.linear
import svetovid.offload.layers.multihead  # noqa: F401
from svetovid.offload.layers.attention import Attention
from svetovid.offload.layers.matmul import Matmul
from svetovid.offload.layers.registry import masked_form, masked_layers, masks, plain_form
from svetovid.offload.layers.seam import Around, Masked, Seam

__all__ = [
    "Around",
    "Attention",
    "Masked",
    "Matmul",
    "Seam",
    "masked_form",
    "masked_layers",
    "masks",
    "plain_form",
]
