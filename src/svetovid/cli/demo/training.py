"""Acts two, three and eight: two owners train one model, and it is what plain training gives."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from svetovid.cli.demo.cast import policy_yaml
from svetovid.cli.demo.processes import Processes
from svetovid.cli.demo.story import Story
from svetovid.cli.demo.tasks import Arrays, Comparison, Task, compare_plain

__all__ = ["Trained", "compare", "prepare", "train"]


@dataclass(frozen=True, slots=True)
class Trained:
    """A model that rita opened.

    Attributes:
        model: its file, in rita's home.
        beside: plain training, which goes on beside the next acts.
    """

    task: Task
    model: Path
    beside: Future[Comparison]


def prepare(story: Story, task: Task, *, runs: int) -> Path:
    """Sealing, policies, a proposal and all consents; the job's file."""
    code = f"{task.name}-code"
    terms: dict[str, Any] = {"modes": ["attested"], "recipients": ["rita"]}
    bundle = story.bundle("carol", code, task, "train.py")
    story.share("carol", bundle, code, policy_yaml(code, use="code", **terms))
    parts = dict(zip(("alice", "bob"), task.halves(task.load()[0]), strict=True))

    def bring(owner: str) -> None:
        asset = f"{task.name}-{owner}"
        text = policy_yaml(asset, use="data", code=[code], runs=runs, **terms)
        story.share(owner, story.save(owner, asset, parts[owner]), asset, text)

    story.together(bring, *parts)
    job = story.propose(task, task.name)
    story.consent(job, "alice", "bob", "carol")
    return job


def train(story: Story, task: Task, job: Path) -> Trained:
    """Run what :func:`prepare` agreed, and let rita open the model."""
    story.say("alice and bob sealed their records, carol her code; their policies stand")
    story.say("rita proposed the job; alice, bob and carol agreed to its hash")
    story.run_well(job, task.name, "lab")
    story.say("olga's host proved itself, got the keys, trained in the sandbox, sealed the model")
    model = story.open_output(task.name, "model", "rita")
    weights = model.read_bytes()
    header = 8 + int.from_bytes(weights[:8], "little")  # names and shapes stand in the job
    story.secrets[f"{task.name} model"] = weights[header:]
    return Trained(task, model, story.begin(partial(_plain, task, model, story.stage.processes)))


def _plain(task: Task, model: Path, processes: Processes) -> Comparison:
    """The opened model beside plain training on all data, and on each owner's alone."""
    train, test = task.load()
    first, second = task.halves(train)
    pairs: dict[str, tuple[Arrays, Arrays]] = {
        "alice alone": task.halves(first),
        "bob alone": task.halves(second),
        "plain, shown": (first, second),
    }
    return compare_plain(task, pairs, test, model, processes)


def compare(story: Story, *trained: Trained) -> None:
    """Wait for plain training, and say how the sealed models compare."""
    for one in trained:
        found, name = one.beside.result(), one.task.name
        story.findings.identical_weights[name] = found.identical
        story.findings.accuracy[one.task.title] = found.accuracy
        how = "bit for bit" if found.identical else "NOT"
        story.say(f"{name}: the sealed model's weights are {how} those of plain training")
