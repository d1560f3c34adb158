"""RFC 8785 writing, and reading that is stricter than RFC 8259."""

from __future__ import annotations

import contextlib
import json
import math
import struct
import time
from typing import Any, ClassVar

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from svetovid.crypto.canonical import (
    MAX_DEPTH,
    MAX_DOCUMENT_BYTES,
    Base64,
    Digest,
    Document,
    KeyId,
    Name,
    Text,
    b64decode,
    b64encode,
    canonical,
    digest,
    load_json,
)
from svetovid.errors import InputError, LimitError, ParseError, SvetovidError

# RFC 8785, appendix B: IEEE 754 bits and the number's only form.
NUMBERS = [
    ("0000000000000000", "0"),
    ("8000000000000000", "0"),
    ("0000000000000001", "5e-324"),
    ("8000000000000001", "-5e-324"),
    ("7fefffffffffffff", "1.7976931348623157e+308"),
    ("ffefffffffffffff", "-1.7976931348623157e+308"),
    ("4340000000000000", "9007199254740992"),
    ("c340000000000000", "-9007199254740992"),
    ("4430000000000000", "295147905179352830000"),
    ("44b52d02c7e14af5", "9.999999999999997e+22"),
    ("44b52d02c7e14af6", "1e+23"),
    ("44b52d02c7e14af7", "1.0000000000000001e+23"),
    ("444b1ae4d6e2ef4e", "999999999999999700000"),
    ("444b1ae4d6e2ef4f", "999999999999999900000"),
    ("444b1ae4d6e2ef50", "1e+21"),
    ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
    ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"),
    ("41b3de4355555554", "333333333.33333325"),
    ("41b3de4355555555", "333333333.3333333"),
    ("41b3de4355555556", "333333333.3333334"),
    ("41b3de4355555557", "333333333.33333343"),
    ("becbf647612f3696", "-0.0000033333333333333333"),
    ("43143ff3c1cb0959", "1424953923781206.2"),
]


@pytest.mark.parametrize(("bits", "text"), NUMBERS)
def test_number_forms_of_rfc_8785_appendix_b(bits: str, text: str) -> None:
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical(value) == text.encode()


def test_example_of_rfc_8785_section_3_2() -> None:
    """Sections 3.2.2 to 3.2.4: literals, escapes and numbers of one object, to the byte."""
    data = (
        b'{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],'
        b'"string": "\\u20ac$\\u000F\\u000aA\'\\u0042\\u0022\\u005c\\\\\\"\\/",'
        b'"literals": [null, true, false]}'
    )
    want = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical(load_json(data)) == want.encode()


def test_keys_are_sorted_by_utf16_units() -> None:
    """RFC 8785, section 3.2.3; the emoji sorts before U+FB33 by its surrogates only."""
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    ordered = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert list(json.loads(canonical(dict.fromkeys(keys, 0)))) == ordered


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(-(2**53) + 1, 2**53 - 1)
    | st.floats(1e21, 1e308)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, bool) or isinstance(b, bool) or a is None or isinstance(a, str):
        return a is b or (type(a) is type(b) and a == b)
    return float(a) == float(b)


@settings(max_examples=150)
@given(json_values)
def test_what_is_written_reads_back_and_writes_the_same(value: Any) -> None:
    data = canonical(value)
    back = load_json(data)
    assert _same(json.loads(data), back)
    assert _same(value, back)
    assert canonical(back) == data


