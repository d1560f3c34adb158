"""The whole job as a benchmark's candidate: owners, manager, TPM host and sandbox, all real.

Every party is a process of its own that speaks the real API, as in the demo; only the training
itself is timed against the baseline, and the stages before it are reported.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.train import Outcome, RunJob, Workload
from svetovid.cli.demo.cast import policy_yaml
from svetovid.cli.demo.story import Story
from svetovid.cli.demo.tasks import FASHION_MNIST

__all__ = ["attested"]


class _Jobs:
    def __init__(self, story: Story) -> None:
        self._story = story
        self._shared: set[int] = set()
        self._count = 0

    def _share(self, work: Workload, size: int) -> None:
        story, terms = self._story, {"modes": ["attested"], "recipients": ["rita"]}
        code = f"code-{size}"
        folder = story.stage.folder / "papers" / code
        folder.mkdir(parents=True)
        for name, content in work.code.items():
            (folder / name).write_bytes(content)
        story.share("carol", folder, code, policy_yaml(code, use="code", runs=1000, **terms))
        for owner, slot in (("alice", "a"), ("bob", "b")):
            asset = f"{owner}-{size}"
            text = policy_yaml(asset, use="data", code=[code], runs=1000, **terms)
            source = story.save(owner, asset, work.datasets[slot])
            story.share(owner, source, asset, text)

    def run(self, work: Workload) -> Outcome:
        story = self._story
        size = len(next(iter(work.datasets["a"].values())))
        if size not in self._shared:
            self._share(work, size)
            self._shared.add(size)
        self._count += 1
        name = f"train-{self._count}"
        assets = {
            "code": (f"code-{size}", "carol", "code"),
            "a": (f"alice-{size}", "alice", "data"),
            "b": (f"bob-{size}", "bob", "data"),
        }
        job = story.propose(
            FASHION_MNIST,
            name,
            assets=assets,
            parameters=work.parameters,
            seed=work.seed,
            entry=work.entry,
        )
        story.consent(job, "alice", "bob", "carol")
        timings: Mapping[str, float] = story.run(job)["timings"]
        model = story.open_output(name, "model", "rita", "lab").read_bytes()
        metrics: Any = json.loads(story.open_output(name, "metrics", "rita", "lab").read_bytes())
        return Outcome(model, metrics["metrics"], timings)


@contextmanager
def attested() -> Iterator[RunJob]:
    """A world with a manager, owners and a TPM host; runs workloads until it is closed."""
    with tempfile.TemporaryDirectory(prefix="svetovid-bench-") as folder:
        Path(folder).chmod(0o755)
        story = Story(Path(folder) / "world", lambda _: None, lambda _: None)
        try:
            story.open_house()
            yield _Jobs(story).run
        finally:
            story.close()
