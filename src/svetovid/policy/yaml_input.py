"""YAML as owners write it, into the documents they sign; ``docs/spec/policy.md``, section 2.

Only the part of YAML 1.2 that means one thing is read: block and flow collections, quoted strings,
and the plain scalars of JSON. The event stream is read directly, so nothing is ever constructed
that was not asked for. Rules:

- one document, UTF-8, bounded in size and depth
- no anchor, alias, tag, directive or merge key
- keys are strings, each once
- ``yes``, ``on``, ``017``, ``0x1f``, ``1_000``, ``12:30``, ``2026-01-01``, ``.nan`` and the like
  are refused: they mean different things to different readers, so they need quotes
- a string value ``$name`` stands for a digest or key id that the caller resolves
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import yaml

from svetovid.crypto.canonical import Document
from svetovid.crypto.envelope import Envelope
from svetovid.errors import LimitError, ParseError
from svetovid.policy.documents import Job, Policy

__all__ = ["MAX_YAML_BYTES", "load_job", "load_policy", "load_yaml"]

MAX_YAML_BYTES = 256 << 10
MAX_YAML_DEPTH = 16
MAX_YAML_VALUES = 20_000
_MAX_INT = 2**53 - 1

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,16})", re.ASCII)
_FLOAT = re.compile(r"-?(0|[1-9][0-9]{0,16})(\.[0-9]{1,32})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
# What some reader of YAML 1.1 or 1.2 takes for something else than a string.
_SURPRISE = re.compile(
    r"(?i:y|n|yes|no|on|off|true|false|null|~|=|<<)|[-+]?\.?[0-9][0-9_,.:oxa-fA-FeE+tTzZ -]*"
    r"|[-+]?\.(?i:inf|nan)",
    re.ASCII,
)
_DIRECTIVE = re.compile("(^|[\r\n\x85\u2028\u2029])%")
_REFERENCE = re.compile(r"\$([a-z0-9][a-z0-9._-]{0,63})", re.ASCII)

D = TypeVar("D", bound=Document)


def _bad(expected: str, observed: str, event: yaml.Event | None = None) -> ParseError:
    mark = event.start_mark if event is not None else None
    where = f" at line {mark.line + 1}" if mark is not None else ""
    return ParseError(
        "policy.yaml",
        expected=expected,
        observed=observed + where,
        next_step="correct the YAML; docs/spec/policy.md, section 2, lists what is read",
    )


def _scalar(event: yaml.ScalarEvent) -> Any:
    text: str = event.value
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise _bad("no surrogates", "an escape of half a character", event)
    if event.style is not None:
        return text
    if text in ("null", ""):
        return None
    if text in ("true", "false"):
        return text == "true"
    if _INTEGER.fullmatch(text):
        if abs(int(text)) > _MAX_INT:
            raise _bad("an integer within 2**53 - 1", text, event)
        return int(text)
    if _FLOAT.fullmatch(text):
        value = float(text)
        if abs(value) > _MAX_INT:
            raise _bad("a number within 2**53 - 1", text, event)
        return value
    if _SURPRISE.fullmatch(text):
        raise _bad("quotes around a word that YAML readers disagree on", text, event)
    return text


class _Reader:
    """Builds JSON values out of the event stream; recursion is bounded by the depth limit."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self._events = events
        self._values = 0

    def next(self) -> yaml.Event | None:
        return next(self._events, None)

    def value(self, event: yaml.Event | None, depth: int = 0) -> Any:
        if not isinstance(
            event, yaml.ScalarEvent | yaml.SequenceStartEvent | yaml.MappingStartEvent
        ):
            raise _bad("a value, no alias and no end", type(event).__name__, event)
        if event.anchor is not None:
            raise _bad("no anchors", f"&{event.anchor}", event)
        if event.tag is not None:
            raise _bad("no tags", event.tag, event)
        self._values += 1
        if self._values > MAX_YAML_VALUES:
            raise LimitError(
                "limit.size",
                expected=f"at most {MAX_YAML_VALUES} keys and values of YAML",
                next_step="split the policy",
            )
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event)
        if depth >= MAX_YAML_DEPTH:
            raise LimitError(
                "limit.depth",
                expected=f"at most {MAX_YAML_DEPTH} levels of YAML",
                next_step="write it flatter",
            )
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(e := self.next(), yaml.SequenceEndEvent):
                items.append(self.value(e, depth + 1))
            return items
        out: dict[str, Any] = {}
        while not isinstance(e := self.next(), yaml.MappingEndEvent):
            key = self.value(e, depth + 1)
            if not isinstance(key, str):
                raise _bad("a string as key", repr(key), e)
            if key in out:
                raise _bad("each key once", key, e)
            out[key] = self.value(self.next(), depth + 1)
        return out


