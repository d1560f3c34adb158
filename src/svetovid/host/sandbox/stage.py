"""First program of a sandbox: private mounts and limits, another uid, then bubblewrap.

Runs as ``python -I -S -B stage.py FD`` with the standard library alone; FD holds its orders as
JSON. It is our code and ends by becoming bubblewrap, before any foreign code runs. What only it
can do: mount /tmp and /dev/shm noexec (bubblewrap has no such option), and reach a runtime that
lies in a folder which the job's uid may not enter.
"""

import ctypes
import json
import os
import resource
import sys

_RDONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8
_BIND, _REC, _PRIVATE = 4096, 16384, 1 << 18
_NEWNS, _NEWUSER = 0x20000, 0x10000000


def _check(result: int, what: str) -> None:
    if result != 0:
        sys.exit(f"stage: {what}: {os.strerror(ctypes.get_errno())}")


def _write(path: str, text: str) -> None:
    with open(path, "w") as f:  # noqa: PTH123
        f.write(text)


def _namespaces(libc: ctypes.CDLL, root: bool) -> None:
    uid, gid = os.getuid(), os.getgid()
    _check(libc.unshare(_NEWNS if root else _NEWNS | _NEWUSER), "unshare")
    if not root:
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")


def _mounts(libc: ctypes.CDLL, tree: str, sizes: "dict[str, int]") -> None:
    def mount(source: bytes, target: str, kind: bytes, flags: int, data: bytes) -> None:
        _check(libc.mount(source, target.encode(), kind, flags, data), f"mount {target}")

    _check(libc.mount(None, b"/", None, _REC | _PRIVATE, None), "make mounts private")
    fd = os.open(tree, os.O_PATH | os.O_DIRECTORY)
    mount(b"tmpfs", "/tmp", b"tmpfs", _NOSUID | _NODEV, b"mode=0755,size=64k")  # noqa: S108
    os.mkdir("/tmp/tree")  # noqa: S108, PTH102
    mount(f"/proc/self/fd/{fd}".encode(), "/tmp/tree", b"", _BIND, b"")  # noqa: S108
    os.close(fd)
    for name, size in sizes.items():
        os.mkdir(f"/tmp/{name}")  # noqa: S108, PTH102
        flags = _NOSUID | _NODEV | _NOEXEC
        mount(b"tmpfs", f"/tmp/{name}", b"tmpfs", flags, f"mode=1777,size={size}".encode())  # noqa: S108


def main() -> None:
    with os.fdopen(int(sys.argv[1]), "rb") as f:
        orders = json.load(f)
    libc = ctypes.CDLL(None, use_errno=True)
    root = os.getuid() == 0
    for group in orders["cgroups"]:
        _write(f"{group}/cgroup.procs", "0")
    _namespaces(libc, root)
    _mounts(libc, orders["tree"], orders["tmpfs"])
    os.chdir("/")
    if root:
        os.setgroups([])
        os.setgid(orders["uid"])
        os.setuid(orders["uid"])
    for name, value in orders["limits"].items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    os.execv(  # noqa: S606
        orders["bwrap"],
        [orders["bwrap"], "--args", str(orders["arguments"]), "--", *orders["command"]],
    )


try:
    main()
except OSError as e:
    sys.exit(f"stage: {e.filename or ''}: {e.strerror}")
