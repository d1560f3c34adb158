"""``make demo-masked``, played whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

DEMO = Path(__file__).resolve().parents[2] / "examples" / "masked" / "demo.py"
VGG11 = ["--net", "vgg11", "--images", "32", "--batch", "16", "--epochs", "1"]


@pytest.mark.parametrize("arguments", [[], VGG11], ids=["cnn", "vgg11"])
@pytest.mark.timeout(900)
def test_the_job_is_done_and_everything_is_told(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(DEMO), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "masked job: ok" in done.stdout
    assert "Cray & Sons (simulated)" in done.stdout
    assert "bytes it was sent" in done.stdout
    assert ("accuracy on 10,000" in done.stdout) is not bool(arguments)
