"""Scaled dot-product attention (Vaswani et al., 2017): two products outside, all between inside."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from svetovid.errors import InputError
from svetovid.offload.layers.bilinear import bilinear
from svetovid.offload.layers.linear import by_rows
from svetovid.offload.layers.matmul import matmul
from svetovid.offload.layers.registry import masks
from svetovid.offload.layers.seam import Call, Masked

__all__ = ["Attention", "MaskedAttention", "scores", "weights_of"]


class Attention(nn.Module):
    """:func:`torch.nn.functional.scaled_dot_product_attention` as a layer: so that a plan can name
    it.

    Args:
        dropout: probability that a weight is dropped in training.
        causal: no position attends to a later one.
        scale: of the scores; ``E**-0.5`` where there is none.
    """

    def __init__(
        self, dropout: float = 0.0, causal: bool = False, scale: float | None = None
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.causal = causal
        self.scale = scale

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend.

        Args:
            q: ``[..., L, E]``.
            k: ``[..., S, E]``.
            v: ``[..., S, Ev]``.
            mask: broadcast to ``[..., L, S]``: bool, true where q may attend; or float, added.

        Returns:
            ``[..., L, Ev]``.
        """
        drop = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(
            q, k, v, mask, dropout_p=drop, is_causal=self.causal, scale=self.scale
        )


def scores(call: Call, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """``q @ k.mT``: q ``[..., L, E]``, k ``[..., S, E]`` to ``[..., L, S]``.

    Args:
        call: of the layer.
        q, k: see above; leading axes are broadcast.
    """
    lead = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2])  # type: ignore[no-untyped-call]
    q, k = q.expand(*lead, *q.shape[-2:]), k.expand(*lead, *k.shape[-2:])
    maps = by_rows(math.prod(lead), q.shape[-2], q.shape[-1], k.shape[-2])
    maps = replace(maps, names=("q", "k", "dscores"))
    return bilinear(call, maps, q, k).reshape(*lead, q.shape[-2], k.shape[-2])


def weights_of(found: torch.Tensor, mask: torch.Tensor | None, causal: bool) -> torch.Tensor:
    """Softmax of the scores where attending is allowed; 0 where it is nowhere.

    Args:
        found: ``[..., L, S]``, scaled.
        mask: as :meth:`Attention.forward` takes it.
        causal: instead of a mask.
    """
    if causal:
        later = torch.ones(found.shape[-2:], dtype=torch.bool).triu(1)
        return found.masked_fill(later, -math.inf).softmax(-1)
    if mask is None:
        return found.softmax(-1)
    found = found.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else found + mask
    nowhere = (found == -math.inf).all(-1, keepdim=True)  # softmax would give NaN, and its gradient
    return found.masked_fill(nowhere, 0.0).softmax(-1).masked_fill(nowhere, 0.0)


@masks(Attention)
class MaskedAttention(Masked, Attention):
    """See :class:`Attention`."""

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend; see :meth:`Attention.forward`."""
        if mask is not None and self.causal:
            raise InputError(
                "offload.mask",
                expected="a mask or causal attention",
                observed="both",
                next_step="put what is causal into the mask",
            )
        call = self.call()
        scale = q.shape[-1] ** -0.5 if self.scale is None else self.scale
        weights = weights_of(scores(call, q, k) * scale, mask, self.causal)
        weights = F.dropout(weights, self.dropout, self.training)
        return matmul(call, weights, v, ("weights", "v", "dy"))
