"""The limits in what we hand people: enough for all the runs that they promise (L5)."""

from __future__ import annotations

import pytest

from svetovid.cli.demo.cast import job_yaml, policy_yaml
from svetovid.cli.demo.tasks import BREAST_CANCER, FASHION_MNIST, Task
from svetovid.cli.example_files import _CODE_POLICY, _DATA_POLICY, _JOB
from svetovid.crypto import Identity
from svetovid.policy import Job, Limits
from svetovid.policy.yaml_input import load_job, load_policy

WHO = Identity.generate("rita")
DIGEST = "sha256:" + "1" * 64
PEOPLE = ("alice", "bob", "carol", "rita", "olga", "manager")


class Names(dict[str, str]):
    """Every name stands for something."""

    def __contains__(self, name: object) -> bool:
        return True

    def __getitem__(self, name: str) -> str:
        return WHO.key_id if name in PEOPLE else DIGEST

    def get(self, name: str, default: object = None) -> str:  # type: ignore[override]
        return self[name]


def job(text: str) -> Job:
    defaults = {"proposer": WHO.key_id, "nonce": "AAAAAAAAAAAAAAAAAAAAAA=="}
    cards = {"rita": WHO.signed_card()}
    return load_job(text.encode(), resolve=Names(), cards=cards, defaults=defaults)


def limits(text: str) -> Limits:
    defaults = {"owner": WHO.key_id, "manager": WHO.key_id, "sequence": 1}
    (grant,) = load_policy(text.encode(), resolve=Names(), defaults=defaults).grants
    return grant.limits


def enough(granted: Limits, wanted: Job) -> None:
    assert granted.runs is not None
    assert granted.output_bytes is not None
    assert granted.runs * wanted.bytes_out <= granted.output_bytes


def test_l5_the_examples_budget_holds_for_a_run_and_its_resumes() -> None:
    for text in (_DATA_POLICY.format(owner="alice"), _CODE_POLICY):
        granted = limits(text)
        enough(granted, job(_JOB))
        assert granted.runs is not None
        assert granted.runs >= 2


@pytest.mark.parametrize("task", [BREAST_CANCER, FASHION_MNIST], ids=lambda t: t.name)
@pytest.mark.parametrize("runs", [1, 5, 8, 1000])
def test_l5_the_demos_budget_holds_for_every_run_it_grants(task: Task, runs: int) -> None:
    terms = {"use": "data", "modes": ["attested"], "recipients": ["rita"], "code": ["code"]}
    text = job_yaml(
        "job",
        mode="attested",
        assets={"code": ("code", "carol", "code"), "a": ("a", "alice", "data")},
        entry="train.py",
        environment="lab-runtime",
        outputs={"model": {k: ("float32", s) for k, s in task.tensors.items()}},
        recipients=["rita"],
        metrics=task.metrics,
    )
    enough(limits(policy_yaml("policy", runs=runs, **terms)), job(text))  # type: ignore[arg-type]
