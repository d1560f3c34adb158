"""Codes of the parsers, each provoked by the shortest text that deserves it."""

from __future__ import annotations

import pytest

from policy.policy_world import job
from svetovid.errors import LimitError, ParseError, SvetovidError
from svetovid.policy import load_job, load_policy, load_yaml, parse_condition


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"a: *b", "policy.yaml"),
        (b"a: &b 1", "policy.yaml"),
        (b"a: !!python/object:os.system x", "policy.yaml"),
        (b"%YAML 1.1\n---\na: 1", "policy.yaml"),
        (b"a: [" * 200, "limit.depth"),
        (b"a: " + b"x" * (2 << 20), "limit.size"),
    ],
)
def test_yaml_outside_the_subset(text: bytes, code: str) -> None:
    with pytest.raises(SvetovidError) as e:
        load_yaml(text)
    assert e.value.code == code
    for load in (load_policy, load_job):
        with pytest.raises(SvetovidError) as e:
            load(text, resolve={})
        assert e.value.code == code


@pytest.mark.parametrize(
    ("source", "code", "kind"),
    [
        ("claims.host ==", "policy.cel", ParseError),
        ("[1].map(x, x)", "policy.cel", ParseError),
        ("true true", "policy.cel", ParseError),
        ("(" * 40 + "true" + ")" * 40, "limit.depth", LimitError),
        ("true || " * 200 + "true", "limit.size", LimitError),
    ],
)
def test_conditions_outside_the_subset(source: str, code: str, kind: type) -> None:
    with pytest.raises(kind) as e:
        parse_condition(source)
    assert e.value.code == code


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("claims.host ==", "a whole expression"),
        ('job.name == r"x"', "a space between two words"),
        ('job.name == "a""b"', "a space between two words"),
        ("job.seed == 1u", "a space between two words"),
        ("true true", "the end"),
    ],
)
def test_what_is_wrong_with_a_condition_is_said(source: str, expected: str) -> None:
    with pytest.raises(ParseError) as e:
        parse_condition(source)
    assert e.value.reason.expected == expected


def test_a_job_that_is_no_job() -> None:
    assert job().digest()
    with pytest.raises(ParseError) as e:
        load_job(b"version: svetovid.job/v1\nname: main\n", resolve={})
    assert e.value.code == "job.invalid"
