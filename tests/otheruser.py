"""Runs Python as a user who is not root, wherever the interpreter lies.

A Python in a folder that others may not enter (root's home, say) is bound into a mount namespace
of the test's own, under its own path, in front of an empty folder that everybody may enter.
"""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

NOBODY = 65534
ROOT = Path(__file__).resolve().parent.parent


def _closed(path: Path) -> Path | None:
    """The topmost folder on the way to ``path`` that others may not enter."""
    for folder in [*reversed(path.parents), path]:
        if not stat.S_IMODE(folder.stat().st_mode) & 0o001:
            return folder
    return None


def _opened(folder: str) -> list[str]:
    """Shell lines that make Python and this checkout reachable for everybody."""
    wanted = {Path(p).resolve() for p in (sys.base_prefix, sys.prefix, ROOT)}
    tops: dict[Path, list[Path]] = {}
    for path in sorted(wanted):
        if (top := _closed(path)) is not None:
            tops.setdefault(top, []).append(path)
    lines = ["set -e"]
    for top, paths in tops.items():
        for n, path in enumerate(paths):
            kept = shlex.quote(f"{folder}/{n}")
            lines += [f"mkdir -p {kept}", f"mount --rbind {shlex.quote(str(path))} {kept}"]
        lines.append(f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(top))}")
        for n, path in enumerate(paths):
            at = shlex.quote(str(path))
            lines += [f"mkdir -p {at}", f"mount --move {shlex.quote(f'{folder}/{n}')} {at}"]
    return lines


def run_as_nobody(script: str) -> subprocess.CompletedProcess[str]:
    """Run ``script`` with this Python as another user; as this one where it is not root."""
    command = [sys.executable, "-c", script]
    if os.getuid() == 0:
        with tempfile.TemporaryDirectory() as folder:
            become = f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups"
            lines = [*_opened(folder), f"exec {become} {shlex.join(command)}"]
            command = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
            return _run([*command, "\n".join(lines)])
    return _run(command)


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(str(ROOT / n) for n in ("src", "tests"))
    keep = {k: v for k, v in os.environ.items() if k.startswith("COVERAGE") or k == "PATH"}
    environment = {**keep, "PYTHONPATH": paths, "HOME": "/nonexistent"}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd="/", check=False, timeout=120
    )
