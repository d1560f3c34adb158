"""The owners' side against the real manager, in this process: share, propose, consent, look."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from inprocess import InProcess
from ownerstory import NOW, POLICY, Story
from svetovid import stakeholder
from svetovid.crypto import Card, Secret
from svetovid.errors import (
    InputError,
    IntegrityError,
    PolicyError,
    RefusalError,
)
from svetovid.manager import Home, PassphraseSealer, make_app, open_home, open_manager
from svetovid.policy import Consent
from svetovid.stakeholder import Stakeholder, read_labels, read_names


def test_the_manager_is_trusted_and_unproven(story: Story) -> None:
    """T1."""
    claims = stakeholder.verify_manager(story.people["ann"])
    assert claims.verdict == "manager: trusted, unproven"
    assert claims.channel == stakeholder.pinned_manager(story.people["ann"].home).channel


def test_share_propose_consent(shared: Story) -> None:
    job = shared.propose()
    assert job.proposer == shared.people["rita"].key_id
    text = "\n".join(stakeholder.describe(job, read_labels(None, shared.public)))
    for word in ("ann-data", "train.py", "rita", "epochs = 3", "weight float32[1, 3]", "memorise"):
        assert word in text
    for name in ("ann", "carol"):
        (signed,) = stakeholder.consent(shared.people[name], job, NOW)
        consent = signed.open(Consent, by=shared.people[name].key_id)
        assert consent.job == job.digest()
    status = stakeholder.status(shared.people["rita"], job.digest())
    assert status.state == "ready"
    assert len(status.consents) == 2
    kinds = [r.entry.kind for r in stakeholder.records(shared.people["ann"]) if r.entry]
    assert {"identity", "asset", "policy", "job", "consent"} <= set(kinds)


def test_the_sealed_asset_opens_at_home_and_is_deposited(shared: Story) -> None:
    ann = shared.people["ann"]
    manifest = stakeholder.newest_manifest(ann, "ann-data")
    assert manifest is not None
    url = (shared.public / "ann-data.v1.sealed").as_uri()
    assert stakeholder.verify_asset(ann, manifest, url) == manifest.size == 20 * (12 + 8)
    stored = bytearray((shared.public / "ann-data.v1.sealed").read_bytes())
    stored[-1] ^= 1
    (shared.public / "ann-data.v1.sealed").write_bytes(stored)
    with pytest.raises(IntegrityError, match=r"asset\."):
        stakeholder.verify_asset(ann, manifest, url)


def test_sealing_again_is_the_next_version_under_the_next_edition(shared: Story) -> None:
    ann = shared.people["ann"]
    first = stakeholder.newest_manifest(ann, "ann-data")
    second = shared.share("ann", shared.folder / "ann-data.npz", "data")
    newest = stakeholder.newest_manifest(ann, "ann-data")
    assert first is not None
    assert newest is not None
    assert (newest.version, newest.predecessor, newest.digest()) == (2, first.digest(), second)
    (policy,) = stakeholder.own_policies(ann)
    assert policy.sequence == 2
    assert read_names(shared.public).digests["ann-data"] == second


def test_a_policy_sent_twice_is_one_edition(shared: Story) -> None:
    ann = shared.people["ann"]
    (policy,) = stakeholder.own_policies(ann)
    assert stakeholder.publish_policy(ann, policy) == policy.digest()
    (again,) = stakeholder.withdraw_consents(ann, "ann-policy")
    (newest,) = stakeholder.own_policies(ann)
    assert (newest.sequence, newest.digest()) == (2, again)
    assert newest.grants == policy.grants


def test_an_asset_keeps_its_kind(shared: Story) -> None:
    carol = shared.people["carol"]
    before = sorted(shared.public.iterdir())
    with pytest.raises(InputError, match=r"asset\.kind") as e:
        shared.share("carol", shared.folder / "ann-data.npz", "data", asset="code")
    assert "stay a code" in e.value.reason.expected
    assert "dataset" in e.value.reason.observed
    assert sorted(shared.public.iterdir()) == before
    newest = stakeholder.newest_manifest(carol, "code")
    assert newest is not None
    assert newest.version == 1


def test_an_unsound_policy_costs_nothing(story: Story) -> None:
    bad = POLICY.replace("operators: [$olga]\n", "")
    (story.folder / "bad.yaml").write_text(bad.format(name="ann", use="code", code="", runs=1))
    with pytest.raises(PolicyError, match=r"lint\.any_tpm"):
        stakeholder.share(
            story.people["ann"],
            story.folder / "code",
            story.folder / "bad.yaml",
            public=story.public,
            anchors=[story.folder / "anchors.json"],
            references=[story.folder / "references.json"],
        )
    assert not list(story.public.glob("*.sealed"))


@pytest.mark.parametrize(("source", "use"), [("code", "data"), ("ann-data.npz", "code")])
def test_a_grant_for_what_an_asset_is_not(shared: Story, source: str, use: str) -> None:
    before = sorted(shared.public.iterdir())
    with pytest.raises(PolicyError, match=r"lint\.use") as e:
        shared.share("ann", shared.folder / source, use, asset="another")
    assert "grants[0].use" in e.value.reason.clause
    assert sorted(shared.public.iterdir()) == before


def test_a_grant_of_a_sealed_asset_for_what_it_is_not(shared: Story) -> None:
    ann = shared.people["ann"]
    names = stakeholder.read_names(shared.public)
    file = shared.folder / "other.yaml"
    file.write_text(POLICY.format(name="ann", use="code", code="", runs=2))
    policy = stakeholder.read_policy(ann.home, file, names)
    with pytest.raises(PolicyError, match=r"lint\.use"):
        stakeholder.publish_policy(ann, policy)
    found = stakeholder.check_policy(ann.home.path, file, names).findings
    assert "lint.use" in [f.code for f in found]


def test_rotation_is_told_and_old_agreements_stand(shared: Story) -> None:
    """Rotating a key never redirects an agreed job (T5)."""
    job = shared.propose()
    ann = shared.people["ann"]
    stakeholder.consent(ann, job, NOW)
    after, statement = stakeholder.rotate(ann, int(time.time()))
    assert after.transport is ann.transport
    assert stakeholder.announce(after, statement) is True
    assert len(stakeholder.status(after, job.digest()).consents) == 1
    with pytest.raises(RefusalError, match=r"key\.rotated"):
        stakeholder.status(ann, job.digest())


def test_revocation_ends_a_key(shared: Story) -> None:
    ann = shared.people["ann"]
    stakeholder.revoke_key(ann, ann.key_id, "lost", int(time.time()))
    with pytest.raises(RefusalError, match=r"key\.revoked"):
        stakeholder.publish_policy(ann, stakeholder.own_policies(ann)[0])


def test_an_older_store_is_noticed(
    shared: Story, tmp_path: Path, home: Callable[[str], Stakeholder]
) -> None:
    """T15: the newest checkpoint stays in the home; a manager that went back is refused."""
    ann = shared.people["ann"]
    fresh = open_home(tmp_path / "m2", PassphraseSealer(Secret(b"root")), host="127.0.0.1", port=1)
    old = Home(fresh.folder, *_parts_of(tmp_path / "m"))
    app = make_app(open_manager(old))
    ann.transport = lambda: InProcess(app)
    with pytest.raises(RefusalError, match=r"store\.rollback|log\.fork"):
        stakeholder.verify_manager(ann)


def _parts_of(folder: Path) -> tuple[object, ...]:
    home = open_home(folder, PassphraseSealer(Secret(b"root")), host="127.0.0.1", port=1)
    return home.identity, home.root, home.sealer, home.context, home.pin


def test_names(shared: Story) -> None:
    names = read_names(shared.public)
    assert Card.open(names.cards["rita"]).signing == shared.people["rita"].key_id
