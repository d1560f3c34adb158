"""Conditions: CEL over exactly two variables, ``claims`` and ``job``; only ``true`` is a yes.

The expression is parsed by :mod:`svetovid.policy.cel_subset` first, which bounds its cost (attack
V10), and then evaluated by a CEL engine, which is given what the expression reads and no more. An
error, a missing field, a number, a null: a no (V9).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from svetovid.crypto.identity import Card
from svetovid.dtypes import ITEM_BYTES
from svetovid.errors import InputError
from svetovid.policy.cel_subset import Expression, Path, parse
from svetovid.policy.documents import Job
from svetovid.policy.offload import Offload, collusion_bound
from svetovid.policy.outputs import OutputSpec

__all__ = [
    "CLAIM_FIELDS",
    "JOB_FIELDS",
    "OFFLOAD_FIELDS",
    "Outcome",
    "evaluate",
    "job_view",
    "output_bytes",
    "work",
]

CLAIM_FIELDS: Mapping[str, type] = {
    "affirmed": bool,
    "anchor": str,
    "host": str,
    "host_name": str,
    "kind": str,
    "log_entries": int,
    "machine_owner": str,
    "measurement": str,
    "operator": str,
    "reset_count": int,
    "restart_count": int,
    "secure_boot": bool,
    "simulated": bool,
    "unchecked_files": int,
}
"""What an appraisal says about a host: name and type of each field of ``claims``."""

JOB_FIELDS: Mapping[str, type] = {
    "arguments": list,
    "assets": dict,
    "code": str,
    "devices": list,
    "entry": str,
    "environment": str,
    "limits": dict,
    "managers": list,
    "metrics": dict,
    "mode": str,
    "name": str,
    "offload": dict,
    "outputs": dict,
    "owners": list,
    "parameters": dict,
    "proposer": str,
    "recipients": list,
    "seed": int,
}
"""What a condition can read of a job."""

OFFLOAD_FIELDS: Mapping[str, type] = {
    "collusion_bound": int,
    "operators": list,
    "protocol": str,
    "workers": int,
}
"""What ``job.offload`` holds in masked mode; it is empty in every other."""

MAX_READ_BYTES = 32 << 10
"""Of all the fields that one condition reads, as JSON."""
_COLLECTION_WORK = 128
_SEEN = 400


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one condition.

    Attributes:
        ok: the result was exactly ``true``.
        code: empty, ``policy.condition`` (it said no) or ``policy.error`` (it could not say).
        observed: the fields it read, with their values, or the error.
    """

    ok: bool
    code: str = ""
    observed: str = ""


def output_bytes(spec: OutputSpec) -> int:
    """Bytes of tensor data in one output of this form."""
    return sum(math.prod(t.shape) * ITEM_BYTES[t.dtype] for t in spec.tensors.values())


def job_view(job: Job) -> dict[str, Any]:
    """The job as conditions see it: plain JSON values, outputs summed up.

    Raises:
        IntegrityError: ``signature.*`` where a recipient's card does not hold.
    """
    return {
        "arguments": list(job.arguments),
        "assets": {name: a.to_json() for name, a in job.assets.items()},
        "code": job.code.manifest,
        "devices": list(job.devices),
        "entry": job.entry,
        "environment": job.environment,
        "limits": job.limits.to_json(),
        "managers": sorted(job.managers),
        "metrics": {name: m.to_json() for name, m in job.metrics.items()},
        "mode": job.mode,
        "name": job.name,
        "offload": _offload_view(job.offload) if job.offload else {},
        "outputs": {
            name: {"bytes": output_bytes(o), "tensors": len(o.tensors)}
            for name, o in job.outputs.items()
        },
        "owners": sorted(job.owners),
        "parameters": dict(job.parameters),
        "proposer": job.proposer,
        "recipients": sorted(Card.open(r.card).signing for r in job.recipients),
        "seed": job.seed,
    }