def load_yaml(data: bytes) -> Any:
    """One strict YAML document as a JSON value.

    Raises:
        LimitError: ``limit.size`` beyond :data:`MAX_YAML_BYTES` or :data:`MAX_YAML_VALUES`,
            ``limit.depth``.
        ParseError: ``policy.yaml`` for anything outside the subset.
    """
    if len(data) > MAX_YAML_BYTES:
        raise LimitError(
            "limit.size",
            expected=f"at most {MAX_YAML_BYTES} bytes of YAML",
            observed=str(len(data)),
            next_step="split the policy",
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise _bad("UTF-8", f"byte {e.start}") from e
    if _DIRECTIVE.search(text):
        raise _bad("no directives", "%")
    reader = _Reader(yaml.parse(text, Loader=yaml.SafeLoader))
    try:
        reader.next()
        reader.next()
        value = reader.value(reader.next())  # the end, where there is no document
        reader.next()
        if not isinstance(last := reader.next(), yaml.StreamEndEvent):
            raise _bad("one document", "a second one", last)
    except (yaml.YAMLError, ValueError) as e:
        raise _bad("YAML", str(e).partition("\n")[0]) from e
    return value


def _resolved(value: Any, resolve: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {k: _resolved(v, resolve) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolved(v, resolve) for v in value]
    if isinstance(value, str) and (m := _REFERENCE.fullmatch(value)):
        if m[1] not in resolve:
            raise ParseError(
                "policy.reference",
                expected="one of " + ", ".join(f"${n}" for n in sorted(resolve)[:16]),
                observed=value,
                next_step="name an asset, party or document that this home knows",
            )
        return resolve[m[1]]
    return value


def _mapping(data: bytes, defaults: Mapping[str, Any]) -> dict[str, Any]:
    value = load_yaml(data)
    if not isinstance(value, dict):
        raise _bad("a mapping", type(value).__name__)
    return {**defaults, **value}


def _document(kind: type[D], value: Any, code: str) -> D:
    try:
        return kind.from_json(value)
    except ParseError as e:
        raise ParseError(
            code,
            expected=f"a {kind.TYPE} as docs/spec/policy.md describes it",
            observed=e.reason.observed,
            next_step="correct the named fields",
        ) from e


def load_policy(
    data: bytes, *, resolve: Mapping[str, str], defaults: Mapping[str, Any] | None = None
) -> Policy:
    """A policy as its owner writes it.

    Args:
        data: YAML, at most 256 KiB.
        resolve: what ``$name`` stands for: names of assets, parties and signed documents to their
            digests and key ids.
        defaults: top-level fields taken where the text leaves them out, for example ``owner``,
            ``sequence`` and ``predecessor``.

    Raises:
        LimitError: ``limit.size``, ``limit.depth``.
        ParseError: ``policy.yaml``, ``policy.reference``, ``policy.invalid``.
    """
    value = _resolved(_mapping(data, defaults or {}), resolve)
    return _document(Policy, value, "policy.invalid")


def load_job(
    data: bytes,
    *,
    resolve: Mapping[str, str],
    cards: Mapping[str, Envelope] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Job:
    """A job as its proposer writes it; ``recipients: [$rita]`` stands for Rita's signed card.

    Args:
        data: YAML, at most 256 KiB.
        resolve: as for :func:`load_policy`.
        cards: name to self-signed card, for the recipients.
        defaults: top-level fields taken where the text leaves them out, for example ``nonce``.

    Raises:
        LimitError: ``limit.size``, ``limit.depth``.
        ParseError: ``policy.yaml``, ``policy.reference``, ``job.invalid``.
    """
    value = _mapping(data, defaults or {})
    recipients = value.get("recipients")
    if isinstance(recipients, list):
        known = cards or {}
        value["recipients"] = [_recipient(r, known) for r in recipients]
    return _document(Job, _resolved(value, resolve), "job.invalid")


def _recipient(value: Any, cards: Mapping[str, Envelope]) -> Any:
    if not isinstance(value, str):
        return value
    m = _REFERENCE.fullmatch(value)
    if m is None or m[1] not in cards:
        raise ParseError(
            "policy.reference",
            expected="a recipient: one of " + ", ".join(f"${n}" for n in sorted(cards)[:16]),
            observed=value,
            next_step="add the recipient's signed card to this home first",
        )
    return {"card": cards[m[1]].to_json()}
