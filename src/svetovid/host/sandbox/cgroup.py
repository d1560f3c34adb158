"""A control group of a job's own, where this machine lets us make one: bounds the job as a whole.

Resource limits bound a process; a group bounds all of them together. Where there is none (a
container without delegation, an ordinary user), :attr:`Cgroup.bounds` is empty and says so.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from pathlib import Path

__all__ = ["Cgroup"]

_ROOT = Path("/sys/fs/cgroup")


class Cgroup:
    """Memory and process bounds of one job.

    Args:
        memory_bytes: of all processes, private and shared memory together.
        processes: at most, threads included.
        root: where control groups are mounted.

    Attributes:
        folders: groups that a process of the job joins by writing to ``cgroup.procs``.
        bounds: which of ``memory`` and ``pids`` the kernel enforces here.
    """

    def __init__(self, memory_bytes: int, processes: int, root: Path = _ROOT) -> None:
        name = f"svetovid-{secrets.token_hex(6)}"
        self.folders: list[Path] = []
        self.bounds: tuple[str, ...] = ()
        limits = {"memory": str(memory_bytes), "pids": str(processes)}
        if (root / "cgroup.controllers").exists():
            self._make(root / name, {"memory.max": limits["memory"], "pids.max": limits["pids"]})
        else:
            self._make(root / "memory" / name, {"memory.limit_in_bytes": limits["memory"]})
            self._make(root / "pids" / name, {"pids.max": limits["pids"]})

    def _make(self, folder: Path, limits: dict[str, str]) -> None:
        made = False
        try:
            folder.mkdir()
            made = True
            for file, value in limits.items():
                (folder / file).write_text(value)
        except OSError:
            if made:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            return
        self.folders.append(folder)
        self.bounds += tuple(file.partition(".")[0] for file in limits)

    def close(self) -> None:
        """Remove the groups. The kernel refuses while a process still ends: wait a little."""
        for folder in self.folders:
            for _ in range(100):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)
        self.folders = []
