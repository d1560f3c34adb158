"""One canonical form for everything that is hashed or signed: JSON as RFC 8785 writes it.

Reading is stricter than RFC 8259: no duplicate keys, no NaN or infinity, no integer beyond
2**53 - 1, no lone surrogate, bounded size and depth. What is read and written again is therefore
byte for byte what was hashed.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Annotated, Any, ClassVar, Self

import rfc8785
from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError

from svetovid.errors import LimitError, ParseError

__all__ = [
    "MAX_DOCUMENT_BYTES",
    "STRICT_BASE64",
    "Base64",
    "Digest",
    "Document",
    "KeyId",
    "Name",
    "Text",
    "b64decode",
    "b64encode",
    "base64_length",
    "canonical",
    "digest",
    "load_json",
]

MAX_DOCUMENT_BYTES = 4 << 20
MAX_SIGNED_BYTES = 3_000_000
"""Of what is signed: in base64, with sixteen signatures, it stays within ``MAX_DOCUMENT_BYTES``."""
_MAX_PAYLOAD = 32 << 20
MAX_DEPTH = 32
_MAX_INT = 2**53 - 1
_NEXT_STEP = "write it as docs/spec/documents.md says, or have it made again by svetovid"


def b64encode(data: bytes) -> str:
    """Standard base64 with padding (RFC 4648, section 4)."""
    import base64

    return base64.b64encode(data).decode("ascii")


def b64decode(text: str) -> bytes:
    """Strict inverse of :func:`b64encode`: one text for one byte string.

    Raises:
        ParseError: ``json.base64`` where the text is not the canonical encoding.
    """
    import base64
    import binascii

    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError, ValueError) as e:
        raise ParseError(
            "json.base64", expected="base64 with padding", observed=text[:40], next_step=_NEXT_STEP
        ) from e
    if b64encode(data) != text:
        raise ParseError(
            "json.base64", expected="canonical base64", observed=text[:40], next_step=_NEXT_STEP
        )
    return data


def base64_length(size: int) -> int:
    """Characters of ``size`` bytes in base64."""
    return -(-size // 3) * 4


def _check_base64(text: str) -> str:
    try:
        b64decode(text)
    except ParseError as e:
        raise ValueError("not canonical base64") from e
    return text


def _check_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("only printable characters")
    return text


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
"""ASCII only, so that no two names look alike."""
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
KeyId = Annotated[str, StringConstraints(pattern=r"^ed25519:[0-9a-f]{64}$")]
"""A signing key: ``ed25519:`` and the raw public key in hex."""
Base64 = Annotated[
    str, StringConstraints(max_length=MAX_DOCUMENT_BYTES), AfterValidator(_check_base64)
]
STRICT_BASE64 = AfterValidator(_check_base64)
"""For a field of base64 with a bound of its own: see :func:`base64_length`."""
Payload = Annotated[str, StringConstraints(max_length=_MAX_PAYLOAD), STRICT_BASE64]
"""A signed document in base64; how long it may be depends on its type (``Document.MAX_BYTES``)."""
Text = Annotated[str, StringConstraints(max_length=512), AfterValidator(_check_printable)]


def _simple(value: Any) -> bool:
    """Whether ``json.dumps`` with sorted keys writes ``value`` just as RFC 8785 does.

    They differ in floats, in keys beyond ASCII (sorted by UTF-16 code unit there), and in what
    they refuse; all of that takes the other way.
    """
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is dict:
        for key, inner in value.items():
            if type(key) is not str or not key.isascii():
                return False
            if type(inner) is not str and not _simple(inner):
                return False
        return True
    if kind is list or kind is tuple:
        return all(type(inner) is str or _simple(inner) for inner in value)
    return kind is int and -_MAX_INT <= value <= _MAX_INT


def canonical(value: Any) -> bytes:
    """RFC 8785 bytes of a JSON value.

    Raises:
        ParseError: ``json.value`` for what JSON or RFC 8785 cannot hold.
    """
    try:
        if _simple(value):  # several times as fast, and every request is hashed many times
            text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
            return text.encode("utf-8")
        return rfc8785.dumps(value)
    except (ValueError, RecursionError) as e:  # the library's own errors are ValueErrors
        raise ParseError(
            "json.value",
            expected="a value RFC 8785 can hold",
            observed=str(e),
            next_step="use strings, booleans, lists, objects and numbers within 2**53 - 1",
        ) from e


def digest(data: bytes) -> str:
    """``sha256:`` and the hex SHA-256 of ``data``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise ParseError(
                "json.duplicate_key", expected="each key once", observed=key, next_step=_NEXT_STEP
            )
        out[key] = value
    return out


def _refuse_constant(text: str) -> Any:
    raise ParseError("json.number", expected="a finite number", observed=text, next_step=_NEXT_STEP)


