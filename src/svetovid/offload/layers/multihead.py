"""Attention of many heads: projections and both products of each head outside."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from svetovid.errors import InputError
from svetovid.offload.layers.attention import scores, weights_of
from svetovid.offload.layers.linear import linear
from svetovid.offload.layers.matmul import matmul
from svetovid.offload.layers.registry import masks
from svetovid.offload.layers.seam import Call, Masked

__all__ = ["MaskedMultiheadAttention"]


@masks(nn.MultiheadAttention)
class MaskedMultiheadAttention(Masked, nn.MultiheadAttention):
    """See :class:`torch.nn.MultiheadAttention`. Weights are computed, and dropped out, inside."""

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend; see :meth:`torch.nn.MultiheadAttention.forward`. ``is_causal`` is a hint of what
        ``attn_mask`` holds, and is not taken."""
        if is_causal and attn_mask is None:
            raise InputError(
                "offload.mask",
                expected="attn_mask, of which is_causal is a hint",
                observed="is_causal alone",
                next_step="give the mask too, as torch.nn.MultiheadAttention wants it",
            )
        call = self.call()
        single = query.dim() == 2
        q, k, v = self._projected(call, query, key, value)
        if single:
            q, k, v = (x.unsqueeze(0) for x in (q, k, v))
        elif not self.batch_first:
            q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        k, v, beyond = self._extended(k, v)
        q, k, v = (
            x.reshape(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)
            for x in (q, k, v)
        )
        mask = self._mask(q, attn_mask, key_padding_mask, beyond)
        weights = weights_of(scores(call, q, k) * self.head_dim**-0.5, mask, causal=False)
        weights = F.dropout(weights, self.dropout, self.training)
        mixed = matmul(call, weights, v, ("weights", "v", "dy")).transpose(1, 2).flatten(2)
        y = linear(call.part("out"), mixed, self.out_proj.weight, self.out_proj.bias)
        if single:
            y, weights = y.squeeze(0), weights.squeeze(0)
        elif not self.batch_first:
            y = y.transpose(0, 1)
        if not need_weights:
            return y, None
        return y, weights.mean(-3) if average_attn_weights else weights

    def _projected(
        self, call: Call, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        bias = self.in_proj_bias
        if self.in_proj_weight is not None and query is key and key is value:
            return linear(call.part("in"), query, self.in_proj_weight, bias).chunk(3, -1)
        ws: tuple[torch.Tensor, ...] = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        if self.in_proj_weight is not None:
            ws = self.in_proj_weight.chunk(3)
        biases = (None,) * 3 if bias is None else bias.chunk(3)
        xs = zip("qkv", (query, key, value), ws, biases, strict=True)
        return tuple(linear(call.part(f"in_{n}"), x, w, b) for n, x, w, b in xs)

    def _extended(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Keys and values ``[N, S, E]`` with those that everybody may attend to, and how many."""
        beyond = 0
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(len(k), -1, -1)], 1)
            v = torch.cat([v, self.bias_v.expand(len(v), -1, -1)], 1)
            beyond += 1
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
            beyond += 1
        return k, v, beyond

    def _mask(
        self,
        q: torch.Tensor,
        attn_mask: torch.Tensor | None,
        padding: torch.Tensor | None,
        beyond: int,
    ) -> torch.Tensor | None:
        """Both masks as one that is added to scores ``[N, heads, L, S]``."""
        found = None
        if attn_mask is not None:
            found = _added(attn_mask)
            if found.dim() == 3:
                found = found.reshape(len(q), self.num_heads, *found.shape[1:])
        if padding is not None:
            keys = _added(padding).reshape(len(q), 1, 1, -1)
            found = keys if found is None else found + keys
        return found if found is None else F.pad(found, (0, beyond))


def _added(mask: torch.Tensor) -> torch.Tensor:
    """PyTorch's masks of this layer say where not to attend, or are added."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape).masked_fill(mask, float("-inf"))
