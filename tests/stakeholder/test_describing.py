"""What an owner reads before it consents."""

from __future__ import annotations

import pytest

from maskedjob import in_mode, offload
from policy.policy_world import job
from svetovid.policy import guarantees
from svetovid.stakeholder import Labels, describe


def told(*operators: str) -> str:
    chosen = offload(*operators)
    return "\n".join(describe(job(mode="masked", offload=chosen), Labels()))


def test_t17_the_workers_of_a_masked_job_and_what_they_come_to() -> None:
    """T17: the whole card, and each worker with its operator and address."""
    text = told()
    for worker in offload().workers:
        assert f"{worker.certificate} at {worker.url}" in text
        assert worker.operator in text
    card = guarantees(offload(), trusted="a host that the owners' policies admit")
    assert all(word in text for word in card.words())
    assert "collusion bound 1" in text
    assert "70000 products over 9000000 masked numbers" in text


@pytest.mark.parametrize("operators", ["aab", "abca"])
def test_t17_workers_of_one_operator_are_told_before_anybody_consents(operators: str) -> None:
    text = told(*operators)
    assert "collusion bound none" in text
    assert "hidden from workers: nothing" in text


def test_other_modes_have_no_card() -> None:
    text = "\n".join(describe(job(**in_mode("attested")), Labels()))
    assert "worker" not in text
