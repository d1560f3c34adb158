"""Proposing a job: it says what its manifests say, and takes no other job's place."""

from __future__ import annotations

import pytest

from ownerstory import JOB, Story
from svetovid import stakeholder
from svetovid.errors import (
    InputError,
    ParseError,
    PolicyError,
    SvetovidError,
)


def test_a_slot_that_is_not_what_its_manifest_says(shared: Story) -> None:
    ann, olga = (shared.people[n].key_id for n in ("ann", "olga"))
    for old, new, expected, observed in (
        ("owner: $ann", "owner: $olga", f"owner {ann}", f"owner {olga}"),
        ("use: data", "use: model", "use data", "use model"),
    ):
        with pytest.raises(PolicyError, match=r"job\.manifest") as e:
            shared.propose(JOB.replace(old, new))
        assert e.value.reason.expected == f"as its manifest says: {expected}"
        assert e.value.reason.observed == observed
    (shared.public / "ann-data.manifest.json").unlink()
    unknown = "sha256:" + "0" * 64
    with pytest.raises(PolicyError, match=r"job\.manifest") as e:
        shared.propose(JOB.replace("manifest: $ann-data", f"manifest: '{unknown}'"))
    assert unknown in e.value.reason.expected
    assert "svetovid share" in e.value.reason.next_step


def test_a_job_that_cannot_be_read_is_named(shared: Story) -> None:
    shared.propose()
    path = shared.public / "little.job.json"
    path.write_text(path.read_text().replace('"payload":"', '"payload":"AAAA'))
    with pytest.raises(SvetovidError) as e:
        stakeholder.read_job(path)
    assert e.value.reason.clause == str(path)


def test_a_job_is_not_put_over_another(shared: Story) -> None:
    """The same proposal is one job; another of its name is kept until it is done with."""
    first = shared.propose(replace=False)
    assert shared.propose(replace=False).digest() == first.digest()
    path = shared.public / "little.job.json"
    stands = path.read_bytes()
    for text, by in ((JOB.replace("epochs: 3", "epochs: 4"), "rita"), (JOB, "olga")):
        with pytest.raises(InputError) as e:
            shared.propose(text, by=by, replace=False)
        assert e.value.code == "job.exists"
        assert e.value.reason.observed == first.digest()
        assert "--replace" in e.value.reason.next_step
        assert path.read_bytes() == stands
    again = shared.propose()
    assert again.digest() != first.digest()
    path.write_bytes(b"junk")
    with pytest.raises(InputError, match=r"job\.exists"):
        shared.propose(replace=False)
    assert path.read_bytes() == b"junk"


def test_what_a_refused_proposal_sends(shared: Story) -> None:
    """A job that finds another in its place is not at the manager either."""
    rita = shared.people["rita"]
    shared.propose()
    before = len(stakeholder.records(rita))
    with pytest.raises(InputError, match=r"job\.exists"):
        shared.propose(JOB.replace("epochs: 3", "epochs: 4"), replace=False)
    assert len(stakeholder.records(rita)) == before


def test_names_that_stand_for_nothing_say_what_to_get(shared: Story) -> None:
    for old, new in (("owner: $ann", "owner: $zoe"), ("recipients: [$rita]", "recipients: [$zoe]")):
        with pytest.raises(ParseError, match=r"policy\.reference") as e:
            shared.propose(JOB.replace(old, new))
        reason = e.value.reason
        assert str(shared.public) in reason.expected
        assert "$zoe" in reason.expected
        assert "$rita" in reason.observed
        assert "svetovid identity create" in reason.next_step
