"""The guide's first page: its very commands, run in an empty folder."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "main-job.md"
MAX_COMMANDS = 15


def commands() -> list[str]:
    """Every command of the page, in order."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_the_main_job_is_at_most_fifteen_commands() -> None:
    found = commands()
    assert 0 < len(found) <= MAX_COMMANDS
    assert all(c.startswith("svetovid ") for c in found)


@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="the job trains with PyTorch: extra 'train'"
)
def test_the_commands_of_the_guide_do_what_it_says(tmp_path: Path) -> None:
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("canary-passphrase\n")
    passphrase.chmod(0o600)
    folder = tmp_path / "work"
    folder.mkdir()
    environment = os.environ | {"SVETOVID_PASSPHRASE_FILE": str(passphrase)}
    shown = ""
    try:
        for command in commands():
            words = shlex.split(command)[1:]
            done = subprocess.run(
                [sys.executable, "-c", "from svetovid.cli import main; main()", *words],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=240,
            )
            shown += done.stdout + done.stderr
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    finally:
        if (folder / "manager" / "manager.pid").exists():
            stop = "from svetovid.cli import main; main()"
            words = ["manager", "stop", "--home", "manager"]
            subprocess.run([sys.executable, "-c", stop, *words], cwd=folder, env=environment)
    from safetensors.numpy import load_file

    model = load_file(folder / "model.safetensors")
    assert model["weight"].shape == (1, 30)
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == 0o600
    assert "canary-passphrase" not in shown
    assert "SIMULATED" in shown
    assert "trusted, unproven" in shown
