"""``make demo-vm``: the image in a virtual machine. The main job runs; what must be refused is.

Each refusal begins in a world where the job would run, with one thing changed: a file, a command
line, a message, a block of the running guest's disk.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from attested_host.build import HERE, load
from attested_host.lock import BuildError
from attested_host.machine import missing_tools
from attested_host.play.story import Story

__all__ = ["main"]


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
        except BuildError as e:
            sys.stderr.write(f"demo-vm: {e}\n")
            return 4
        finally:
            story.close()
    sys.stdout.write("main job: ok\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
