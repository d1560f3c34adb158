"""Everything that is wrong with a model, at once, each with what to do."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import nn

from offload.layerworld import Watched
from offload.models import models
from svetovid.errors import InputError
from svetovid.offload.layers import Attention, Matmul
from svetovid.offload.protecting import protect
from svetovid.offload.validate import Kind, Plan, Problem, validate

NEVER, LATER, REPLACE = Kind.NEVER, Kind.LATER, Kind.REPLACE


class _Own(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        return super().forward(input) * 2


class _OwnEncoder(nn.TransformerEncoderLayer):
    pass


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda *_: None)
    return layer


def pre_hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_pre_hook(lambda *_: None)
    return layer


def backward_hooked(layer: nn.Module) -> nn.Module:
    layer.register_full_backward_hook(lambda *_: None)
    return layer


def backward_pre_hooked(layer: nn.Module) -> nn.Module:
    layer.register_full_backward_pre_hook(lambda *_: None)
    return layer


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(nn.Linear(3, 3))


def quantised() -> nn.Module:
    from torch.ao.nn.quantized.dynamic import Linear

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Linear(3, 3)  # type: ignore[no-untyped-call]


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Linear(3, 3))


BAD: list[tuple[Callable[[], nn.Module], Kind, str, str]] = [
    (lambda: nn.LazyLinear(3), REPLACE, "lazy", "one batch"),
    (lambda: nn.LazyConv2d(3, 3), REPLACE, "lazy", "one batch"),
    (lambda: nn.Linear(3, 3).half(), REPLACE, "weight is torch.float16", "float()"),
    (lambda: nn.Conv1d(3, 3, 1).double(), REPLACE, "weight is torch.float64", "float()"),
    (lambda: nn.Linear(3, 3, dtype=torch.cfloat), NEVER, "weight is torch.complex64", "two real"),
    (lambda: nn.Linear(3, 3, device="meta"), REPLACE, "weight is on meta", "processor"),
    (lambda: nn.MultiheadAttention(4, 2).half(), REPLACE, "in_proj_weight is", "float()"),
    (
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)),
        REPLACE,
        "parametrised: weight",
        "remove_parametrizations",
    ),
    (
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 3, 1)),
        REPLACE,
        "parametrised: weight",
        "remove_parametrizations",
    ),
    (old_weight_norm, REPLACE, "made by WeightNorm", "remove_weight_norm"),
    (
        lambda: nn.utils.spectral_norm(nn.Linear(3, 3)),
        REPLACE,
        "made by SpectralNorm",
        "remove_spectral_norm",
    ),
    (lambda: hooked(nn.Linear(3, 3)), REPLACE, "a hook sees", "remove it"),
    (lambda: pre_hooked(nn.Linear(3, 3)), REPLACE, "a hook sees", "remove it"),
    (lambda: backward_hooked(nn.Linear(3, 3)), REPLACE, "a hook sees", "remove it"),
    (lambda: backward_pre_hooked(nn.Linear(3, 3)), REPLACE, "a hook sees", "remove it"),
    (lambda: nn.Embedding(3, 3, sparse=True), REPLACE, "rows that it uses", "sparse=False"),
    (lambda: nn.EmbeddingBag(3, 3, sparse=True), REPLACE, "rows that it uses", "sparse=False"),
    (lambda: nn.LSTM(3, 3), LATER, "LSTM has no masked form", "stays inside"),
    (lambda: nn.GRUCell(3, 3), LATER, "GRUCell has no masked form", "stays inside"),
    (lambda: nn.Bilinear(3, 3, 3), LATER, "Bilinear has no masked form", "stays inside"),
    (quantised, NEVER, "quantised already", "float model"),
    (lambda: nn.SyncBatchNorm(3), NEVER, "raw statistics", "BatchNorm"),
    (lambda: nn.DataParallel(nn.Linear(3, 3)), NEVER, "raw tensors", ".module"),
    (scripted, REPLACE, "TorchScript", "made from"),
    (lambda: cast(nn.Module, torch.compile(nn.ReLU())), REPLACE, "compiled", "_orig_mod"),
    (lambda: _Own(3, 3), REPLACE, "_Own is not Linear", "use Linear itself"),
    (
        lambda: _OwnEncoder(4, 2),
        REPLACE,
        "_OwnEncoder is not TransformerEncoderLayer",
        "use TransformerEncoderLayer itself",
    ),
]


@pytest.mark.parametrize(("make", "kind", "what", "fix"), BAD)
def test_each_problem_is_found_and_has_a_fix(
    make: Callable[[], nn.Module], kind: Kind, what: str, fix: str
) -> None:
    model = nn.Sequential(nn.Linear(3, 3), make())
    found = [p for p in validate(model) if what in p.what]
    assert found, validate(model)
    assert found[0].module.startswith("1")
    assert found[0].kind is kind
    assert fix in found[0].fix


def test_all_problems_are_listed_in_one_go() -> None:
    model = nn.ModuleDict({f"part{i}": make() for i, (make, *_) in enumerate(BAD)})
    with pytest.raises(InputError) as said:
        protect(model, Watched())
    assert said.value.code == "offload.model"
    reasons = said.value.reasons
    for i, (_, kind, what, fix) in enumerate(BAD):
        code = {NEVER: "offload.never", LATER: "offload.later", REPLACE: "offload.replace"}[kind]
        assert any(
            r.code == code
            and r.clause.split(".")[0] == f"part{i}"
            and what in r.observed
            and fix in r.next_step
            for r in reasons
        ), i
    assert [r.clause for r in reasons][:3] == ["part0", "part1", "part2"]


def test_each_tensor_of_a_wrong_kind_is_named_once() -> None:
    found = validate(nn.Sequential(nn.Linear(3, 3).half()))
    assert [(p.module, p.what) for p in found] == [
        ("0", "weight is torch.float16"),
        ("0", "bias is torch.float16"),
    ]


def test_autocast_is_a_problem_of_the_model() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert [(p.module, p.what) for p in validate(nn.Linear(3, 3))] == [("", "autocast is on")]
    assert validate(nn.Linear(3, 3)) == []


GOOD = [
    lambda: models.VGG11(width=2),
    lambda: models.ResNet18(width=2),
    lambda: models.GPT(5, 4, 4, 2, 1),
    lambda: nn.Transformer(8, 2, 1, 1, 8, batch_first=True),
    lambda: nn.Sequential(nn.Conv3d(1, 1, 1), nn.ConvTranspose1d(1, 1, 1), Matmul(), Attention()),
    lambda: nn.Sequential(nn.Embedding(3, 3), nn.LayerNorm(3), nn.Dropout(), nn.GELU()),
]


@pytest.mark.parametrize("make", GOOD)
def test_good_models_have_none_protected_or_not(make: Callable[[], nn.Module]) -> None:
    model = make()
    assert validate(model) == []
    assert validate(protect(model, Watched())) == []


def test_what_a_plan_leaves_inside_is_no_problem() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 3), _Own(3, 3), nn.Linear(3, 3).double())
    assert {p.module for p in validate(model)} == {"1", "2", "3"}
    assert validate(model, {"0"}) == []
    assert validate(model, {"0": True, "1": False}) == []
    assert [p.module for p in validate(model, {"0", "3"})] == ["3", "3"]
    sync = nn.Sequential(nn.Linear(3, 3), nn.SyncBatchNorm(3))
    assert [p.module for p in validate(sync, {"0"})] == ["1"]


@pytest.mark.parametrize("plan", [{"1"}, {"1": True}, ["1"]])
def test_a_plan_that_asks_for_what_there_is_not(plan: Plan) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    assert [(p.module, p.kind) for p in validate(model, plan)] == [("1", LATER)]


def test_a_plan_names_modules_that_are_there() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    assert validate(model, {"0", "fc"}) == [
        Problem("fc", REPLACE, "no such module", "take names from model.named_modules()")
    ]
    assert [p.module for p in validate(model, {"fc": False})] == ["fc"]


def test_a_part_of_attention_is_not_a_layer() -> None:
    (found,) = validate(nn.Sequential(nn.MultiheadAttention(4, 2)), {"0.out_proj"})
    assert found.module == "0.out_proj"


def test_a_container_is_not_a_layer() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(4, 2))
    (found,) = validate(model, {"0"})
    assert found.kind is LATER
    assert "name the layers in it" in found.fix
    assert validate(model, {"0.self_attn", "0.linear1"}) == []
