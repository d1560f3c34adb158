"""Serves a manager in a process of its own, for tests that end it without warning.

usage: served.py HOME [POINT COUNT]: at the COUNT-th time at POINT, the process kills itself.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from svetovid.crypto import Secret
from svetovid.manager import PassphraseSealer, Settings, serve


def main() -> None:
    home = Path(sys.argv[1])
    point, left = (sys.argv[2], int(sys.argv[3])) if len(sys.argv) > 2 else ("", 0)

    def fault(at: str) -> None:
        nonlocal left
        if at == point:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    serve(
        home,
        PassphraseSealer(Secret(b"test")),
        port=int(os.environ.get("SERVED_PORT", "0")),
        settings=Settings(open_challenges=1000, challenge_s=600),
        ready=lambda pin: print(pin.url, flush=True),
        fault=fault,
    )


if __name__ == "__main__":
    main()
