"""PyTorch's transformer encoders, kept from their way round: in eval they give the weights of all
their layers to one fused function, and ask no layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from svetovid.offload.layers.registry import masks
from svetovid.offload.layers.seam import Around

__all__ = ["MaskedTransformerEncoder", "MaskedTransformerEncoderLayer"]


@contextmanager
def _no_way_round() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@masks(nn.TransformerEncoder)
class MaskedTransformerEncoder(Around, nn.TransformerEncoder):
    """See :class:`torch.nn.TransformerEncoder`."""

    def forward(
        self,
        src: torch.Tensor,
        mask: torch.Tensor | None = None,
        src_key_padding_mask: torch.Tensor | None = None,
        is_causal: bool | None = None,
    ) -> torch.Tensor:
        """Encode; see :meth:`torch.nn.TransformerEncoder.forward`."""
        with _no_way_round():
            return super().forward(src, mask, src_key_padding_mask, is_causal)


@masks(nn.TransformerEncoderLayer)
class MaskedTransformerEncoderLayer(Around, nn.TransformerEncoderLayer):
    """See :class:`torch.nn.TransformerEncoderLayer`."""

    def forward(
        self,
        src: torch.Tensor,
        src_mask: torch.Tensor | None = None,
        src_key_padding_mask: torch.Tensor | None = None,
        is_causal: bool = False,
    ) -> torch.Tensor:
        """Encode; see :meth:`torch.nn.TransformerEncoderLayer.forward`."""
        with _no_way_round():
            return super().forward(src, src_mask, src_key_padding_mask, is_causal)
