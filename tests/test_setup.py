"""`make setup` on a machine that lacks something: one line to run, or apt-get as root; exit 4."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ["bash", "dirname", "cat", "gcc", "swtpm", "swtpm_setup", "tpm2_quote"]


@pytest.fixture
def bin_(tmp_path: Path) -> Path:
    """A PATH without much, where nothing can change the machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        if found:
            (folder / tool).symlink_to(found)
    command(folder, "python3", f'exec {sys.executable} "$@"')
    return folder


def command(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


def setup(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", str(ROOT / "scripts" / "setup.sh")],
        env={"PATH": str(folder), "PYTHON": "python3"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def test_without_root_it_prints_the_line_to_run(bin_: Path) -> None:
    command(bin_, "id", "echo 1000")
    command(bin_, "apt-get", f"echo called >> {bin_}/log")
    done = setup(bin_)
    assert done.returncode == 4
    last = done.stderr.splitlines()[-1]
    assert last.startswith("apt-get update && apt-get install -y --no-install-recommends")
    # make demo needs bubblewrap; only make model, bench seal and the virtual machine need the rest.
    assert "bubblewrap" in last.split()
    assert not {"age", "spin", "qemu-system-x86"} & set(last.split())
    assert not (bin_ / "log").exists()


def test_root_without_apt_gets_the_same_line(bin_: Path) -> None:
    command(bin_, "id", "echo 0")
    done = setup(bin_)
    assert done.returncode == 4
    assert "apt-get install" in done.stderr


def test_root_installs_what_is_missing_and_asks_nothing(bin_: Path) -> None:
    command(bin_, "id", "echo 0")
    command(bin_, "apt-get", f'echo "$DEBIAN_FRONTEND $*" >> {bin_}/log; [ "$1" = update ]')
    done = setup(bin_)
    assert done.returncode == 4
    assert "could not install" in done.stderr
    update, install = (bin_ / "log").read_text().splitlines()
    assert update.startswith("noninteractive update")
    assert install.startswith("noninteractive install")
    assert "-y" in install
    assert "bubblewrap" in install.split()


@pytest.mark.parametrize("script", ["exit 1", None])
def test_an_old_or_absent_python_is_named(bin_: Path, script: str | None) -> None:
    (bin_ / "python3").unlink()
    if script:
        command(bin_, "python3", script)
    done = setup(bin_)
    assert done.returncode == 4
    assert "Python 3.11" in done.stderr
