"""The whole play: once as anybody sees it, and once with few images."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from svetovid.cli.demo.findings import Findings
from svetovid.cli.demo.play import play
from svetovid.cli.demo.refusals import SCENES
from svetovid.cli.demo.tasks import FASHION_MNIST, Arrays, Task

pytest.importorskip("torch")
REFUSED = {r.what: r.code for scene in SCENES for row in scene for r in row}
TASKS = {"tumours", "clothes"}


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other uids may enter, which pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="svetovid-demo-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def few() -> Task:
    """The second task with a hundredth of its images."""

    def load() -> tuple[Arrays, Arrays]:
        train, test = FASHION_MNIST.load()
        return {k: v[:600] for k, v in train.items()}, {k: v[:100] for k, v in test.items()}

    return replace(FASHION_MNIST, load=load)


def check(found: Findings) -> None:
    assert found.refusals == REFUSED
    assert len(REFUSED) >= 8
    assert found.identical_weights == dict.fromkeys(TASKS, True)
    assert found.enclave_answers_agree
    assert set(found.verdicts) == TASKS | {"answers"}
    assert not found.canary["hits"]
    assert found.canary["planted_found"]
    assert found.canary["wire_bytes"] > 10_000


@pytest.mark.timeout(900)
def test_t18_the_whole_play_with_few_images(place: Path) -> None:
    check(play(place / "demo", None, few()))
    # Every party has a home of its own, and none is anybody else's to read.
    homes = ("alice", "bob", "carol", "rita", "dora", "olga", "vera", "manager", "lab", "tee")
    assert all((place / "demo" / home).stat().st_mode & 0o077 == 0 for home in homes)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_t18_the_demo_as_anybody_sees_it(place: Path) -> None:
    said, plot = place / "demo.json", place / "demo.svg"
    command = [sys.executable, "-c", "from svetovid.cli import main; main()", "demo"]
    command += ["--folder", str(place / "demo"), "--json", str(said), "--plot", str(plot)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "main job: ok"
    found = json.loads(said.read_text())
    assert found.pop("main_job") == "ok"
    assert found.pop("total_s") > 0
    check(Findings(**found))
    # Together the owners' model is better than what each could train alone.
    clothes = found["accuracy"][FASHION_MNIST.title]
    assert clothes["sealed"] == clothes["plain, shown"]
    assert clothes["sealed"] > max(clothes["alice alone"], clothes["bob alone"])
    assert plot.stat().st_size > 1000
