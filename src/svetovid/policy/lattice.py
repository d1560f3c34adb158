"""What a condition can come to: evaluated over a finite set of representative values.

For each field it reads: all values, where the field has few; else the literals of the expression,
values around them, and one that stands in no expression.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from svetovid.offload.protocols import SCHEMES
from svetovid.policy.cel_subset import Expression, Path
from svetovid.policy.conditions import CLAIM_FIELDS, JOB_FIELDS, OFFLOAD_FIELDS, evaluate
from svetovid.policy.documents import Policy

__all__ = ["Outcomes", "enumerable", "outcomes"]

_MAX_POINTS = 2048
_OTHER = "(any other)"
_ABSENT = object()
_MODES = ("attested", "enclave", "masked", "permuted", "verified")


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What was seen over the points.

    Attributes:
        can_be_true: at some point that the policy admits.
        can_be_false: at some point at all.
        exhaustive: the points are all there are.
    """

    can_be_true: bool
    can_be_false: bool
    exhaustive: bool


def _finite(path: Path, policy: Policy) -> tuple[list[Any], list[Any]] | None:
    """All values of a field, and those this policy lets through before it asks its conditions."""
    accepted = policy.accepts if policy.profile == "test" else ()
    if path == ("claims", "affirmed"):
        return [False, True], [True]
    if path == ("claims", "simulated"):
        return [False, True], [False, True] if "simulated" in accepted else [False]
    if path == ("claims", "kind"):
        return ["tpm", "simulated-tee"], ["tpm", "simulated-tee"]
    if path == ("claims", "measurement"):
        strong = ["kernel", "enclave"]
        return [*strong, "launcher"], [*strong, *(["launcher"] if "launcher" in accepted else [])]
    if path == ("job", "mode"):
        return list(_MODES), list(_MODES)
    if path == ("job", "offload", "protocol"):
        return sorted(SCHEMES), sorted(SCHEMES)
    return None


def _values(path: Path, expression: Expression) -> list[Any]:
    kind = (CLAIM_FIELDS if path[0] == "claims" else JOB_FIELDS).get(path[1])
    if path[:2] == ("job", "offload") and len(path) == 3:
        kind = OFFLOAD_FIELDS.get(path[2])
    texts = sorted({x for x in expression.literals if isinstance(x, str)})
    near: list[Any] = sorted({x for x in expression.literals if type(x) in (int, float)}, key=float)
    numbers: list[Any] = [0, 1, *(s * x + d for x in near for s in (1, -1) for d in (-1, 0, 1))]
    strings: list[Any] = [_OTHER, *texts, *(a + b for a in texts for b in texts)][:64]
    if kind is int:
        return [n for n in dict.fromkeys(numbers) if isinstance(n, int)]
    if kind is str:
        return strings
    if kind is list:
        return [[], [_OTHER], *([t] for t in texts), texts, [*texts, _OTHER]]
    if path[1] == "limits" and len(path) == 3:
        return list(dict.fromkeys(numbers))
    if len(path) > 2:
        # JSON's true and 1 are different values, and equal in Python: no dict.fromkeys here.
        return [*dict.fromkeys(numbers), *strings, True, False]
    return [{}, *({t: 1} for t in texts), {_OTHER: 1}]


def _put(view: dict[str, Any], path: Path, value: Any) -> None:
    for part in path[:-1]:
        inner = view.get(part)
        if not isinstance(inner, dict):
            inner = view[part] = {}
        view = inner
    view[path[-1]] = value


def enumerable(expression: Expression, policy: Policy) -> bool:
    """Whether all values of all its fields can be tried: only then is "never" an error."""
    return all(_finite(p, policy) is not None for p in expression.paths | expression.tested)


def outcomes(expression: Expression, policy: Policy) -> Outcomes:
    """Evaluate ``expression`` over its representative values; at most 2048 points."""
    paths = sorted(expression.paths | expression.tested)
    exhaustive = True
    axes: list[list[tuple[Any, bool]]] = []
    for path in paths:
        finite = _finite(path, policy)
        exhaustive = exhaustive and finite is not None
        every, admitted = finite or (values := _values(path, expression), values)
        axis = [(v, v in admitted) for v in every]
        if len(path) > 2 and (path in expression.tested or path[1] == "offload"):
            axis.append((_ABSENT, True))
        axes.append(axis)
    can_be_true = can_be_false = False
    points = itertools.product(*axes)
    for point in itertools.islice(points, _MAX_POINTS):
        view: dict[str, Any] = {"claims": {}, "job": {}}
        for path, (value, _) in zip(paths, point, strict=True):
            if value is not _ABSENT:
                _put(view, path, value)
        ok = evaluate(expression.source, view["claims"], view["job"]).ok
        can_be_true |= ok and all(admitted for _, admitted in point)
        can_be_false |= not ok
        if can_be_true and can_be_false:
            break
    return Outcomes(can_be_true, can_be_false, exhaustive and next(points, None) is None)
