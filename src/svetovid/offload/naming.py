"""Who was wrong, once some answer was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from svetovid.offload import freivalds
from svetovid.offload.field import Field
from svetovid.offload.operands import MaskedOperand
from svetovid.offload.product import Product

if TYPE_CHECKING:
    import numpy as np

    from svetovid.offload.protocols.scheme import Scheme

    Integers = np.ndarray[tuple[int, ...], np.dtype[np.int32]]

__all__ = ["on_one_line", "wrong_places"]


def on_one_line(scheme: Scheme, answers: Mapping[int, Integers], p: int) -> bool:
    """Whether one polynomial goes through all answers; where none does, one of them is wrong, and
    this does not say which."""
    import numpy as np

    total = np.zeros(next(iter(answers.values())).size, np.int64)
    for place, answer in answers.items():
        total += answer.astype(np.int64) * scheme.parity[place]
    return not (total % p).any()


def wrong_places(
    scheme: Scheme,
    product: Product,
    operands: tuple[MaskedOperand, MaskedOperand],
    answers: Mapping[int, Integers],
    parts: int,
    field: Field,
) -> list[int]:
    """Whose answers are wrong: Freivalds' check of each worker's own work, on its own points.

    Args:
        product: of one block.
        answers: by place; each is copied before it is looked at.
    """
    import numpy as np

    places, (a, b) = [], operands
    for place, answer in answers.items():
        terms = [
            (sign, a.points(scheme, left, field.p), b.points(scheme, right, field.p))
            for sign, left, right in scheme.workers[place].terms
        ]
        kept = np.array(answer).reshape(parts, -1)
        fits = bool(((kept >= 0) & (kept < field.p)).all())
        if not fits or not freivalds.holds(product, terms, kept, parts, field):
            places.append(place)
    return places
