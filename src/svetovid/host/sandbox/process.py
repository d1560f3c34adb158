"""Starts a sandbox and ends it: bubblewrap in fresh namespaces, with everything it gets named here.

What is inside: the runtime tree read-only as /, the job's code read-only at /code (from memory, so
that decrypted code touches no disk), private /tmp and /dev/shm (noexec, bounded), a closed
environment, and the descriptors that the caller lists. Nothing else: no network, no capability, no
other uid, no way to make a namespace. docs/adr/0011-sandbox.md says why each stands.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from svetovid.crypto import canonical
from svetovid.errors import HostError, LimitError
from svetovid.host.accelerators import require
from svetovid.host.sandbox.cgroup import Cgroup
from svetovid.host.sandbox.first import First
from svetovid.host.sandbox.memory import frozen
from svetovid.host.sandbox.seccomp import seccomp_filter

__all__ = ["Confinement", "Sandbox", "find_bubblewrap"]

_STAGE = Path(__file__).with_name("stage.py")
_FIRST_UID, _UIDS = 0x70000000, 1 << 16
"""Uids that no distribution, container manager or service manager hands out."""
_INSIDE_UID = "1000"
_MIB = 1 << 20
_OPEN_FILES = 4096
_HELPERS = 4
"""Processes of bubblewrap's own that a limit counts too."""
_STDERR_BYTES = 2048
_GONE_S = 10.0


@dataclass(frozen=True, slots=True)
class Confinement:
    """Bounds of one sandbox.

    Attributes:
        memory_mib: of one process, and of all together where there is a control group.
        processes: at most, threads included.
        threads: what numerical libraries are told to use.
        devices: device nodes that are visible.
    """

    memory_mib: int = 4096
    processes: int = 64
    threads: int = 1
    devices: tuple[str, ...] = ()


def find_bubblewrap() -> str:
    """Path of ``bwrap``.

    Raises:
        HostError: ``sandbox.bubblewrap``; there is no running without one.
    """
    path = shutil.which("bwrap", path="/usr/bin:/bin:/usr/local/bin")
    if path is None:
        raise HostError(
            "sandbox.bubblewrap",
            expected="bubblewrap 0.8 or later",
            observed="no bwrap in /usr/bin, /bin or /usr/local/bin",
            next_step="apt-get install bubblewrap",
        )
    return path


def _arguments(confinement: Confinement, code: Mapping[str, int], seccomp: int, info: int) -> bytes:
    """bubblewrap's arguments, as ``--args`` reads them: names of code files stay out of ps."""
    args = ["--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent"]
    args += ["--new-session", "--hostname", "sandbox", "--cap-drop", "ALL", "--clearenv"]
    args += ["--uid", _INSIDE_UID, "--gid", _INSIDE_UID]
    args += ["--ro-bind", "/tmp/tree", "/", "--dev", "/dev"]  # noqa: S108
    # Read-only, or foreign code could write into /proc/1/mem: bubblewrap's own first process, whose
    # end is the end of all, runs under the same uid.
    args += ["--proc", "/proc", "--remount-ro", "/proc"]
    args += ["--bind", "/tmp/shm", "/dev/shm", "--bind", "/tmp/tmp", "/tmp"]  # noqa: S108
    for device in confinement.devices:
        args += ["--dev-bind", device, device]
    args += ["--remount-ro", "/dev", "--tmpfs", "/code"]
    for path, fd in code.items():
        args += ["--perms", "0444", "--file", str(fd), f"/code/{path}"]
    args += ["--remount-ro", "/code", "--chdir", "/tmp"]  # noqa: S108
    for name, value in _environment(confinement).items():
        args += ["--setenv", name, value]
    args += ["--info-fd", str(info), "--seccomp", str(seccomp)]
    return b"\0".join(a.encode() for a in args) + b"\0"


