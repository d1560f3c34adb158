"""The error tree: what a person, a script and a hostile server each see of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svetovid import errors
from svetovid.errors import (
    EvidenceError,
    HostError,
    InputError,
    IntegrityError,
    LimitError,
    ParseError,
    PolicyError,
    Reason,
    RefusalError,
    SvetovidError,
    TransportError,
    from_dict,
)

CLASSES = [
    (SvetovidError, 1),
    (InputError, 2),
    (ParseError, 2),
    (LimitError, 2),
    (RefusalError, 3),
    (IntegrityError, 3),
    (EvidenceError, 3),
    (PolicyError, 3),
    (HostError, 4),
    (TransportError, 5),
]


def test_the_tree_is_the_one_drawn() -> None:
    assert {c.__name__ for c, _ in CLASSES} | {"Reason"} == set(errors.__all__)
    for cls, _ in CLASSES:
        assert f"{cls.__name__}" in (errors.__doc__ or "")


@pytest.mark.parametrize(("cls", "status"), CLASSES)
def test_round_trip_keeps_the_exit_status_and_the_reasons(
    cls: type[SvetovidError], status: int
) -> None:
    error = cls("a.b", expected=1, observed=b"x", next_step="do", clause="c", owner="o")
    back = from_dict(json.loads(json.dumps(error.to_dict())))
    assert back.exit_code == error.exit_code == status
    assert back.reason == error.reason
    assert back.to_dict() == error.to_dict()
    assert isinstance(error, type(back))


def test_several_reasons_travel_together() -> None:
    reasons = [Reason("a.b", expected="x"), Reason("c.d", observed="y")]
    error = RefusalError.from_reasons(reasons)
    assert error.code == "a.b"
    assert from_dict(error.to_dict()).reasons == tuple(reasons)
    assert ParseError("x.y").reasons == (Reason("x.y"),)


def test_the_message_reads_as_a_sentence() -> None:
    error = PolicyError("limit.runs", expected=3, observed=4, next_step="ask", clause="policy a")
    assert str(error) == "limit.runs; (policy a); expected 3; observed 4; next: ask"
    assert str(ParseError("a.b")) == "a.b"


def test_the_host_does_not_see_what_an_owner_expected() -> None:
    reason = Reason("a.b", "expected", "observed", "next", "clause", "owner")
    assert reason.public() == Reason("a.b", next_step="next", owner="owner")


def test_hostile_text_is_made_printable_and_short() -> None:
    error = ParseError("a.b", observed="\x1b[2J\r\n\u202e\0" + "x" * 10_000, expected="\x07")
    assert error.reason.observed.isprintable()
    assert error.reason.expected.isprintable()
    assert len(error.reason.observed) == 400
    assert "\x1b" not in str(error)
    back = from_dict({"reasons": [{"code": "\x1b]0;", "next_step": "\x1b[31m" * 1000}]})
    assert str(back).isprintable()
    assert len(str(back)) < 1000


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "error",
        7,
        {},
        {"error": 7},
        {"error": None, "reasons": None, "exit_code": None},
        {"reasons": {}},
        {"reasons": [1, None, []]},
        {"reasons": [{}], "exit_code": "3"},
        {"reasons": [{"code": ["a"]}], "exit_code": [3]},
        {"reasons": [{"code": ""}], "exit_code": 1e9},
    ],
)
def test_an_answer_in_no_form_is_still_an_error(data: object) -> None:
    error = from_dict(data)
    assert error.code == "transport.answer"
    assert type(error) is SvetovidError


def test_a_flood_of_reasons_is_cut() -> None:
    assert len(from_dict({"reasons": [{"code": "a.b"}] * 10_000}).reasons) == 64


@settings(max_examples=100)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["error", "exit_code", "reasons", "code", "observed"]) | st.text(),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_any_json_gives_an_error(data: object) -> None:
    error = from_dict(data)
    assert error.code
    assert str(error).isprintable()
    assert json.dumps(error.to_dict())
