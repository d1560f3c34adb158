"""Act four: rita's model answers dora's questions on the host with the SIMULATED TEE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from svetovid.cli.demo.cast import job_yaml, policy_yaml
from svetovid.cli.demo.story import Story
from svetovid.cli.demo.tasks import Task
from svetovid.cli.demo.training import Trained

__all__ = ["ask", "check_answers", "prepare_questions"]

_TERMS: dict[str, Any] = {"modes": ["enclave"], "recipients": ["dora"], "host": "tee"}


def prepare_questions(story: Story, task: Task) -> None:
    """What needs no model yet: carol's program that answers, and dora's questions."""
    code = f"{task.name}-answer"
    bundle = story.bundle("carol", code, task, "answer.py")
    story.share("carol", bundle, code, policy_yaml(code, use="code", **_TERMS))
    questions = story.save("dora", "questions", {"image": task.load()[1]["image"]})
    text = policy_yaml("questions", use="data", code=[code], **_TERMS)
    story.share("dora", questions, "questions", text)


def ask(story: Story, trained: Trained) -> Path:
    """rita shares the model, everybody agrees, the host answers; the file that dora opened."""
    from safetensors.numpy import load_file

    task = trained.task
    test = task.load()[1]
    count = len(test[task.label])
    code, asset = f"{task.name}-answer", f"{task.name}-model"
    text = policy_yaml(asset, use="model", code=[code], **_TERMS)
    story.share("rita", trained.model, asset, text)
    paper = job_yaml(
        "answers",
        mode="enclave",
        assets={
            "code": (code, "carol", "code"),
            "model": (asset, "rita", "model"),
            "questions": ("questions", "dora", "data"),
        },
        entry="answer.py",
        environment="lab-runtime",
        outputs={"answers": {"label": ("int64", [count])}},
        recipients=["dora"],
    )
    file = story.cast.write("answers.job.yaml", paper)
    job = Path(story.cast["dora"].acts("job", "propose", file)["file"])
    story.consent(job, "carol", "rita", "dora")
    story.run_well(job, "answers", "tee")
    opened = story.open_output("answers", "answers", "dora")
    right = 100 * float((load_file(opened)["label"] == test[task.label]).mean())
    story.say(
        f"dora opened {count} answers; {right:.1f} % are right, and rita never saw a question"
    )
    return opened


def check_answers(story: Story, trained: Trained, opened: Path) -> None:
    """Hold dora's answers against what the same model says at home."""
    from safetensors.numpy import load_file

    at_home = trained.beside.result().predicted
    answers = load_file(opened)["label"]
    story.findings.enclave_answers_agree = bool((answers == at_home).all())
