"""Attention: as PyTorch's, but for what quantising does; its products exactly those asked for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812

from offload.layerworld import Watched
from svetovid.errors import InputError
from svetovid.offload.layers import Around, Attention
from svetovid.offload.protecting import protect

SMALL = st.integers(1, 4)


def near(found: torch.Tensor | None, wanted: torch.Tensor | None, share: float) -> None:
    assert found is not None
    assert wanted is not None
    assert found.shape == wanted.shape
    assert (found - wanted).norm() <= share * wanted.norm() + 1e-6


@st.composite
def settings_of(draw: st.DrawFn) -> dict[str, Any]:
    length, source, inner, outer = (draw(SMALL) for _ in range(4))
    lead = draw(st.lists(st.integers(1, 3), max_size=2))
    kind = draw(st.sampled_from(["none", "causal", "bool", "float", "rows", "float rows"]))
    scale = draw(st.sampled_from([None, 0.3, 2.0]))
    return {
        "q": [*lead, length, inner],
        "k": [*lead, source, inner],
        "v": [*lead, source, outer],
        "kind": kind,
        "scale": scale,
    }


def mask_of(kind: str, shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor | None:
    if kind in ("none", "causal"):
        return None
    allowed = torch.rand(shape, generator=generator) < 0.7
    if kind.endswith("rows"):
        allowed[0] = False  # this one attends nowhere
    if kind == "bool":
        allowed[:, 0] = True
    if kind.startswith("float"):
        added = torch.randn(shape, generator=generator)
        return added if kind == "float" else added.masked_fill(~allowed, -math.inf)
    return allowed


@settings(max_examples=60)
@given(drawn=settings_of(), seed=st.integers(0, 2**32 - 1))
def test_attention_is_that_of_pytorch(drawn: dict[str, Any], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    plain = Attention(causal=drawn["kind"] == "causal", scale=drawn["scale"])
    q, k, v = (torch.randn(drawn[n], generator=generator, requires_grad=True) for n in "qkv")
    others = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    mask = mask_of(drawn["kind"], (q.shape[-2], k.shape[-2]), generator)
    wanted = plain(*others, mask)
    dy = torch.randn(wanted.shape, generator=generator)
    wanted.backward(dy)
    multiplier = Watched()
    found = protect(Attention(causal=plain.causal, scale=plain.scale), multiplier)(q, k, v, mask)
    found.backward(dy)
    near(found, wanted, 0.15)
    assert v.grad is not None
    near(v.grad, others[2].grad, 0.15)
    size = max(x.grad.norm() for x in others if x.grad is not None)
    for x, other in zip((q, k), others, strict=False):
        assert x.grad is not None
        assert other.grad is not None
        assert (x.grad - other.grad).norm() <= 0.15 * size
    assert len(multiplier.asked) == 6


def test_each_product_is_that_of_the_quantised_tensors() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 4, requires_grad=True) for _ in range(3))
    multiplier = Watched()
    protect(Attention(), multiplier)(q, k, v).sum().backward()
    of = {name[1:]: multiplier.dequantised(name) for name in multiplier.operands}
    assert set(of) == {"q", "k", "v", "weights", "dscores", "dy"}
    scores = of["q"] @ of["k"].mT / 2
    assert (of["weights"] - scores.softmax(-1)).abs().max() < 2 / 128
    dy = of["dy"].reshape(v.shape)
    dscores = of["dscores"].reshape(scores.shape)
    for x, wanted in (
        (v, of["weights"].mT @ dy),
        (q, dscores @ of["k"]),
        (k, dscores.mT @ of["q"]),
    ):
        near(x.grad, wanted, 1e-6)


def test_dropout_is_drawn_inside() -> None:
    q = torch.randn(4, 16, 8)
    layer = protect(Attention(dropout=0.5), multiplier := Watched())
    layer(q, q, q)
    dropped = multiplier.dequantised("/weights") == 0
    assert 0.3 < dropped.float().mean() < 0.7
    layer.eval()(q, q, q)
    assert (multiplier.dequantised("#1/weights") != 0).float().mean() > 0.85


def test_causal_attention_sees_nothing_later() -> None:
    q = torch.randn(2, 6, 4)
    protect(Attention(causal=True), multiplier := Watched())(q, q, q)
    assert (multiplier.dequantised("/weights").triu(1) == 0).all()


def test_a_mask_and_causal_attention_are_one_too_many() -> None:
    q = torch.randn(2, 6, 4)
    with pytest.raises(InputError) as said:
        protect(Attention(causal=True), Watched())(q, q, q, torch.ones(6, 6, dtype=torch.bool))
    assert said.value.code == "offload.mask"


HEADS = [
    {},
    {"batch_first": True},
    {"bias": False},
    {"kdim": 6, "vdim": 10},
    {"add_bias_kv": True, "add_zero_attn": True},
]


@pytest.mark.parametrize("how", HEADS)
@pytest.mark.parametrize("masks", ["none", "padding", "both", "causal"])
def test_many_heads_are_those_of_pytorch(how: dict[str, Any], masks: str) -> None:
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(8, 2, **how)
    other = nn.MultiheadAttention(8, 2, **how)
    other.load_state_dict(plain.state_dict())
    masked = protect(other, Watched())
    q = torch.randn(3, 5, 8)
    k = torch.randn(3, 4, how.get("kdim", 8))
    v = torch.randn(3, 4, how.get("vdim", 8))
    if not how.get("batch_first"):
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    ins, others = ([x.clone().requires_grad_() for x in (q, k, v)] for _ in range(2))
    said: dict[str, Any] = {}
    if masks in ("padding", "both"):
        said["key_padding_mask"] = torch.zeros(3, 4, dtype=torch.bool)
        said["key_padding_mask"][1, 2:] = True
    if masks == "both":
        said["attn_mask"] = torch.randn(6, 5, 4)
        said["key_padding_mask"] = said["key_padding_mask"].float() * -1e4
    if masks == "causal":
        said["attn_mask"] = torch.ones(5, 4, dtype=torch.bool).triu(1)
    found, weights = masked(*ins, **said)
    wanted, other_weights = plain(*others, **said)
    dy = torch.randn_like(wanted)
    found.backward(dy)
    wanted.backward(dy)
    near(found, wanted, 0.1)
    near(weights, other_weights, 0.1)
    pairs = zip(masked.named_parameters(), plain.parameters(), strict=True)
    for (name, p), other_p in pairs:
        if name != "in_proj_bias":
            near(p.grad, other_p.grad, 0.15)
    for x, o in zip(ins, others, strict=True):
        near(x.grad, o.grad, 0.15)
    assert masked(*ins, **said, need_weights=False)[1] is None
    each = masked(*ins, **said, average_attn_weights=False)[1]
    near(each, plain(*others, **said, average_attn_weights=False)[1], 0.1)


def test_a_hint_of_a_mask_needs_the_mask() -> None:
    q = torch.randn(6, 2, 8)
    with pytest.raises(InputError, match=r"offload\.mask"):
        protect(nn.MultiheadAttention(8, 2), Watched())(q, q, q, is_causal=True)


def test_one_tensor_is_projected_at_once() -> None:
    multiplier = Watched()
    layer = protect(nn.MultiheadAttention(8, 2, batch_first=True), multiplier)
    x = torch.randn(2, 5, 8)
    layer(x, x, x)
    assert set(multiplier.operands) == {
        *("/in.x", "/in.w", "/q", "/k", "/weights", "/v", "/out.x", "/out.w")
    }
    layer(x[0], x[0], x[0])


def test_an_encoder_layer_takes_no_way_round() -> None:
    """In eval PyTorch has a fused path that would ask no layer."""
    torch.manual_seed(0)
    plain = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 2
    )
    multiplier = Watched()
    x = torch.randn(3, 5, 8)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[0, 3:] = True
    wanted = plain.train()(x, src_key_padding_mask=padding)
    with torch.no_grad():
        found = protect(plain, multiplier).eval()(x, src_key_padding_mask=padding)
    near(found[~padding], wanted[~padding], 0.1)
    assert len(multiplier.asked) == 2 * 6


@pytest.mark.parametrize("plan", [(), {"layers.0.linear1"}, {"layers.0.self_attn"}])
def test_an_encoder_is_replaced_where_a_layer_in_it_is(plan: set[str]) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    plain = nn.TransformerEncoder(layer, 2)
    model = protect(plain, multiplier := Watched(), plan).eval()
    replaced = {name for name, m in model.named_modules() if isinstance(m, Around)}
    assert replaced == ({"", "layers.0"} if plan else set())
    with torch.no_grad():
        model(torch.randn(3, 5, 8))
    assert {name.rpartition("/")[0] for name in multiplier.operands} == set(plan)


def test_the_scale_is_that_of_the_paper() -> None:
    q = torch.randn(2, 6, 16)
    weights = (q @ q.mT / math.sqrt(16)).softmax(-1)
    protect(Attention(), multiplier := Watched())(q, q, q)
    assert (multiplier.dequantised("/weights") - weights).abs().max() < 0.1
    assert torch.equal(Attention()(q, q, q), F.scaled_dot_product_attention(q, q, q))
