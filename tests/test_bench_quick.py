"""Every benchmark still runs, and gives the figures that are asked of it; what they are is no
matter here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
FIGURES = {
    "appraise": {"incremental_per_s", "incremental_p99_ms", "ima_entries_per_s", "million_ratio"},
    "demo": {"demo_s", "setup_s", "demo_in"},
    "fleet": {"hosts", "p99_ms", "lost", "retried", "recovered_s", "drained_s"},
    "masked": {
        *("trusted_speedup", "conv512_speedup", "block_8x512_speedup", "block_1x4096_speedup"),
        *("vs_bf16", "vs_crypten", "accuracy_points", "kernel_gelem_s", "combine_gelem_s"),
        *("products_ratio", "operand_bytes_ratio", "share_ratio", "published_share_ratio"),
    },
    "release": {"p50_ms", "p99_ms", "first_ms", "cold_ms", "errors", "parallel_hosts"},
    "seal": {
        *("open_ratio", "first_open_ratio", "open_ratio_hot", "first_open_ratio_hot"),
        *("seal_gb_per_s", "vs_age", "random_1k_p50_us", "rss_mb_4gib"),
    },
    "train": {
        *("ratio", "measure_s", "attest_s", "release_s", "open_s", "start_s", "decrypt_s"),
        *("startup_s", "command_s", "plain_s"),
    },
}


@pytest.mark.parametrize(
    "name",
    [
        "appraise",
        "demo",
        "release",
        "seal",
        pytest.param("fleet", marks=pytest.mark.slow),
        pytest.param("masked", marks=pytest.mark.slow),
        pytest.param("train", marks=pytest.mark.slow),
    ],
)
@pytest.mark.timeout(900)
def test_a_quick_run(name: str, tmp_path: Path) -> None:
    said = tmp_path / "figures.json"
    command = [sys.executable, "-c", "from svetovid.cli import main; main()"]
    command += ["bench", name, "--quick", "--json", str(said)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(said.read_text())
    assert found["benchmark"] == name
    assert found.keys() >= FIGURES[name] | {"quiet", "commit", "dirty", "measures"}
    assert found["quick"] is True
    if name == "train":
        assert found["identical_weights"] is True