@settings(max_examples=150)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda s: s.encode("utf-8", "replace")))
def test_any_bytes_give_a_value_or_our_error(data: bytes) -> None:
    with contextlib.suppress(InputError):
        value = load_json(data)
        assert load_json(canonical(value)) == value


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "json.syntax"),
        (b"\xff", "json.syntax"),
        (b"\xef\xbb\xbf{}", "json.syntax"),
        (b"{} {}", "json.syntax"),
        (b"{'a':1}", "json.syntax"),
        (b'{"a":1,}', "json.syntax"),
        (b'"\x00"', "json.syntax"),
        (b'{"a":1,"a":1}', "json.duplicate_key"),
        (b'{"a":1,"\\u0061":2}', "json.duplicate_key"),
        (b'[{"x":{"b":0,"b":0}}]', "json.duplicate_key"),
        (b"NaN", "json.number"),
        (b"[-Infinity]", "json.number"),
        (b"1e400", "json.number"),
        (b"-1e400", "json.number"),
        (b"1e20", "json.number"),
        (b"9007199254740992", "json.number"),
        (b"-9007199254740992", "json.number"),
        (b"1" * 5000, "json.number"),
        (b'"\\ud800"', "json.value"),
        (b'{"\\udfff":0}', "json.value"),
        (b'"\xed\xa0\x80"', "json.syntax"),
        (b"[" * 1_000_000, "json.depth"),
        (b'{"a":' * 700_000, "json.depth"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "json.depth"),
        (b" " * (MAX_DOCUMENT_BYTES + 1), "json.size"),
    ],
)
def test_hostile_json_is_refused(data: bytes, code: str) -> None:
    """D1, V2: depth, size, duplicate keys, numbers and text that have more than one reading."""
    with pytest.raises(InputError) as e:
        load_json(data)
    assert e.value.code == code


def test_what_is_just_within_the_bounds_is_read() -> None:
    assert load_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert load_json(b"[9007199254740991,-9007199254740991]") == [2**53 - 1, -(2**53) + 1]
    assert load_json(b'"' + b"[" * 5000 + b'"') == "[" * 5000
    assert load_json(b'"' + b'\\"[' * 500 + b'"') == '"[' * 500
    assert load_json(b"[" + b"[]," * 500 + b"{}]")[-1] == {}
    assert load_json(b'"\\ud83d\\ude00"') == "\U0001f600"


def test_truncated_at_every_byte() -> None:
    data = canonical({"a": [1, "\u20ac", {"b": None}], "c": "\U0001f600"})
    for n in range(len(data)):
        with pytest.raises(ParseError):
            load_json(data[:n])


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, 2**53, "\ud800", {"\ud800": 1}, {1: 2}, b"x", {1}, object()],
)
def test_what_json_cannot_hold_is_not_written(value: object) -> None:
    with pytest.raises(ParseError) as e:
        canonical(value)
    assert e.value.code == "json.value"


def test_a_huge_integer_is_not_written() -> None:
    with pytest.raises(ParseError) as e:
        canonical(10**5000)
    assert e.value.code == "json.value"


def test_a_value_that_contains_itself_is_not_written() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ParseError) as e:
        canonical(loop)
    assert e.value.code == "json.value"


@settings(max_examples=60)
@given(st.binary(max_size=80))
def test_base64_round_trip(data: bytes) -> None:
    assert b64decode(b64encode(data)) == data


@pytest.mark.parametrize("text", ["A", "AA", "AAA", "AB==", "AAB=", "AA==\n", " AAAA", "_-8=", "é"])
def test_base64_has_one_text_for_one_byte_string(text: str) -> None:
    with pytest.raises(ParseError) as e:
        b64decode(text)
    assert e.value.code == "json.base64"


class Sample(Document):
    TYPE: ClassVar[str] = "sample"
    name: Name
    count: int
    ratio: float = 0.5
    flag: bool = False
    text: Text = ""
    data: Base64 = ""
    digest_: Digest | None = None
    key: KeyId | None = None


GOOD = {"name": "a", "count": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"name": "A"},
        {"name": "a\n"},
        {"name": "\u0430"},  # Cyrillic a: looks alike
        {"name": ""},
        {"name": "../x"},
        {"name": "a" * 65},
        {"count": "1"},
        {"count": True},
        {"count": 1.5},
        {"count": None},
        {"flag": 1},
        {"flag": "true"},
        {"text": "a\x1b[31m"},
        {"text": "a\u202eb"},  # writes backwards
        {"text": "a" * 513},
        {"data": "AB=="},
        {"digest_": "sha256:" + "A" * 64},
        {"digest_": "sha256:" + "a" * 63},
        {"key": "ed25519:" + "0" * 64 + "\n"},
        {"extra": 1},
    ],
)
def test_documents_are_strict(change: dict[str, object]) -> None:
    with pytest.raises(ParseError) as e:
        Sample.from_json(GOOD | change)
    assert e.value.code == "document.invalid"


