"""The page of messages says what the source does, and leaves no member out."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import Field

from svetovid.crypto import Digest, Document
from svetovid.evidence import HostRecord, ReferenceValues
from svetovid.protocol import EnrolRequest, JobStatus, KeyDeposit, Release

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
messages_page = importlib.import_module("messages_page")
sys.path.pop(0)


class Example(Document):
    """One of each.

    Attributes:
        name, other: two of
            a kind, as :class:`svetovid.crypto.Digest` has it.
        many: of them.
    """

    TYPE: ClassVar[str] = "example"
    name: Digest
    other: Digest | None = None
    many: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(max_length=2)] = ()
    kind: Literal["a", "b"] = "a"


def test_every_member_has_a_meaning() -> None:
    assert messages_page.lacking() == []


def test_the_page_is_current() -> None:
    assert messages_page.PAGE.read_text() == messages_page.page(), "make docs"


@pytest.mark.parametrize("model", [EnrolRequest, HostRecord, JobStatus, KeyDeposit, Release])
def test_what_is_sent_is_on_it(model: type[Document]) -> None:
    text = messages_page.PAGE.read_text()
    assert f"\n### {model.__name__}\n\nType `{model.TYPE}`. " in text


def test_no_document_of_the_wire_is_left_out() -> None:
    """A type that is signed or sent is a public class of the rooms that both wings share."""
    named = {m.TYPE for m in messages_page.models()} - {""}
    own = {"keystore", "bundle", "recorded-evidence", "conformance-case"}  # pages of their own
    shared = {
        model.TYPE
        for model in _all(Document)
        if model.__module__.split(".")[1] in {"crypto", "assets", "policy", "protocol"}
        or model.__module__.startswith(("svetovid.evidence", "svetovid.transparency"))
    }
    assert shared - named - {""} <= own


def _all(model: type[Document]) -> set[type[Document]]:
    below = [c for c in model.__subclasses__() if c.__module__.startswith("svetovid.")]
    return {*below, *(c for b in below for c in _all(b))}


def test_meanings_run_over_lines_and_are_inherited() -> None:
    class Wider(Example):
        """More."""

    meaning = "two of a kind, as :class:`svetovid.crypto.Digest` has it."
    expected = {"name": meaning, "other": meaning, "many": "of them."}
    assert messages_page.meanings(Wider) == expected
    assert "kind" not in messages_page.meanings(Wider)


def test_a_row_has_type_bounds_and_default() -> None:
    rows = [line for line in "".join(messages_page._section(Example)).splitlines() if "`" in line]
    meaning = "two of a kind, as `Digest` has it."
    assert rows == [
        "Type `example`. One of each.",
        f"| `name` | Digest |  |  | {meaning} |",
        f"| `other` | Digest |  | absent | {meaning} |",
        "| `many` | list of integer | length 0 to 2, each from 1 | `[]` | of them. |",
        '| `kind` | `"a"` or `"b"` |  | `"a"` |  |',
    ]


def test_the_signed_values_are_complete() -> None:
    text = messages_page.PAGE.read_text().split("### ReferenceValues\n")[1].split("###")[0]
    for name in ReferenceValues.model_fields:
        assert f"| `{name}` |" in text
