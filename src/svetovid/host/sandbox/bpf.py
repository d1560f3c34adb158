"""A tiny assembler of classic BPF as seccomp runs it (seccomp(2), BSD packet filter, 1993).

A program is a list of 8-byte instructions. Everything here is a self-contained block that either
returns or falls through to the next, so no jump ever leaves its block and none needs a label.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

__all__ = [
    "ALLOW",
    "KILL",
    "Instruction",
    "argument",
    "assemble",
    "errno",
    "load",
    "unless",
    "when",
]

_LD_ABS = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JEQ, _JGT, _JGE, _JSET = 0x15, 0x25, 0x35, 0x45  # BPF_JMP | op | BPF_K
_RET = 0x06  # BPF_RET | BPF_K
_RET_ALLOW, _RET_KILL_PROCESS, _RET_ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS

Instruction = tuple[int, int, int, int]
"""code, jump if true, jump if false, k."""
_TESTS = {"==": _JEQ, ">": _JGT, ">=": _JGE, "&": _JSET}

ALLOW: Instruction = (_RET, 0, 0, _RET_ALLOW)
KILL: Instruction = (_RET, 0, 0, _RET_KILL_PROCESS)


def errno(number: int) -> Instruction:
    """Refuse the call with this errno."""
    return (_RET, 0, 0, _RET_ERRNO | number)


def load(offset: int) -> Instruction:
    """Load a 32-bit word of ``struct seccomp_data``: 0 is the call's number, 4 the architecture."""
    return (_LD_ABS, 0, 0, offset)


def argument(index: int) -> Instruction:
    """Load the low word of an argument (little-endian machines); ints and flags fit in it."""
    return load(16 + 8 * index)


def when(test: str, k: int, then: Iterable[Instruction]) -> list[Instruction]:
    """Run ``then`` where ``accumulator test k`` holds, else skip it.

    Args:
        test: ``==``, ``>``, ``>=`` (unsigned) or ``&`` (any bit set).
    """
    body = list(then)
    if len(body) > 255:
        raise ValueError("a conditional jump reaches 255 instructions")
    return [(_TESTS[test], 0, len(body), k), *body]


def unless(test: str, k: int, then: Iterable[Instruction]) -> list[Instruction]:
    """Run ``then`` where ``accumulator test k`` does not hold."""
    (code, _, skip, value), *body = when(test, k, then)
    return [(code, skip, 0, value), *body]


def assemble(program: Iterable[Instruction]) -> bytes:
    """The program as ``struct sock_filter[]``, which is what ``bwrap --seccomp`` reads."""
    rows = list(program)
    if not 0 < len(rows) <= _MAX_INSTRUCTIONS:
        raise ValueError("a filter has between 1 and 4096 instructions")
    return b"".join(struct.pack("<HBBI", *row) for row in rows)
