"""Ordinary models, protected: their layers ask a multiplier for their products.

::

    protect(model, multiplier)           # in place
    multiplier.begin(step)
    loss(model(x), y).backward()
    multiplier.end()
    optimizer.step()

A protected model has the parameters, buffers, names and settings that it had: optimisers keep their
hold of it, tied weights stay tied, and its state dict is that of the plain model.
"""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from svetovid.errors import InputError, Reason
from svetovid.offload.layers import Around, Masked, Seam, masked_form, plain_form
from svetovid.offload.multiplier import Multiplier
from svetovid.offload.validate import Kind, Plan, Problem, chosen, validate

__all__ = ["protect", "unprotect"]

_Model = TypeVar("_Model", bound=nn.Module)
_CODES = {
    Kind.NEVER: "offload.never",
    Kind.LATER: "offload.later",
    Kind.REPLACE: "offload.replace",
}


def protect(model: _Model, multiplier: Multiplier[Any], plan: Plan = None) -> _Model:
    """Replace layers by their masked forms, in place.

    Args:
        model: of float32, on the processor; one that is protected is protected anew.
        multiplier: whom the layers, and those of deep copies, ask. When a step begins and ends is
            up to who made it.
        plan: which layers, by name; all that have a masked form where it is None.

    Returns:
        The same model.

    Raises:
        InputError: ``offload.model``, with a reason for every problem: ``offload.never``,
            ``offload.later`` or ``offload.replace``. Nothing was replaced then.
    """
    if problems := validate(model, plan):
        raise _refused(problems)
    unprotect(model)
    seam = Seam(multiplier)
    forms = {module: masked_form(module) for module in model.modules()}
    layers = {m for m in chosen(model, plan) if (form := forms[m]) and not issubclass(form, Around)}
    for name, module in model.named_modules():
        form = forms[module]
        holds = form and issubclass(form, Around) and not layers.isdisjoint(module.modules())
        if form and (module in layers or holds):
            module.__class__ = form
            module._seam, module._layer = seam, name
    return model


def unprotect(model: _Model) -> _Model:
    """Give every layer of a model back its plain class, in place."""
    for module in model.modules():
        if isinstance(module, Masked):
            module.__class__ = plain_form(module)  # type: ignore[assignment]
            del module._seam, module._layer
    return model


def _refused(problems: list[Problem]) -> InputError:
    reasons = [
        Reason(
            code=_CODES[problem.kind],
            observed=problem.what,
            next_step=problem.fix,
            clause=problem.module or "the model itself",
        )
        for problem in problems
    ]
    return InputError(
        "offload.model",
        expected="a model whose layers can be protected",
        observed="; ".join(f"{r.clause}: {r.observed}" for r in reasons),
        next_step="; ".join(dict.fromkeys(r.next_step for r in reasons)),
        reasons=reasons,
    )
