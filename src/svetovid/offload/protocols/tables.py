"""The protocols that there are.

``CODED`` is the Shamir sharing of degree 1 of ``docs/spec/masked.md``: the line through (0, q) and
(1, s), of which worker i has the point i. ``GOTEN_PUBLISHED`` is the protocol of Ng, Chow et al.,
*Goten: GPU-Outsourcing Trusted Execution of Neural Network Training* (AAAI 2021), with one trusted
side in the place of its two enclaves; ``GOTEN`` masks a tensor once a step and saves a product.

``PACKED`` shares two blocks of the batch at once, by ``q0 (1 - x) + q1 x + m x (x - 1)``: q0 at 0,
q1 at 1, and at infinity, where the leading coefficient alone counts, the mask. The workers have it
at infinity, 2, -1, 1/2 and 3, that of 1/2 four times as large, so that all coefficients are whole
and small. Products of two such points are points of a polynomial of degree 4, which five of them
determine (Lagrange).
"""

from __future__ import annotations

from fractions import Fraction

from svetovid.offload.protocols.scheme import Scheme, Share, Worker

__all__ = ["CODED", "CODED_CHECKED", "GOTEN", "GOTEN_PUBLISHED", "PACKED", "SCHEMES"]


def _alone(point: str, *coefficients: int | Fraction) -> Worker:
    return Worker((point,), ((1, ((1, point),), ((1, point),)),), coefficients)


_LINE = (Share("2", "1", 2, (-1,)), Share("3", "1", 3, (-2,)))
CODED = Scheme(
    "coded",
    masks=("1",),
    shares=_LINE,
    workers=(_alone("1", 3), _alone("2", -3), _alone("3", 1)),
)
CODED_CHECKED = Scheme(
    "coded-4",
    masks=("1",),
    shares=(*_LINE, Share("4", "1", 4, (-3,))),
    workers=(_alone("1", 3), _alone("2", -3), _alone("3", 1), _alone("4", 0)),
    parity=(-1, 3, -3, 1),
)
"""With a fourth worker, whose answer shows that one of the four is wrong."""

PACKED = Scheme(
    "packed",
    masks=("inf",),
    shares=(
        Share("2", "inf", 2, (-1, 2)),
        Share("-1", "inf", 2, (2, -1)),
        Share("1/2", "inf", -1, (2, 2)),
        Share("3", "inf", 6, (-2, 3)),
    ),
    workers=(
        _alone("inf", -3, 2),
        _alone("2", Fraction(-1, 3), Fraction(4, 9)),
        _alone("-1", Fraction(1, 6), Fraction(-1, 18)),
        _alone("1/2", Fraction(1, 15), Fraction(2, 45)),
        _alone("3", Fraction(1, 10), Fraction(-1, 10)),
    ),
)
"""Each of five workers does half of what a worker of ``CODED`` does."""

_E, _0, _1 = (1, "e"), (1, "0"), (1, "1")
_MASKED = (Share("e", "u", -1, (1,)), Share("1", "0", -1, (1,)))
_SECOND = Worker(("1", "e"), ((1, (_1,), (_E,)), (1, (_E,), (_1,))), (1,))
GOTEN = Scheme(
    "goten",
    masks=("u", "0"),
    shares=_MASKED,
    workers=(
        Worker(("0", "e"), ((1, (_0, (-1, "e")), (_E,)), (1, (_E,), (_0,))), (1,)),
        _SECOND,
        _alone("u", 1),
    ),
)
GOTEN_PUBLISHED = Scheme(
    "goten-published",
    masks=("u", "0"),
    shares=_MASKED,
    workers=(
        Worker(("0", "e"), ((1, (_0,), (_E,)), (1, (_E,), (_0,)), (-1, (_E,), (_E,))), (1,)),
        _SECOND,
        _alone("u", 1),
    ),
    per_product=True,
)
SCHEMES = {s.name: s for s in (CODED, CODED_CHECKED, GOTEN, GOTEN_PUBLISHED, PACKED)}
