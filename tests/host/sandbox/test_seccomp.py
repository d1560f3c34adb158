"""The filter, run by a small BPF machine of our own and held against the kernel's headers."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svetovid.errors import HostError
from svetovid.host.sandbox import bpf, seccomp_filter
from svetovid.host.sandbox.syscalls import ALLOWED, CHECKED, numbers

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
ENOSYS, EPERM, EAFNOSUPPORT = 38, 1, 97


def verdict(program: bytes, arch: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """What the kernel would do (bpf(4)): every jump is forward and inside the program."""
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    data = struct.pack("<IIQ6Q", number, arch, 0, *padded)
    rows = list(struct.iter_unpack("<HBBI", program))
    a = at = 0
    while True:
        code, jt, jf, k = rows[at]
        at += 1
        if code == 0x20:
            (a,) = struct.unpack_from("<I", data, k)
        elif code == 0x06:
            return k
        else:
            holds = {0x15: a == k, 0x25: a > k, 0x35: a >= k, 0x45: bool(a & k)}[code]
            at += jt if holds else jf


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@given(number=st.one_of(st.integers(0, 600), st.integers(0, 2**32 - 1)))
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_only_listed_calls_pass(machine: str, number: int) -> None:
    listed = set(numbers(ALLOWED, machine).values())
    checked = set(numbers(CHECKED, machine).values())
    if number in checked:
        return
    expected = ALLOW if number in listed else ERRNO | ENOSYS
    assert verdict(seccomp_filter(machine), ARCH[machine], number) == expected


def test_every_listed_call_passes(machine: str) -> None:
    program = seccomp_filter(machine)
    for name, number in numbers(ALLOWED, machine).items():
        assert verdict(program, ARCH[machine], number) == ALLOW, name


def test_another_architecture_ends_the_process(machine: str) -> None:
    for arch in (0x40000003, 0xC00000B7, 0xC000003E, 0):
        if arch != ARCH[machine]:
            assert verdict(seccomp_filter(machine), arch, 0) == KILL


def test_x32_calls_do_not_slip_past() -> None:
    """The x32 twin of a refused call has bit 30 set in its number."""
    program = seccomp_filter("x86_64")
    for number in (0, 41, 101, 520, 544):
        assert verdict(program, ARCH["x86_64"], 0x40000000 | number) == ERRNO | ENOSYS


def test_only_unix_sockets(machine: str) -> None:
    program = seccomp_filter(machine)
    for name in ("socket", "socketpair"):
        number = numbers(CHECKED, machine)[name]
        for family in range(64):
            expected = ALLOW if family == 1 else ERRNO | EAFNOSUPPORT
            assert verdict(program, ARCH[machine], number, (family, 1, 0)) == expected
        # The kernel takes an int: high bits must not hide another family, nor allow one.
        assert verdict(program, ARCH[machine], number, (1 << 32 | 2,)) == ERRNO | EAFNOSUPPORT


@given(flags=st.integers(0, 2**64 - 1))
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_clone_never_with_a_namespace(machine: str, flags: int) -> None:
    expected = ERRNO | EPERM if flags & 0x7E020080 else ALLOW
    number = numbers(CHECKED, machine)["clone"]
    assert verdict(seccomp_filter(machine), ARCH[machine], number, (flags,)) == expected


def test_numbers_are_those_of_the_kernels_headers() -> None:
    """An independent reference, where this machine has it."""
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip("no kernel headers installed (linux-libc-dev)")
    known = {m[1]: int(m[2]) for m in re.finditer(r"#define __NR_(\w+) (\d+)", header.read_text())}
    ours = numbers(ALLOWED | CHECKED, "x86_64")
    assert {n: known[n] for n in ours} == ours
    generic = Path("/usr/include/asm-generic/unistd.h").read_text()
    found = re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)\s", generic)
    known = {name: int(number) for name, number in found}
    ours = numbers(ALLOWED | CHECKED, "aarch64")
    renamed = {"newfstatat": "fstatat", "fadvise64": "fadvise64"}
    assert {n: known[renamed.get(n, n)] for n in ours} == ours


def test_dangerous_calls_are_not_listed() -> None:
    never = """
        ptrace process_vm_readv process_vm_writev mount umount2 pivot_root chroot unshare
        setns clone3 bpf perf_event_open add_key request_key keyctl userfaultfd
        io_uring_setup io_uring_enter kexec_load init_module finit_module open_by_handle_at
        memfd_create execveat personality seccomp pidfd_open pidfd_getfd kcmp shmget msgget
        fanotify_init splice setuid setgid setgroups mknod mknodat quotactl syslog reboot
        swapon acct
    """.split()  # noqa: SIM905
    assert not set(never) & (ALLOWED.keys() | CHECKED.keys())


def test_unknown_machine_is_refused() -> None:
    with pytest.raises(HostError) as e:
        seccomp_filter("riscv64")
    assert e.value.code == "sandbox.architecture"


def test_assembler_bounds() -> None:
    for program in ([], [bpf.ALLOW] * 4097):
        with pytest.raises(ValueError, match="4096"):
            bpf.assemble(program)
    with pytest.raises(ValueError, match="255"):
        bpf.when("==", 1, [bpf.ALLOW] * 256)
