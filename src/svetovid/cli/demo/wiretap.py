"""The operator's tap: a TCP relay that forwards every byte and keeps a copy.

The demo puts it between all parties and the manager. What it keeps is what anyone on the network
sees, and the canary search goes through it.
"""

from __future__ import annotations

import socket
import threading
from pathlib import Path

__all__ = ["Wiretap"]


class Wiretap:
    """Relays ``127.0.0.1:port`` to ``upstream`` and appends what passes to ``capture``."""

    def __init__(self, upstream: tuple[str, int], capture: Path, port: int = 0) -> None:
        self._upstream = upstream
        self._file = capture.open("wb")
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", port))
        self.port: int = self._server.getsockname()[1]
        self.bytes_seen = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._upstream, timeout=10)
                far.settimeout(None)
            except OSError:
                near.close()
                continue
            for a, b in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(a, b), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                with self._lock:
                    if not self._file.closed:
                        self._file.write(data)
                    self.bytes_seen += len(data)
                sink.sendall(data)
        except OSError:
            pass  # either end hung up: the other learns it below
        for s in (source, sink):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def flush(self) -> None:
        with self._lock:
            if not self._file.closed:
                self._file.flush()

    def close(self) -> None:
        self._server.close()
        with self._lock:
            self._file.close()