def _offload_view(offload: Offload) -> dict[str, Any]:
    return {
        "collusion_bound": collusion_bound(offload),
        "operators": list(offload.operators),
        "protocol": offload.protocol,
        "workers": len(offload.workers),
    }


_MISSING = object()


def _at(path: Path, view: Mapping[str, Any]) -> Any:
    value: Any = view
    for part in path:
        if not isinstance(value, Mapping) or part not in value:
            return _MISSING
        value = value[part]
    return value


def _read(expression: Expression, view: Mapping[str, Any]) -> dict[str, Any]:
    """Of ``view``, what ``expression`` reads or asks for: the engine copies all it is given."""
    out: dict[str, Any] = {}
    whole: set[Path] = set()
    for path in sorted(expression.paths | expression.tested):  # a whole before its parts
        if any(path[:n] in whole for n in range(1, len(path))):
            continue
        whole.add(path)
        value, into = view, out
        for part in path[:-1]:
            if not isinstance(inner := value.get(part), Mapping):
                if part in value:
                    into[part] = inner
                break
            value, into = inner, into.setdefault(part, {})
        else:
            if path[-1] in value:
                into[path[-1]] = value[path[-1]]
    return out


def work(source: str) -> int:
    """What a condition takes at the most, in characters of one that reads no list or map.

    Reading and evaluating take time with its length; each whole list or map of the job that it
    reads counts as 128 characters more.

    Raises:
        InputError: as :func:`svetovid.policy.cel_subset.parse`.
    """
    expression = _parsed(source)
    collections = [
        p
        for p in expression.paths | expression.tested
        if (p[0] == "job" and len(p) == 2 and JOB_FIELDS.get(p[1]) in (list, dict))
        or p == ("job", "offload", "operators")
    ]
    return len(source) + _COLLECTION_WORK * len(collections)


def _seen(expression: Expression, view: Mapping[str, Any]) -> str:
    told = ", ".join(
        f"{'.'.join(path)} = {_at(path, view)!r}" for path in sorted(expression.paths)[:8]
    )
    return told[:_SEEN]


@lru_cache(maxsize=1024)
def _parsed(source: str) -> Expression:
    return parse(source)


@lru_cache(maxsize=1024)
def _compiled(source: str) -> Any:
    _parsed(source)
    import cel  # brings a command line of its own along: only who has conditions waits for it

    return cel.compile(source)


def evaluate(source: str, claims: Mapping[str, Any], job: Mapping[str, Any]) -> Outcome:
    """Evaluate one condition; never raises on account of the condition or the values.

    A field that is read outside ``has()`` must be there, even where CEL's logic would do without
    it: ``claims.gpu == 1 || true`` is a no on a host without that claim (V9, V11).

    Args:
        source: CEL, in the subset of ``docs/spec/policy.md``.
        claims: the appraisal's facts.
        job: from :func:`job_view`.
    """
    view = {"claims": claims, "job": job}
    try:
        expression = _parsed(source)
        read = {"claims": {}, "job": {}} | _read(expression, view)
        if len(json.dumps(read, allow_nan=False)) > MAX_READ_BYTES:
            return Outcome(False, "policy.error", f"it reads more than {MAX_READ_BYTES} bytes")
        for path in sorted(expression.paths):
            if _at(path, view) is _MISSING:
                return Outcome(False, "policy.error", f"{'.'.join(path)} is missing")
        result = _compiled(source).execute(read)
    except InputError as e:
        return Outcome(False, "policy.error", str(e))
    except BaseException as e:
        if isinstance(e, Exception) or type(e).__name__ == "PanicException":
            return Outcome(False, "policy.error", f"{type(e).__name__}: {e}"[:200])
        raise
    seen = _seen(expression, view)
    if result is True:
        return Outcome(True, observed=seen)
    if result is False:
        return Outcome(False, "policy.condition", seen)
    return Outcome(False, "policy.error", f"{type(result).__name__} instead of true or false")