def _integer(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > _MAX_INT:
        raise ParseError(
            "json.number",
            expected="an integer within 2**53 - 1",
            observed=text[:40],
            next_step=_NEXT_STEP,
        )
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ParseError(
            "json.number", expected="a finite number", observed=text[:40], next_step=_NEXT_STEP
        )
    if _MAX_INT < abs(value) < 1e21:  # its canonical form would be an integer that is refused
        raise ParseError(
            "json.number",
            expected="a number within 2**53 - 1",
            observed=text[:40],
            next_step=_NEXT_STEP,
        )
    return value


# A string that is not closed runs to the end: otherwise each quote in it would be tried anew.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)


def _depth(text: str, limit: int) -> None:
    """Bound nesting before the recursive parser sees it; brackets within strings do not count."""
    depth = 0
    for token in _TOKEN.finditer(text):
        first = text[token.start()]
        if first in "[{":
            depth += 1
            if depth > limit:
                raise LimitError(
                    "json.depth", expected=f"at most {limit} levels", next_step=_NEXT_STEP
                )
        elif first in "]}":
            depth -= 1


def load_json(
    data: bytes, *, max_bytes: int = MAX_DOCUMENT_BYTES, max_depth: int = MAX_DEPTH
) -> Any:
    """Parse JSON strictly and within bounds.

    Args:
        data: UTF-8.
        max_bytes: how long it may be, in bytes.
        max_depth: how many arrays and objects may lie in one another.

    Raises:
        LimitError: ``json.size``, ``json.depth``.
        ParseError: ``json.syntax``, ``json.duplicate_key``, ``json.number``, ``json.value``.
    """
    if len(data) > max_bytes:
        raise LimitError(
            "json.size",
            expected=f"at most {max_bytes} bytes",
            observed=str(len(data)),
            next_step=_NEXT_STEP,
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise ParseError(
            "json.syntax", expected="UTF-8", observed=f"byte {e.start}", next_step=_NEXT_STEP
        ) from e
    # A long string holds few brackets: only text that could nest too deep pays for the scan.
    if text.count("[") + text.count("{") > max_depth:
        _depth(text, max_depth)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_pairs,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except (ValueError, RecursionError) as e:
        raise ParseError(
            "json.syntax", expected="JSON", observed=str(e), next_step=_NEXT_STEP
        ) from e
    if "\\u" in text:
        canonical(value)  # a lone surrogate can only come from an escape
    return value


def explain(e: ValidationError) -> str:
    """The first few problems pydantic found, without the values (they may be secret)."""
    shown = [
        ".".join(str(p) for p in err["loc"]) + ": " + err["msg"]
        for err in e.errors(include_input=False)[:4]
    ]
    return "; ".join(shown)


class Document(BaseModel):
    """A strict, frozen record with one canonical form; the base of all that is signed or sent.

    Subclasses set ``TYPE``, which is bound into every signature over them, and ``MAX_BYTES`` where
    their canonical form may be longer or shorter than most when it is signed. ``MAX_MEMBERS``
    bounds how many values one holds: each that is wrong costs a kilobyte to refuse.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)
    TYPE: ClassVar[str] = ""
    MAX_BYTES: ClassVar[int] = MAX_SIGNED_BYTES
    MAX_MEMBERS: ClassVar[int] = 1 << 17

    def to_json(self) -> dict[str, Any]:
        """As a JSON value; members without a value are left out."""
        return self.model_dump(mode="json", exclude_none=True)

    def canonical(self) -> bytes:
        """The bytes that are hashed and signed: canonical JSON (RFC 8785).

        Raises:
            ParseError: ``json.value`` for what has no canonical form.
        """
        return canonical(self.to_json())

    def digest(self) -> str:
        """``sha256:`` and the SHA-256 of :meth:`canonical` in hex: its name."""
        return digest(self.canonical())

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Validate a parsed JSON value.

        Raises:
            LimitError: ``document.members``.
            ParseError: ``document.invalid``, ``json.value``.
        """
        try:
            # By way of text: only from JSON does a strict model take a list for a tuple. It need
            # not be canonical, which costs ten times as much for a document of many digests.
            text = json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
        except (TypeError, ValueError, RecursionError) as e:
            raise ParseError(
                "json.value", expected="a JSON value", observed=str(e), next_step=_NEXT_STEP
            ) from e
        cls._few(text)
        try:
            return cls.model_validate_json(text)
        except ValidationError as e:
            raise ParseError(
                "document.invalid",
                expected=f"a {cls.TYPE or cls.__name__}",
                observed=explain(e),
                next_step=_NEXT_STEP,
            ) from e

    @classmethod
    def parse(cls, data: bytes, *, max_bytes: int = MAX_DOCUMENT_BYTES) -> Self:
        """Strictly parse JSON bytes into this document.

        Raises:
            InputError: ``json.*``, ``document.members`` or ``document.invalid``.
        """
        if len(data) <= max_bytes:
            cls._few(data)
        return cls.from_json(load_json(data, max_bytes=max_bytes))

    @classmethod
    def _few(cls, text: bytes) -> None:
        """Values are told apart by commas; those within strings count as well."""
        if (count := text.count(b",")) > cls.MAX_MEMBERS:
            raise LimitError(
                "document.members",
                expected=f"at most {cls.MAX_MEMBERS} commas in a {cls.TYPE or cls.__name__}",
                observed=count,
                next_step=_NEXT_STEP,
            )
