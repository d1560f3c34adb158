"""The error tree, and the reason every refusal gives.

::

    SvetovidError                    exit code
    ├── InputError                   2   bytes, files or arguments that cannot be read
    │   ├── ParseError                   not in the form its specification asks for
    │   └── LimitError                   larger, deeper or longer than the stated bound
    ├── RefusalError                 3   read well, and refused
    │   ├── IntegrityError               a seal, digest or signature does not hold
    │   ├── EvidenceError                evidence does not prove what it must
    │   └── PolicyError                  an owner's policy, consent or limit says no
    ├── HostError                    4   the machine lacks something (a tool, a device, memory)
    └── TransportError               5   the other side cannot be reached, or did not answer in time

Whoever catches :class:`SvetovidError` catches everything that hostile input can cause.
The command line, HTTP answers and JSON output are all made from the same :class:`Reason`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

__all__ = [
    "EvidenceError",
    "HostError",
    "InputError",
    "IntegrityError",
    "LimitError",
    "ParseError",
    "PolicyError",
    "Reason",
    "RefusalError",
    "SvetovidError",
    "TransportError",
]

_SHOWN = 400
"""Characters of hostile text that an error repeats at the most."""


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something was refused, in words that a person can act on.

    Attributes:
        code: stable dotted code, for example ``ima.unlisted``; scripts rely on it.
        expected: what the check wanted to see.
        observed: what it saw (printable, shortened; never a secret).
        next_step: what the reader can do about it.
        clause: where the expectation was written, for example ``policy alice conditions[0]``.
        owner: key id of the stakeholder whose clause it is, or empty where it is nobody's own.
    """

    code: str
    expected: str = ""
    observed: str = ""
    next_step: str = ""
    clause: str = ""
    owner: str = ""

    def public(self) -> Reason:
        """The same reason as the host may see it: without what an owner expected or observed."""
        return Reason(code=self.code, next_step=self.next_step, owner=self.owner)

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


class SvetovidError(Exception):
    """Base of every error raised on purpose.

    Args:
        code: stable reason code.
        expected: what should have been there.
        observed: what was there; shortened and made printable here.
        next_step: what the reader can do.
        clause: where the expectation stands.
        owner: whose clause it is.
        reasons: further reasons, where one action was refused for several.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        code: str,
        *,
        expected: object = "",
        observed: object = "",
        next_step: str = "",
        clause: str = "",
        owner: str = "",
        reasons: Sequence[Reason] = (),
    ) -> None:
        self.reason = Reason(
            code, _shown(expected), _shown(observed), next_step, _shown(clause), owner
        )
        self.reasons: tuple[Reason, ...] = tuple(reasons) or (self.reason,)
        super().__init__(code)

    @property
    def code(self) -> str:
        return self.reason.code

    def __str__(self) -> str:
        r = self.reason
        parts = [r.code]
        if r.clause:
            parts.append(f"({r.clause})")
        if r.expected:
            parts.append(f"expected {r.expected}")
        if r.observed:
            parts.append(f"observed {r.observed}")
        if r.next_step:
            parts.append(f"next: {r.next_step}")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, object]:
        """JSON form: ``{"error": code, "exit_code": n, "reasons": [...]}``."""
        return {
            "error": self.code,
            "exit_code": self.exit_code,
            "reasons": [r.to_dict() for r in self.reasons],
        }

    @classmethod
    def from_reasons(cls, reasons: Sequence[Reason]) -> SvetovidError:
        """One error out of several reasons; the first names it."""
        first = reasons[0]
        return cls(
            first.code,
            expected=first.expected,
            observed=first.observed,
            next_step=first.next_step,
            clause=first.clause,
            owner=first.owner,
            reasons=reasons,
        )


class InputError(SvetovidError):
    """Something given to us cannot be read."""

    exit_code = 2


class ParseError(InputError):
    """Bytes that are not in the form their specification asks for."""


class LimitError(InputError):
    """Larger, deeper, longer or more than the stated bound."""


class RefusalError(SvetovidError):
    """Read well, and refused."""

    exit_code = 3


class IntegrityError(RefusalError):
    """A seal, a digest, a signature or a chain does not hold."""


class EvidenceError(RefusalError):
    """Evidence does not prove what it must."""


class PolicyError(RefusalError):
    """An owner's policy, consent or limit says no."""


class HostError(SvetovidError):
    """This machine lacks something: a tool, a device, memory, a right."""

    exit_code = 4


class TransportError(SvetovidError):
    """The other side cannot be reached, or did not answer in time."""

    exit_code = 5


_BY_EXIT: Mapping[int, type[SvetovidError]] = {
    c.exit_code: c for c in (InputError, RefusalError, HostError, TransportError)
}


def _text(value: object) -> str:
    return _shown(value) if isinstance(value, str) else ""


def from_dict(data: object) -> SvetovidError:
    """Rebuild an error from its JSON form, as an HTTP client meets it; hostile input is fine.

    Whatever is not in that form is left out; nothing at all gives ``transport.answer``.
    """
    if not isinstance(data, dict):
        data = {}
    raw = data.get("reasons")
    reasons: list[Reason] = []
    for item in raw[:64] if isinstance(raw, list) else []:
        if isinstance(item, dict):
            fields = {k: _text(item.get(k)) for k in Reason.__dataclass_fields__}
            fields["code"] = fields["code"] or "transport.answer"
            reasons.append(Reason(**fields))
    if not reasons:
        reasons = [Reason(code=_text(data.get("error")) or "transport.answer")]
    exit_code = data.get("exit_code")
    cls = _BY_EXIT.get(exit_code, SvetovidError) if isinstance(exit_code, int) else SvetovidError
    return cls.from_reasons(reasons)
