"""Layers whose products are asked of a multiplier: one file a family."""

from __future__ import annotations

from svetovid.offload.layers.attention import Attention, MaskedAttention
from svetovid.offload.layers.conv import MaskedConv1d, MaskedConv2d, MaskedConv3d
from svetovid.offload.layers.conv_transpose import (
    MaskedConvTranspose1d,
    MaskedConvTranspose2d,
    MaskedConvTranspose3d,
)
from svetovid.offload.layers.encoder import (
    MaskedTransformerEncoder,
    MaskedTransformerEncoderLayer,
)
from svetovid.offload.layers.linear import MaskedLinear
from svetovid.offload.layers.matmul import MaskedMatmul, Matmul
from svetovid.offload.layers.multihead import MaskedMultiheadAttention
from svetovid.offload.layers.registry import masked_form, masked_layers, masks, plain_form
from svetovid.offload.layers.seam import Around, Masked, Seam

__all__ = [
    "Around",
    "Attention",
    "Masked",
    "MaskedAttention",
    "MaskedConv1d",
    "MaskedConv2d",
    "MaskedConv3d",
    "MaskedConvTranspose1d",
    "MaskedConvTranspose2d",
    "MaskedConvTranspose3d",
    "MaskedLinear",
    "MaskedMatmul",
    "MaskedMultiheadAttention",
    "MaskedTransformerEncoder",
    "MaskedTransformerEncoderLayer",
    "Matmul",
    "Seam",
    "masked_form",
    "masked_layers",
    "masks",
    "plain_form",
]
