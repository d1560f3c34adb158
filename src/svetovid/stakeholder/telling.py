"""A manager's records in words: what each is about, and why it was decided so.

What a record holds is a manager's word; a body that lacks a field says less, and never fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from svetovid.protocol.messages import PrivatePart, Reasons
from svetovid.protocol.records import Record
from svetovid.stakeholder.labels import Labels

__all__ = ["Told", "tell"]


@dataclass(frozen=True, slots=True)
class Told:
    """One record, for people.

    Attributes:
        about: which job, policy, asset, host or key it is about, by name where there is one.
        why: for a refusal every own reason in full, and the codes of others'; for what was granted,
            what the evidence showed; else what was said with it.
    """

    about: str
    why: str


def tell(record: Record, labels: Labels) -> Told:
    """A record's entry in words; nothing where the reader may not see it."""
    entry = record.entry
    if entry is None:
        return Told("", "")
    fields = _Fields(entry.body, labels)
    about = _ABOUT.get(entry.kind, _about_job)(fields)
    if entry.kind == "refusal":
        return Told(about, _refused(fields, record.private, labels))
    if record.private is not None:
        return Told(about, _granted(record.private, labels))
    return Told(about, _SAID.get(entry.kind, _why)(fields))


@dataclass(frozen=True, slots=True)
class _Fields:
    body: Mapping[str, Any]
    labels: Labels

    def text(self, name: str) -> str:
        value = self.body.get(name)
        return str(value) if isinstance(value, str | int) else ""

    def key(self, name: str) -> str:
        return self.labels.short(self.text(name))


def _about_job(fields: _Fields) -> str:
    host = fields.key("host")
    return fields.key("job") + (f" on {host}" if host else "")


def _why(fields: _Fields) -> str:
    return fields.text("why")


def _head(fields: _Fields) -> str:
    head = fields.body.get("head")
    inner = _Fields(head if isinstance(head, dict) else {}, fields.labels)
    return f"checkpoint {inner.text('sequence')} of {inner.key('job')}"


_ABOUT: dict[str, Callable[[_Fields], str]] = {
    "asset": lambda f: f.key("asset"),
    "consent": lambda f: f"{f.key('owner')} to {f.key('job')}",
    "document": lambda f: f"{f.text('product')} v{f.text('version')}",
    "head": _head,
    "host": lambda f: f"{f.text('name')}: {f.key('host')}",
    "identity": lambda f: f.key("key"),
    "job": lambda f: f.key("document"),
    "policy": lambda f: f"{f.text('name')}, edition {f.text('sequence')}",
    "revocation": lambda f: f.key("revoked"),
    "rotation": lambda f: f.key("key"),
}
_SAID: dict[str, Callable[[_Fields], str]] = {
    "consent": lambda f: f"under policy {f.key('policy')}",
    "document": lambda f: f"{f.text('type')}, signed by {f.key('signer')}",
    "host": lambda f: f"its operator is {f.key('operator')}",
    "job": lambda f: f"proposed by {f.key('by')}",
}


def _refused(fields: _Fields, private: PrivatePart | None, labels: Labels) -> str:
    own = private.reasons if private else ()
    codes = fields.body.get("codes")
    known = {reason.code for reason in own}
    others = [str(c) for c in codes if c not in known] if isinstance(codes, list) else []
    lines = [labels.readable(_reason(reason)) for reason in own]
    if others:
        lines.append(f"{', '.join(others)}: a clause of another party's, who alone may see more")
    return "\n".join(lines)


def _reason(reason: Reasons) -> str:
    parts = [f"{reason.code}{f' ({reason.clause})' if reason.clause else ''}"]
    for label, value in (
        ("expected", reason.expected),
        ("observed", reason.observed),
        ("next", reason.next_step),
    ):
        if value:
            parts.append(f"{label}: {value}")
    return "; ".join(parts)


def _granted(private: PrivatePart, labels: Labels) -> str:
    """What the evidence showed, with this owner's own anchors and values."""
    claims = private.claims
    said = [str(claims[name]) for name in ("host_name", "measurement") if claims.get(name)]
    if claims.get("simulated"):
        said.append("simulated")
    if isinstance(operator := claims.get("operator"), str):
        said.append(f"operator {labels.short(operator)}")
    return ", ".join(said)
