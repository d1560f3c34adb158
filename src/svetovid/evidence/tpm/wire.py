"""A cursor over TPM wire bytes (big endian) that can only fail with one of our errors."""

from __future__ import annotations

from svetovid.errors import ParseError

__all__ = ["Reader", "tpm2b"]


def tpm2b(data: bytes) -> bytes:
    """A TPM2B: two bytes of size, then at most 65,535 bytes (Part 2, section 10.4)."""
    return len(data).to_bytes(2, "big") + data


class Reader:
    """Reads fixed-width integers and size-prefixed bytes; ``code`` names the refusal."""

    __slots__ = ("_at", "_code", "_data")

    def __init__(self, data: bytes, code: str) -> None:
        self._data = data
        self._at = 0
        self._code = code

    def fail(self, expected: str, observed: object = "") -> ParseError:
        return ParseError(
            self._code,
            expected=expected,
            observed=observed or f"byte {self._at} of {len(self._data)}",
            next_step="send the structure exactly as the TPM returned it",
        )

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise self.fail(f"{count} more bytes")
        out = self._data[self._at : end]
        self._at = end
        return out

    def uint(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def sized(self, limit: int) -> bytes:
        """A TPM2B of at most ``limit`` bytes."""
        count = self.uint(2)
        if count > limit:
            raise self.fail(f"at most {limit} bytes", count)
        return self.take(count)

    def done(self) -> None:
        """Nothing may follow."""
        if self._at != len(self._data):
            raise self.fail("no bytes after the structure")
