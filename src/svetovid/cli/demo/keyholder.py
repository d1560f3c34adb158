"""The manager of the play: a process of its party's, ended and started again by the operator."""

from __future__ import annotations

import socket
import subprocess
import time
from urllib.parse import urlsplit

from svetovid.cli.demo.parties import Party
from svetovid.errors import HostError, SvetovidError
from svetovid.stakeholder import read_pin

__all__ = ["Keyholder"]

_START_S = 60.0
_STOP_S = 20.0


class Keyholder:
    """``svetovid manager serve`` in the manager's home; at its next start, where it was before."""

    def __init__(self, party: Party) -> None:
        self._party = party
        self._process: subprocess.Popen[str] | None = None

    def serve(self) -> tuple[str, int]:
        """Start it; where it listens, once it does.

        Raises:
            HostError: ``demo.manager`` where it ends or does not listen in time.
        """
        path = self._party.home / "manager.log"
        with path.open("ab") as log:
            self._process = self._party.start(
                "svetovid.cli", "manager", "serve", "--home", str(self._party.home), output=log
            )
        deadline = time.monotonic() + _START_S
        while self._process.poll() is None and time.monotonic() < deadline:
            if (place := self._listens()) is not None:
                return place
            time.sleep(0.05)
        raise HostError(
            "demo.manager",
            expected="a manager that listens",
            observed=path.read_text(errors="replace")[-300:],
            next_step=f"read {path}",
        )

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_STOP_S)

    def _listens(self) -> tuple[str, int] | None:
        try:
            url = urlsplit(read_pin(self._party.home / "manager.json").url)
            place = (url.hostname or "", url.port or 0)
            socket.create_connection(place, timeout=2).close()
        except (OSError, SvetovidError):
            return None
        return place