@pytest.mark.parametrize("value", [None, [], "x", 1, [GOOD]])
def test_a_document_is_an_object(value: object) -> None:
    with pytest.raises(ParseError) as e:
        Sample.from_json(value)
    assert e.value.code == "document.invalid"


def test_the_error_does_not_repeat_values() -> None:
    with pytest.raises(ParseError) as e:
        Sample.from_json(GOOD | {"name": "SECRET VALUE"})
    assert "SECRET" not in str(e.value)
    assert "name" in str(e.value)


def test_document_form_and_digest() -> None:
    sample = Sample.parse(b' {"count": 7, "name": "a"} ')
    assert sample.canonical() == (
        b'{"count":7,"data":"","flag":false,"name":"a","ratio":0.5,"text":""}'
    )
    assert sample.digest() == digest(sample.canonical())
    assert digest(b"") == (
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
    with pytest.raises(ValueError, match="frozen"):
        sample.count = 8  # type: ignore[misc]


def test_document_size_is_bounded_by_the_caller() -> None:
    with pytest.raises(LimitError) as e:
        Sample.parse(b'{"count":1,"name":"a"}', max_bytes=10)
    assert e.value.code == "json.size"


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(list(Sample.model_fields)), json_values))
def test_any_object_gives_a_document_or_our_error(value: dict[str, Any]) -> None:
    try:
        sample = Sample.from_json(value)
    except SvetovidError:
        return
    assert Sample.parse(sample.canonical()) == sample


@pytest.mark.parametrize("text", ['"' + 'a\\"' * 500_000, '"' + "a\\" * 500_000, '"' * 500_001])
def test_strings_that_never_close_cost_linear_time(text: str) -> None:
    """D1: brackets make the depth scan run; quotes must not make it quadratic."""
    started = time.perf_counter()
    with pytest.raises(ParseError):
        load_json(("[]" * 40 + text).encode())
    assert time.perf_counter() - started < 1


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**53) + 1, 2**53 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_the_quick_way_writes_what_the_reference_writes(value: Any) -> None:
    """V2: the canonical form does not depend on which of the two writers was taken."""
    try:
        expected = rfc8785.dumps(value)
    except ValueError:
        with pytest.raises(ParseError):
            canonical(value)
        return
    assert canonical(value) == expected


@pytest.mark.parametrize(
    "text", [*map(chr, range(0x21)), '"', "\\", "\x7f", "\u2028", "\U0001f600"]
)
def test_the_quick_way_escapes_as_the_reference_does(text: str) -> None:
    assert canonical({text if text.isascii() else "k": [text, (text,)]}) == rfc8785.dumps(
        {text if text.isascii() else "k": [text, [text]]}
    )


class Small(Document):
    MAX_MEMBERS: ClassVar[int] = 3
    value: tuple[int, ...]


def test_d1_many_wrong_values_are_refused_before_they_are_looked_at() -> None:
    """D1: 90,000 unknown members would be 90,000 errors in memory, 100 MB of them."""
    assert Small.parse(b'{"value":[1,2,3,4]}').value == (1, 2, 3, 4)
    for refuse in (
        lambda: Small.parse(b'{"value":[1,2,3,4,5]}'),
        lambda: Small.from_json({"value": [1, 2, 3, 4, 5]}),
        lambda: Small.from_json({",,,,": 0}),
    ):
        with pytest.raises(LimitError) as e:
            refuse()
        assert e.value.code == "document.members"
    many = b"{" + b",".join(b'"k%d":0' % i for i in range(140_000)) + b"}"
    with pytest.raises(LimitError) as e:
        Document.parse(many)
    assert e.value.code == "document.members"
    with pytest.raises(LimitError) as e:
        Document.parse(many, max_bytes=1000)
    assert e.value.code == "json.size"
