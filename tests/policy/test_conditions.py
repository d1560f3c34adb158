"""Conditions: only true is a yes (V9), cost is bounded (V10), the engine agrees with another."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import cel as engine
import celpy
import pytest
from celpy.adapter import json_to_cel
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.policy_world import CODE, FACTS, RITA, job
from svetovid.errors import InputError, LimitError, ParseError
from svetovid.policy import (
    CLAIM_FIELDS,
    JOB_FIELDS,
    OutputSpec,
    TensorSpec,
    evaluate,
    job_view,
    output_bytes,
    parse_condition,
)

JOB = job_view(job())


def test_the_view_has_the_documented_fields() -> None:
    assert set(JOB) == set(JOB_FIELDS)
    assert set(FACTS) == set(CLAIM_FIELDS)
    for name, kind in JOB_FIELDS.items():
        assert isinstance(JOB[name], kind)
    assert JOB["code"] == CODE
    assert JOB["recipients"] == [RITA.key_id]
    assert JOB["outputs"] == {"model": {"bytes": 24, "tensors": 1}}
    spec = OutputSpec(
        tensors={
            "a": TensorSpec(dtype="bfloat16", shape=()),
            "b": TensorSpec(dtype="int64", shape=(2, 0)),
        }
    )
    assert output_bytes(spec) == 2


@pytest.mark.parametrize(
    "cel",
    [
        'claims.measurement == "kernel"',
        "!claims.simulated && claims.log_entries >= 100",
        'job.mode == "attested" || claims.log_entries > 10000',
        'job.parameters["epochs"] <= 10 && job.parameters.epochs > 0',
        'claims.kind in ["tpm", "snp"]',
        "size(job.arguments) == 0 && job.devices.size() == 0",
        "job.outputs.model.bytes < 25",
        'job.recipients.all(r, r.startsWith("ed25519:"))',
        "job.proposer in job.owners && job.owners.exists(o, o in ['x'] || o != 'y')",
        "!has(job.offload.protocol) && has(job.parameters) && !has(job.limits.none)",
        "job.managers.exists_one(m, true)",
        'claims.machine_owner.contains("Opal") && claims.host_name.endsWith("1")',
        "has(claims.host) && !has(claims.gpu)",
        "(claims.log_entries > 5 ? 1 : 2) == 1",
        "int(2.0) + 1 == 3 && double(1) < 1.5 && -1 < 0 && 7 % 2 == 1 && 6 / 2 * 1 == 3",
        "claims.affirmed",
        "true",
        "null == null",
    ],
)
def test_true(cel: str) -> None:
    assert evaluate(cel, FACTS, JOB).ok


@pytest.mark.parametrize("cel", ["claims.simulated", "1 == 2", 'claims.simulated == "false"'])
def test_false(cel: str) -> None:
    outcome = evaluate(cel, FACTS, JOB)
    assert (outcome.ok, outcome.code) == (False, "policy.condition")


@pytest.mark.parametrize(
    "cel",
    [
        "1",
        "claims.log_entries",
        '"true"',
        "null",
        "[true]",
        "1 / 0 == 0",
        "1 + true == 2",
        "9007199254740991 * 9007199254740991 > 0",
        "claims.nosuch == 1",
        "claims.nosuch == 1 || true",
        "false && claims.nosuch",
        "job.parameters.nosuch == 1 || true",
        "claims.host.deeper || true",
        "job.arguments[0] == 'x'",
        "int('x') == 1",
        "has(claims.gpu)  && claims.gpu == 1",
    ],
)
def test_no_yes_is_a_no(cel: str) -> None:
    """V9, V11."""
    outcome = evaluate(cel, FACTS, JOB)
    assert not outcome.ok
    assert outcome.code == "policy.error"
    assert outcome.observed


OUTSIDE = [
    "",
    "claims",
    'claims["host"] == "x"',
    "claims == claims",
    "size(claims) > 0",
    "x == 1",
    "claims.host.matches('(a+)+$')",
    "[1].map(x, x).size() == 1",
    "[1].filter(x, true).size() == 1",
    "[1].all(x, [2].all(y, true))",
    "[1].all(claims, true)",
    "[1].all(size, true)",
    "[1].all(x.y, true)",
    "[1].all(x)",
    "[1].all(x, true, true)",
    "timestamp('2026-01-01T00:00:00Z') == null",
    "type(1) == int",
    "size() == 1",
    "size(1, 2) == 1",
    "'a'.size(1) == 1",
    "'a'.contains() == true",
    "has(claims)",
    "has(x.y)",
    "has(claims.host.size())",
    "has(1)",
    'r"x" == "x"',
    'b"x" == b"x"',
    '"""x""" == "x"',
    '"\\u0061" == "a"',
    "'a' == 'a",
    "1u == 1",
    "0x1f == 31",
    "1_0 == 10",
    "9007199254740992 == 1",
    "1e400 > 1.0",
    "true // comment",
    "claims.host;",
    "{1: 2}[1] == 2",
    "true true",
    "true &&",
    "(true",
    "[1, == 1",
    "!!true",
    "--1 == 1",
    "claims.in == 1",
    "claims. == 1",
    "claims.h\N{CYRILLIC SMALL LETTER O}st == 1",
    "`a` == 1",
    "@",
    "a\N{NO-BREAK SPACE}b",
]


@pytest.mark.parametrize("cel", OUTSIDE)
def test_outside_the_subset(cel: str) -> None:
    with pytest.raises(ParseError, match=r"policy\.cel"):
        parse_condition(cel)
    assert evaluate(cel, FACTS, JOB).code == "policy.error"


@pytest.mark.parametrize(
    "cel",
    [
        "(" * 100_000,
        "[" * 100_000,
        "!" * 100_000,
        "(" * 500 + "1" + ")" * 500,
        "[" * 400,
        "size(" * 100 + "'a'" + ")" * 100,
        "true?" * 150,
        "-" * 900 + "1",
        "'a'" + "[0" * 100,
    ],
)
def test_bombs_never_reach_the_engine(cel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """V10: 10^5 parentheses are refused before the engine sees them."""

    def never(_: str) -> None:
        raise AssertionError("the engine was asked")

    monkeypatch.setattr(engine, "compile", never)
    with pytest.raises(InputError):
        parse_condition(cel)
    assert evaluate(cel, FACTS, JOB).code == "policy.error"


def test_bounds_have_their_codes() -> None:
    with pytest.raises(LimitError, match=r"limit\.size"):
        parse_condition("1" * 1025)
    with pytest.raises(LimitError, match=r"limit\.depth"):
        parse_condition("(" * 17 + "1" + ")" * 17)
    parse_condition("(" * 15 + "1" + ")" * 15)


@pytest.mark.parametrize(
    "cel",
    [
        "job.parameters.all(y, job.parameters.p0 == y)",
        "job.arguments.all(x, has(job.metrics.x))",
        "job.arguments.all(x, claims.secure_boot)",
        "job.arguments.all(x, size(x + x) > 1)",
        "[1, 2].all(x, x * 2 > 1)",
        "(job.arguments + job.arguments).all(x, true)",
        "[job.parameters, job.metrics].all(x, x == x)",
        "[1, 2][0].all(x, true)",
        "job.arguments.all(x, " + " && ".join(["x == 'y'"] * 33) + ")",
        " && ".join(["job.arguments.all(x, x == 'y' || x == 'z' || x == 'a')"] * 12),
    ],
)
def test_a_loop_compares_its_variable_with_literals_and_no_more(cel: str) -> None:
    """V10: anything else could take time with the product of what it reads."""
    with pytest.raises(ParseError, match=r"policy\.cel_loop"):
        parse_condition(cel)
    assert evaluate(cel, FACTS, JOB).code == "policy.error"


def test_arithmetic_is_bounded() -> None:
    """Each + of two lists copies both."""
    parse_condition(" + ".join(["job.arguments"] * 17) + " == []")
    with pytest.raises(ParseError, match=r"policy\.cel;"):
        parse_condition(" + ".join(["job.arguments"] * 18) + " == []")


def test_an_expression_is_given_what_it_reads_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[Any] = []

    class Program:
        def execute(self, view: Any) -> bool:
            given.append(view)
            return True

    monkeypatch.setattr(engine, "compile", lambda _: Program())
    cel = (
        "job.parameters.epochs == 7 || 'a' in job.metrics || job.metrics.b == 7 || has(claims.kind)"
    )
    view = JOB | {"metrics": {"a": "b", "b": "c"}}
    assert evaluate(cel, FACTS, view).ok
    read = {"parameters": {"epochs": 3}, "metrics": {"a": "b", "b": "c"}}
    assert given == [{"claims": {"kind": "tpm"}, "job": read}]


def test_the_dearest_condition_ends_quickly() -> None:
    """V10: as many loops as fit, over the longest lists a job may hold."""
    view = JOB | {"arguments": ["x" * 500] * 64}
    loop = 'job.arguments.all(x,x!="y")'
    cel = "&&".join([loop] * (1024 // (len(loop) + 2)))
    start = time.perf_counter()
    assert evaluate(cel, FACTS, view).ok
    assert time.perf_counter() - start < 1


def test_too_many_facts_are_a_no() -> None:
    for anchor in ("x" * (32 << 10), float("nan")):
        facts = FACTS | {"anchor": anchor}
        assert evaluate("claims.anchor != 'y'", facts, JOB).code == "policy.error"
        assert evaluate("claims.kind == 'tpm'", facts, JOB).ok  # it is given what it reads


def test_a_panic_of_the_engine_is_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    def panic(_: str) -> None:
        raise PanicException("index out of bounds")

    monkeypatch.setattr(engine, "compile", panic)
    assert evaluate("1 == 1 && 2 == 2", FACTS, JOB).code == "policy.error"

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "compile", interrupt)
    with pytest.raises(KeyboardInterrupt):
        evaluate("1 == 1 && 3 == 3", FACTS, JOB)


_num = st.integers(0, 9).map(str)
_int = st.deferred(
    lambda: (
        _num
        | st.just("claims.log_entries")
        | st.just("job.parameters.epochs")
        | st.tuples(_int, st.sampled_from("+-*/%"), _int).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
    )
)
_str = st.sampled_from(['"tpm"', "claims.kind", "claims.measurement", "job.mode", "''"])
_bool = st.deferred(
    lambda: (
        st.sampled_from(["true", "false", "claims.simulated", "has(claims.gpu)"])
        | st.tuples(_int, st.sampled_from(["<", "<=", "==", "!=", ">", ">="]), _int).map(" ".join)
        | st.tuples(_str, st.sampled_from(["==", "!=", "<"]), _str).map(" ".join)
        | st.tuples(_str, _str).map(lambda t: f"{t[0]}.startsWith({t[1]})")
        | st.tuples(_str, _str).map(lambda t: f"{t[0]} in [{t[1]}, 'x']")
        | st.tuples(_bool, st.sampled_from(["&&", "||"]), _bool).map(lambda t: f"({' '.join(t)})")
        | _bool.map(lambda b: f"!({b})")
        | st.tuples(_bool, _bool, _bool).map(lambda t: f"({t[0]} ? {t[1]} : {t[2]})")
        | _num.map(lambda i: f"[1, 5, 9].exists(x, x > {i})")
        | _num.map(lambda i: f"[1, 5, 9].all(x, x < {i})")
    )
)
_ENV = celpy.Environment()


def _reference(source: str, view: dict[str, Any]) -> bool:
    try:
        program = _ENV.program(_ENV.compile(source))
        result = program.evaluate({k: json_to_cel(v) for k, v in view.items()})
        return isinstance(result, celpy.celtypes.BoolType | bool) and bool(result)
    except Exception:
        return False


@settings(max_examples=60, deadline=None)
@given(_bool)
def test_agrees_with_cel_python(source: str) -> None:
    """The Rust engine and an independent one give the same answer over the common subset."""
    try:
        parse_condition(source)
    except LimitError:
        return
    view = {"claims": FACTS, "job": JOB}
    assert evaluate(source, FACTS, JOB).ok == _reference(source, view)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *[
                    "claims",
                    "job",
                    ".",
                    "host",
                    "(",
                    ")",
                    "[",
                    "]",
                    "1",
                    "1.5",
                    "'a'",
                    "&&",
                    "||",
                    "!",
                    "-",
                    "+",
                    "==",
                    "?",
                    ":",
                    ",",
                    "size",
                    "has",
                    "all",
                    "x",
                    "in",
                    "\\",
                ],
                " ",
            ]
        ),
        max_size=25,
    ).map("".join)
    | st.text(max_size=40)
)
def test_anything_gives_an_outcome(source: str) -> None:
    """V9."""
    outcome = evaluate(source, FACTS, JOB)
    assert outcome.ok == (not outcome.code)
    with contextlib.suppress(ParseError, LimitError):
        parse_condition(source)
