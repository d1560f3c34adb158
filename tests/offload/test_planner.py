"""What a plan counts, and what it sends."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from svetovid.offload import planner
from svetovid.offload.layers import Attention
from svetovid.offload.planner import Rates, costs, measure_rates, plan
from svetovid.offload.product import Product
from svetovid.offload.protecting import protect

FREE = Rates(share=1e30, combine=1e30, check=1e30, product_s=0.0)
DEAR = Rates(share=1e-3, combine=1e30, check=1e30, product_s=0.0)


def test_rates_are_those_of_this_machine() -> None:
    rates = measure_rates(elements=1 << 14)
    assert min(vars(rates).values()) > 0


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
    )


def test_a_layer_costs_what_its_products_touch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "_seconds", lambda *_: 0.0)
    x = torch.randn(2, 3, 6, 6)  # asks for no gradient: neither does the first layer
    conv, linear = costs(net(), x, Rates(share=1.0, combine=1e3, check=1e6, product_s=1e9))
    assert (conv.name, linear.name) == ("0", "3")
    ins, w, out = 2 * 3 * 36, 8 * 3 * 9, 2 * 8 * 36
    shared, combined, checked = ins + w + out, out + w, 2 * (ins + w + out)
    assert conv.masked_s == pytest.approx(shared + combined / 1e3 + checked / 1e6 + 2e9)
    assert conv.macs == 2 * out * 27
    ins, w, out = 2 * 288, 5 * 288, 10
    combined, checked = out + ins + w, 3 * (ins + w + out)
    wanted = (ins + w + out) + combined / 1e3 + checked / 1e6 + 3e9
    assert linear.masked_s == pytest.approx(wanted)
    assert linear.macs == 3 * out * 288


def test_what_is_cheaper_is_sent_and_its_names_protect_a_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = (nn.Conv2d, nn.Linear)
    monkeypatch.setattr(planner, "_seconds", lambda layer, *_: float(type(layer) in plain))
    x = torch.randn(16, 3, 6, 6)
    assert plan(costs(net(), x, DEAR)) == set()
    assert plan(costs(net(), x, FREE)) == {"0", "3"}
    protect(net(), planner._Counter(), {"0", "3"})


def test_what_a_layer_does_beside_its_products_stays_inside() -> None:
    """A softmax over every pair of tokens is not sent with the products around it."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = Attention()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.attention(x, x, x)
            return found

    x = torch.randn(4, 256, 8, requires_grad=True)
    (cost,) = costs(Net(), x, FREE)
    assert cost.masked_s > 1e-5


def test_what_cannot_be_sent_stays_inside_and_costs_nobody_the_plan() -> None:
    """A gradient's sum over 90,000 positions is too long for the field; an LSTM has no form."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(90_000, 2))
    large = costs(model, torch.randn(1, 1, 300, 300), FREE)
    assert math.isinf(large[0].masked_s)
    assert "0" not in plan(large)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.out = nn.LSTM(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.out(self.lstm(x)[0])
            return found

    assert [cost.name for cost in costs(Net(), torch.randn(3, 4), FREE)] == ["out"]


def test_a_product_is_counted_as_it_is_cut() -> None:
    counter = planner._Counter()
    a, b = (counter.operand(f"layer/{n}", torch.zeros(65_536)) for n in "xw")
    counter.multiply(Product("matmul", (1, 1, 65_536), (1, 65_536, 1), (1, 1, 1)), a, b)
    assert counter.layers["layer"].products == 2
