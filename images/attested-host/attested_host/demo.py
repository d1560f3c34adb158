"""``make demo-vm``: the image in a virtual machine. The main job runs; what must be refused is.

Each refusal begins in a world where the job would run, with one thing changed: a file, a command
line, a message, a block of the running guest's disk. Last the enforcing profile, where the guest's
own kernel refuses.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa

from attested_host.build import HERE, build, load
from attested_host.lock import BuildError
from attested_host.machine import missing_tools
from attested_host.play.story import Story
from attested_host.play.trial import COPY, PROGRAM, try_programs
from attested_host.signing import ImaSigner

__all__ = ["main"]


def enforce(folder: Path, say: Callable[[str], None]) -> None:
    """Build the enforcing profile with a key of this moment, and try what its kernel lets run.

    Raises:
        BuildError: where something runs that nobody signed, or what was signed does not.
    """
    key = rsa.generate_private_key(65537, 2048)
    image = build(folder / "enforcing", "numpy", lambda _: None, ImaSigner(key))
    found = try_programs(image, folder)
    for (act, path), came in found.items():
        say(f"enforcing profile: {act.replace('_', ' ')} {path}: {came}")
    expected = {(act, p): c for act in ("run", "map_as_code")
                for p, c in ((PROGRAM, "done"), (COPY, "EACCES"))}  # fmt: skip
    if found != expected:
        raise BuildError(f"the enforcing profile: expected {expected}, met {found}")
    say("refused: a program that nobody signed, by the guest's kernel")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="attested_host.demo", description=__doc__)
    parser.add_argument("--image", type=Path, default=HERE / "build")
    parser.add_argument("--short", action="store_true", help="the main job alone")
    given = parser.parse_args(arguments)
    begun = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"{time.monotonic() - begun:7.1f} s  {text}\n")
        sys.stdout.flush()

    if missing := missing_tools():
        sys.stderr.write(f"demo-vm: apt-get install {' '.join(missing)}\n")
        return 4
    with tempfile.TemporaryDirectory(prefix="svetovid-vm-") as folder:
        story = Story(Path(folder), load(given.image), say)
        try:
            story.main_job()
            if not given.short:
                story.refusals()
                if os.geteuid() == 0:
                    (Path(folder) / "trial").mkdir()
                    enforce(Path(folder) / "trial", say)
                else:
                    say("enforcing profile: not tried, since signing its programs takes root")
        except BuildError as e:
            sys.stderr.write(f"demo-vm: {e}\n")
            return 4
        finally:
            story.close()
    sys.stdout.write("main job: ok\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
