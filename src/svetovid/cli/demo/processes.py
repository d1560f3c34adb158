"""The processes of a play: each runs a module of ours, and none goes on after the play."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

from svetovid.errors import HostError

__all__ = ["PYTHON", "Processes"]

# Not with the working directory among the places to import from: parties' files lie there.
PYTHON = (sys.executable, "-P", "-m")
_END_S = 15.0


class Processes:
    """Starts them, and ends those that still run."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[str]] = []
        self._lock = threading.Lock()
        self._over = False

    def start(self, module: str, *arguments: str, **how: Any) -> subprocess.Popen[str]:
        """Start ``python -m module`` from a thread that lives as long as the play.

        Args:
            module: of svetovid.
            arguments: its command line.
            how: as :class:`subprocess.Popen` takes them.

        Raises:
            HostError: ``demo.over`` after :meth:`end`.
        """
        bound = [*PYTHON, "svetovid.cli.demo.bound", str(os.getpid()), module, *arguments]
        with self._lock:
            if self._over:
                raise HostError("demo.over", expected="a play that goes on", observed=module)
            self._running = [p for p in self._running if p.poll() is None]
            self._running.append(subprocess.Popen(bound, text=True, **how))
            return self._running[-1]

    def end(self) -> None:
        """End all that run: first asked to, then made to."""
        with self._lock:
            self._over = True
        for process in self._running:
            process.terminate()
        for process in self._running:
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
