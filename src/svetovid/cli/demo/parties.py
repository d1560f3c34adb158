"""The demo's parties: separate processes with separate homes, and uids where root allows (T18).

A party acts only through the ``svetovid`` command, as a person would, and sees only its own home,
the public folder and the storage.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from svetovid.cli.demo.processes import PYTHON, Processes
from svetovid.crypto import Secret
from svetovid.errors import HostError, SvetovidError, from_dict

__all__ = ["Party", "Stage", "separate_uids"]

_FIRST_UID = 64_100
_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the play is set: folders that everybody may read, and the processes in it."""

    folder: Path
    processes: Processes = field(default_factory=Processes)

    @property
    def public(self) -> Path:
        return self.folder / "public"

    @property
    def runtime(self) -> Path:
        """The tree that both of olga's machines let jobs see."""
        return self.folder / "runtime"

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    @property
    def host_papers(self) -> Path:
        """Where hosts leave what their operator passes on."""
        return self.folder / "host-papers"


@functools.cache
def separate_uids() -> bool:
    """Whether each party can have its own uid: we are root, and others can read this Python."""
    if os.geteuid() != 0:
        return False
    try:
        done = subprocess.run(
            [*PYTHON, "svetovid.cli", "version"],
            user=_FIRST_UID,
            group=_FIRST_UID,
            extra_groups=(),
            cwd="/",
            capture_output=True,
            check=False,
            timeout=60,
        )
    except OSError:  # this Python itself cannot be reached
        return False
    return done.returncode == 0


class Party:
    """One stakeholder, operator or service of the demo.

    Args:
        stage: the common folders.
        name: also the name of its home.
        number: which uid it gets where uids are separate.
    """

    def __init__(self, stage: Stage, name: str, number: int) -> None:
        self.stage = stage
        self.name = name
        self.home = stage.folder / name
        self.uid = _FIRST_UID + number if separate_uids() else None
        self.passphrase_file = stage.folder / "passphrases" / name
        self.passphrase_file.parent.mkdir(exist_ok=True)
        self.passphrase_file.write_bytes(os.urandom(16).hex().encode())
        self.passphrase_file.chmod(0o600)
        self.own(self.passphrase_file)
        self._acting = threading.Lock()

    def passphrase(self) -> Secret:
        return Secret(self.passphrase_file.read_bytes())

    def own(self, path: Path) -> None:
        """Make ``path`` this party's."""
        if self.uid is not None:
            os.chown(path, self.uid, self.uid)

    def environment(self) -> dict[str, str]:
        keep = {
            k: v for k, v in os.environ.items() if k in {"PATH", "LANG", "COVERAGE_PROCESS_CONFIG"}
        }
        return {
            **keep,
            "HOME": str(self.home),
            "SVETOVID_PASSPHRASE_FILE": str(self.passphrase_file),
            "SVETOVID_PUBLIC": str(self.stage.public),
        }

    def start(
        self, module: str, *arguments: str, output: int | IO[bytes] = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        """Start a module of ours as a process of this party."""
        return self.stage.processes.start(
            module,
            *arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=self.environment(),
            cwd=self.stage.folder,
            user=self.uid,
            group=self.uid,
            extra_groups=() if self.uid is not None else None,
        )

    def run(self, *arguments: str | Path) -> dict[str, Any]:
        """Run one ``svetovid`` command; its JSON answer.

        Raises:
            SvetovidError: as the command refused, rebuilt from its JSON.
        """
        return self.answer("svetovid.cli", *map(str, arguments), "--json")

    def answer(self, module: str, *arguments: str) -> dict[str, Any]:
        """What a process of this party answers in JSON; a party does one thing at a time.

        Raises:
            SvetovidError: where it ends with an error, rebuilt from its JSON.
        """
        with self._acting:
            process = self.start(module, *arguments)
            try:
                out, err = process.communicate(timeout=_TIMEOUT_S)
            except subprocess.TimeoutExpired as e:
                process.kill()
                raise HostError(
                    "demo.timeout", expected="an answer", observed=" ".join((module, *arguments))
                ) from e
        try:
            answer = json.loads(out)
        except ValueError as e:
            raise HostError(
                "demo.answer",
                expected="JSON",
                observed=(out + err)[-300:],
                next_step=f"run it by hand: python -m {' '.join((module, *arguments))}",
            ) from e
        if process.returncode != 0:
            raise from_dict(answer)
        assert isinstance(answer, dict)
        return answer

    def acts(self, *arguments: str | Path) -> dict[str, Any]:
        """:meth:`run` with this party's own home."""
        return self.run(*arguments, "--home", self.home)


def refused(action: Callable[[], object]) -> SvetovidError | None:
    """The refusal that ``action`` met; None where it went through."""
    try:
        action()
    except SvetovidError as e:
        return e
    return None


def fresh_folder(folder: Path) -> None:
    """Empty ``folder``, which must be ours: new, or one that an earlier demo made.

    Raises:
        HostError: ``demo.folder``.
    """
    marker = folder / ".svetovid-demo"
    try:
        if folder.exists() and any(folder.iterdir()) and not marker.exists():
            raise FileExistsError(errno.EEXIST, "something else is there")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        folder.chmod(0o755)
        marker.touch()
    except (OSError, ValueError) as e:
        raise HostError(
            "demo.folder",
            expected="a new folder, or one of an earlier demo",
            observed=f"{folder}: {getattr(e, 'strerror', None) or 'not a path'}",
            next_step="choose another folder with --folder",
        ) from e
