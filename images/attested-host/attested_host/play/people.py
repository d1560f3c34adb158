"""Who takes part, each a process and a folder of its own, acting through the command line (T18)."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

from svetovid.errors import HostError, from_dict

__all__ = ["Person"]

_TIMEOUT_S = 180


class Person:
    """One party. It sees its own home and the folder that everybody shares.

    Args:
        folder: of the whole play; the home is made below it.
        name: also of the home.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self.name = name
        self.home = folder / name
        self.passphrase = folder / "passphrases" / name
        self.passphrase.parent.mkdir(mode=0o700, exist_ok=True)
        self.passphrase.touch(0o600)
        self.passphrase.write_text(secrets.token_hex(16))

    def run(self, *arguments: str | Path) -> dict[str, Any]:
        """Run one ``svetovid`` command; its JSON answer.

        Raises:
            SvetovidError: as the command refused.
        """
        code = "from svetovid.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments), "--json"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=_TIMEOUT_S, cwd=self._folder,
            env={
                **{k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "HOME")},
                "SVETOVID_PASSPHRASE_FILE": str(self.passphrase),
                "SVETOVID_PUBLIC": str(self._folder / "public"),
            },
        )  # fmt: skip
        try:
            answer = json.loads(done.stdout)
        except ValueError as e:
            raise HostError(
                "demo.answer",
                expected=f"an answer of svetovid {arguments[0]} {arguments[1]}",
                observed=(done.stdout + done.stderr)[-500:],
                next_step="run it by hand",
            ) from e
        if done.returncode != 0:
            raise from_dict(answer)
        assert isinstance(answer, dict)
        return answer

    def acts(self, *arguments: str | Path) -> dict[str, Any]:
        """:meth:`run` with this party's own home."""
        return self.run(*arguments, "--home", self.home)
