"""A type for secrets: it never shows itself in a repr, a log, an error or a pickle."""

from __future__ import annotations

import hmac
import secrets
from typing import NoReturn

__all__ = ["Secret"]


class Secret:
    """Bytes that must not be printed.

    ``reveal()`` is the only way out, so that a search for it finds every use. Python cannot promise
    that no copy stays in memory; nothing here claims it.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    @classmethod
    def random(cls, length: int = 32) -> Secret:
        """``length`` bytes from the operating system's generator."""
        return cls(secrets.token_bytes(length))

    def reveal(self) -> bytes:
        """The bytes themselves: only for what encrypts, seals or compares, never for a message."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> NoReturn:
        raise TypeError("a Secret is not hashable")

    def __repr__(self) -> str:
        return f"<Secret: {len(self._value)} bytes>"

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled")
