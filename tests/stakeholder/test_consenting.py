"""Consent: what an owner is told before it signs, and whoever has nothing to sign (T5)."""

from __future__ import annotations

import time

import pytest

from maskedjob import offload
from ownerstory import JOB, NOW, Story
from svetovid import stakeholder
from svetovid.errors import (
    PolicyError,
    Reason,
)
from svetovid.policy import Job
from svetovid.stakeholder import read_names

REFUSED: list[tuple[str, str, str]] = [
    ("epochs: 3", "epochs: 9", "policy.condition"),
    ("mode: attested", "mode: enclave", "grant.mode"),
    ("output_bytes: 100000", "output_bytes: 2000000", "limit.output_bytes"),
    ("recipients: [$rita]", "recipients: [$olga]", "grant.recipient"),
    ("environment: $runtime", "environment: $cas", "policy.environment"),
    ("mode: attested", "mode: attested\ndevices: [/dev/nvidia0]", "grant.device"),
]


@pytest.mark.parametrize(("old", "new", "code"), REFUSED)
def test_an_owner_is_told_before_it_signs(shared: Story, old: str, new: str, code: str) -> None:
    """T5: the owner's own clauses are held against the job; nothing is signed or sent."""
    names = shared.folder / "anchors.json"
    (shared.public / "cas.anchors.json").write_bytes(names.read_bytes())
    job = shared.propose(JOB.replace(old, new))
    ann = shared.people["ann"]
    with pytest.raises(PolicyError) as e:
        stakeholder.consent(ann, job, NOW)
    assert code in {r.code for r in e.value.reasons}
    assert all(r.next_step and r.clause for r in e.value.reasons)
    assert not stakeholder.status(ann, job.digest()).consents


def test_an_expired_grant(shared: Story) -> None:
    with pytest.raises(PolicyError, match=r"limit\.expired"):
        stakeholder.consent(shared.people["ann"], shared.propose(), 9_000_000_001)


def test_another_code_is_refused_by_the_data_owner(shared: Story) -> None:
    (shared.folder / "code" / "train.py").write_text("print('changed')\n")
    shared.share("carol", shared.folder / "code", "code")
    job = shared.propose()
    with pytest.raises(PolicyError, match=r"grant\.code"):
        stakeholder.consent(shared.people["ann"], job, NOW)
    stakeholder.consent(shared.people["carol"], job, NOW)


def test_t17_workers_of_one_operator_are_refused_before_anybody_signs(shared: Story) -> None:
    """T17: by every owner's own policy, which need not speak of workers."""
    plain = shared.propose().to_json()
    for operators, refused in (("abc", False), ("aba", True)):
        chosen = offload(*operators).to_json()
        job = Job.from_json(plain | {"mode": "masked", "offload": chosen})
        for name in ("ann", "carol"):
            with pytest.raises(PolicyError) as e:
                stakeholder.consent(shared.people[name], job, NOW)
            assert ("grant.collusion" in {r.code for r in e.value.reasons}) is refused


def _no_consent(story: Story, name: str, job: Job, code: str) -> Reason:
    with pytest.raises(PolicyError) as e:
        stakeholder.consent(story.people[name], job, NOW)
    assert e.value.code == code
    return e.value.reason


def test_who_has_no_say(shared: Story) -> None:
    """Whoever owns nothing in a job is told who does."""
    reason = _no_consent(shared, "olga", shared.propose(), "consent.owner")
    for owner in ("ann", "carol"):
        assert shared.people[owner].key_id in reason.expected
    assert shared.people["olga"].key_id in reason.observed
    assert "nobody else's consent is needed" in reason.next_step
    assert reason.owner == ""


def test_an_older_version_of_ones_asset(shared: Story) -> None:
    """The owner is told which version is the newest; after a rotation, too."""
    job = shared.propose()
    newest = shared.share("ann", shared.folder / "ann-data.npz", "data")
    reason = _no_consent(shared, "ann", job, "consent.version")
    assert f"version 2, the newest that ann owns: {newest}" == reason.expected
    assert reason.observed == f"version 1: {job.assets['data'].manifest}"
    assert "job propose" in reason.next_step
    assert "assets data" in reason.clause
    after, statement = stakeholder.rotate(shared.people["ann"], int(time.time()))
    stakeholder.announce(after, statement)
    shared.people["ann"] = after
    assert _no_consent(shared, "ann", job, "consent.version").expected == reason.expected


def test_an_own_asset_that_no_policy_or_more_than_one_speaks_of(shared: Story) -> None:
    ann = shared.people["ann"]
    job = shared.propose()
    names, file = read_names(shared.public), shared.folder / "ann.yaml"
    file.write_text(file.read_text().replace("name: ann-policy", "name: other"))
    chosen = stakeholder.choose(
        ann.home,
        names,
        anchors=[shared.folder / "anchors.json"],
        references=[shared.folder / "references.json"],
        asset="ann-data",
    )
    other = stakeholder.read_policy(ann.home, file, names, chosen=chosen.digests)
    stakeholder.publish_policy(ann, other, chosen.documents)
    assert _no_consent(shared, "ann", job, "consent.policy").observed == "ann-policy, other"
    for path in ann.home.policies.glob("*.json"):
        path.unlink()
    reason = _no_consent(shared, "ann", job, "consent.policy")
    assert reason.observed == "none"
    assert "ann-data" in reason.expected
    assert "policy publish --asset" in reason.next_step
