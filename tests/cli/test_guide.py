"""The guide's first page: its very commands and its Python, run in an empty folder."""

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
COMMAND = [sys.executable, "-c", "from svetovid.cli import main; main()"]


def blocks() -> list[tuple[str, str]]:
    """Language and text of each block of code: ``sh`` is the job, ``console`` is beside it."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def commands(*languages: str) -> list[str]:
    """Every command of the page in blocks of these languages, in order."""
    lines = [line for found, text in blocks() if found in languages for line in text.splitlines()]
    return [line for line in lines if line.strip()]


def test_the_main_job_is_at_most_fifteen_commands() -> None:
    assert 0 < len(commands("sh")) <= MAX_COMMANDS
    assert all(c.startswith("svetovid ") for c in commands("sh", "console"))
    assert {language for language, _ in blocks()} == {"sh", "console", "python"}


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

    def run(words: list[str]) -> None:
        nonlocal shown
        done = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, timeout=240
        )
        shown += done.stdout + done.stderr
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"

    try:
        for language, text in blocks():
            if language == "python":
                run([sys.executable, "-c", text])
                continue
            for line in filter(str.strip, text.splitlines()):
                run([*COMMAND, *shlex.split(line)[1:]])
    finally:
        if (folder / "manager" / "manager.pid").exists():
            stop = [*COMMAND, "manager", "stop", "--home", "manager"]
            subprocess.run(stop, cwd=folder, env=environment)
    from safetensors.numpy import load_file

    model = load_file(folder / "model.safetensors")
    assert model["weight"].shape == (1, 30)
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == 0o600
    assert "canary-passphrase" not in shown
    assert "SIMULATED" in shown
    assert "trusted, unproven" in shown
    assert "200 of 200 steps, finished" in shown
    scored = re.search(r"(\d+\.\d)% of 169 records right", shown)
    assert scored is not None
    assert float(scored[1]) > 90