def _environment(confinement: Confinement) -> dict[str, str]:
    threads = str(confinement.threads)
    return {
        "HOME": "/tmp",  # noqa: S108
        "TMPDIR": "/tmp",  # noqa: S108
        "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "PATH": "/nonexistent",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }


class Sandbox:
    """One running sandbox. Leaving the context kills every process in it.

    Args:
        tree: runtime tree (:func:`svetovid.host.runtime.build_runtime`).
        code: path below /code to content.
        command: program and arguments inside.
        keep: descriptors that the program inherits under the same numbers; still the caller's.
        confinement: bounds.

    Start it from a thread that lives as long as the job: when that thread ends, the kernel kills
    the sandbox.

    Raises:
        HostError: ``sandbox.bubblewrap``, ``sandbox.architecture``, ``sandbox.runtime``,
            ``sandbox.first``, ``device.missing``; ``sandbox.alive`` on leaving, where the kernel
            cannot end it.
        LimitError: ``sandbox.files`` where the code has more files than can be open at once.
    """

    def __init__(
        self,
        tree: Path,
        code: Mapping[str, bytes],
        command: Sequence[str],
        keep: Sequence[int],
        confinement: Confinement,
    ) -> None:
        bwrap = find_bubblewrap()
        _check_machine(tree, confinement)
        self._cgroup = Cgroup(confinement.memory_mib * _MIB, confinement.processes + _HELPERS)
        try:
            self._process, self._first = self._start(bwrap, tree, code, command, keep, confinement)
        except BaseException:
            self._cgroup.close()
            raise

    def _start(
        self,
        bwrap: str,
        tree: Path,
        code: Mapping[str, bytes],
        command: Sequence[str],
        keep: Sequence[int],
        confinement: Confinement,
    ) -> tuple[subprocess.Popen[bytes], First]:
        with contextlib.ExitStack() as opened:

            def memory(name: str, data: bytes) -> int:
                fd = frozen(name, data)
                opened.callback(os.close, fd)
                return fd

            try:
                files = {path: memory("code", data) for path, data in code.items()}
            except OSError as e:
                raise LimitError(
                    "sandbox.files",
                    expected="code whose files can all be open at once",
                    observed=f"{len(code)} files: {e.strerror}",
                    next_step="raise the limit of open files (ulimit -n), or ship fewer files",
                ) from e
            seccomp = memory("seccomp", seccomp_filter())
            told, tells = os.pipe()
            opened.callback(os.close, told)
            arguments = memory("arguments", _arguments(confinement, files, seccomp, tells))
            orders = memory(
                "orders",
                canonical(
                    {
                        "bwrap": bwrap,
                        "tree": str(tree.resolve()),
                        "uid": _FIRST_UID + secrets.randbelow(_UIDS),
                        "tmpfs": {
                            "tmp": confinement.memory_mib * _MIB // 4,
                            "shm": confinement.memory_mib * _MIB // 2,
                        },
                        "limits": _limits(confinement, len(files)),
                        "cgroups": [str(g) for g in self._cgroup.folders],
                        "arguments": arguments,
                        "command": list(command),
                    }
                ),
            )
            try:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-B", str(_STAGE), str(orders)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=[*files.values(), seccomp, arguments, orders, tells, *keep],
                    env={},
                    cwd="/",
                )
            finally:
                os.close(tells)
            try:
                return process, First(told, process.pid)
            except BaseException:
                process.kill()
                process.wait()
                raise

    @property
    def bounds(self) -> tuple[str, ...]:
        """What the kernel bounds for the job as a whole: ``memory``, ``pids``, or nothing."""
        return self._cgroup.bounds

    def hush(self) -> None:
        """Stop listening to standard error. Called before foreign code runs: from then on nothing
        free-form can come out of a sandbox (T9)."""
        if self._process.stderr is not None:
            self._process.stderr.close()
            self._process.stderr = None

    def why_not_started(self) -> HostError:
        """The error of a sandbox that ended before any foreign code ran."""
        self.kill()
        text = ""
        if self._process.stderr is not None:
            text = os.read(self._process.stderr.fileno(), _STDERR_BYTES).decode("utf-8", "replace")
        namespaces = "unshare" in text or "namespace" in text or "uid_map" in text
        if namespaces:
            return HostError(
                "sandbox.namespaces",
                expected="a kernel that lets us make user, mount, pid and network namespaces",
                observed=text.strip(),
                next_step="sysctl -w user.max_user_namespaces=10000, and allow unprivileged user "
                "namespaces (kernel.unprivileged_userns_clone=1 or the AppArmor setting)",
            )
        return HostError(
            "sandbox.start",
            expected="bubblewrap to start the sandbox",
            observed=text.strip() or f"exit status {self._process.returncode}",
            next_step="run `bwrap --ro-bind / / true` as the agent's user and see what it says",
        )

    def kill(self) -> None:
        """End every process of the sandbox, and wait until they are gone. Any thread may call.

        Raises:
            HostError: ``sandbox.alive`` where one is still there; the kernel ends it when a device
                lets go of it.
        """
        # The first process of a pid namespace takes all the others with it. bubblewrap, outside,
        # would end it by a signal that it asked for itself; we do not rely on that.
        gone = self._first.kill(_GONE_S)
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_GONE_S)
        if not gone or self._process.returncode is None:
            raise HostError(
                "sandbox.alive",
                expected=f"the sandbox to be gone {_GONE_S:.0f} s after it was killed",
                observed="it is still there",
                next_step="see what holds it (a device?), and restart the machine before another "
                "job runs",
            )

    def wait(self, seconds: float) -> int | None:
        """Exit status, negative for a signal; None where it still runs after ``seconds``."""
        try:
            return self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.kill()
        finally:
            self._first.close()
            self.hush()
            self._cgroup.close()


def _check_machine(tree: Path, confinement: Confinement) -> None:
    if not tree.is_dir():
        raise HostError(
            "sandbox.runtime",
            expected="a runtime tree",
            observed=f"no folder {tree}",
            next_step="build it: svetovid.host.runtime.build_runtime",
        )
    require(confinement.devices)


def _limits(confinement: Confinement, files: int) -> dict[str, int]:
    memory = confinement.memory_mib * _MIB
    return {
        "RLIMIT_DATA": memory,
        "RLIMIT_FSIZE": memory // 2,
        "RLIMIT_NPROC": confinement.processes + _HELPERS,
        "RLIMIT_NOFILE": _OPEN_FILES + files,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 64 * _MIB,
        "RLIMIT_MSGQUEUE": 0,
    }
