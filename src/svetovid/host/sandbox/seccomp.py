"""The seccomp filter of every sandbox: a closed list of calls; whatever is not on it is refused.

A refused call fails with ENOSYS, as on a kernel that lacks it: libraries then take their older way
(``clone3`` falls back to ``clone``, whose flags can be checked). A call of another architecture
ends the process.
"""

from __future__ import annotations

import errno
import platform

from svetovid.errors import HostError
from svetovid.host.sandbox import bpf
from svetovid.host.sandbox.syscalls import ALLOWED, CHECKED, numbers

__all__ = ["seccomp_filter"]

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000
_AF_UNIX = 1
_NAMESPACES = 0x7E020080
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET and NEWTIME."""
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C


def _checks(number: dict[str, int]) -> list[bpf.Instruction]:
    family = [
        bpf.argument(0),
        *bpf.when("==", _AF_UNIX, [bpf.ALLOW]),
        bpf.errno(errno.EAFNOSUPPORT),
    ]
    flags = [
        bpf.argument(0),
        *bpf.when("&", _NAMESPACES, [bpf.errno(errno.EPERM)]),
        bpf.ALLOW,
    ]
    request = [
        bpf.argument(1),
        *bpf.when("==", _TIOCSTI, [bpf.errno(errno.EPERM)]),
        *bpf.when("==", _TIOCLINUX, [bpf.errno(errno.EPERM)]),
        bpf.ALLOW,
    ]
    bodies = {"socket": family, "socketpair": family, "clone": flags, "ioctl": request}
    return [step for name, body in bodies.items() for step in bpf.when("==", number[name], body)]


def _ranges(values: list[int]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for value in sorted(values):
        if out and out[-1][1] == value - 1:
            out[-1] = (out[-1][0], value)
        else:
            out.append((value, value))
    return out


def seccomp_filter(machine: str | None = None) -> bytes:
    """The filter for ``machine`` (as ``platform.machine()`` says it; by default this one).

    Raises:
        HostError: ``sandbox.architecture`` for any but x86_64 and aarch64.
    """
    machine = machine or platform.machine()
    if machine not in _AUDIT_ARCH:
        raise HostError(
            "sandbox.architecture",
            expected="x86_64 or aarch64",
            observed=machine,
            next_step="run the host on one of these",
        )
    program = [bpf.load(4), *bpf.unless("==", _AUDIT_ARCH[machine], [bpf.KILL]), bpf.load(0)]
    program += bpf.when(">=", _X32, [bpf.errno(errno.ENOSYS)])
    program += _checks(numbers(CHECKED, machine))
    for low, high in _ranges(list(numbers(ALLOWED, machine).values())):
        program += bpf.when(">=", low, bpf.unless(">", high, [bpf.ALLOW]))
    program.append(bpf.errno(errno.ENOSYS))
    return bpf.assemble(program)
