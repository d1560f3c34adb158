"""What an owner does after its key was rotated: the new key speaks for what the old one owns."""

from __future__ import annotations

import time

import httpx
import pytest

from ownerstory import JOB, NOW, Story
from svetovid import stakeholder
from svetovid.crypto import Identity, Secret
from svetovid.errors import InputError, RefusalError, TransportError
from svetovid.policy import Consent, Policy, open_owned
from svetovid.stakeholder import Stakeholder, read_names


def handed_over(story: Story, name: str) -> Stakeholder:
    after, told = stakeholder.hand_over(story.people[name], int(time.time()))
    assert told
    story.people[name] = after
    return after


def ann_policy(story: Story, text: str = "") -> Policy:
    """What Ann's home makes of her YAML."""
    if text:
        (story.folder / "ann.yaml").write_text(text)
    ann = story.people["ann"]
    return stakeholder.read_policy(ann.home, story.folder / "ann.yaml", read_names(story.public))


def test_the_new_key_consents_for_what_the_old_one_sealed(shared: Story) -> None:
    old = shared.people["ann"].key_id
    after = handed_over(shared, "ann")
    job = shared.propose()
    (signed,) = stakeholder.consent(after, job, NOW)
    assert [s.keyid for s in signed.signatures] == [after.key_id]
    said = open_owned(signed, Consent)
    assert (said.owner, said.slots) == (old, ("data",))
    assert len(stakeholder.status(after, job.digest()).consents) == 1


def test_the_new_key_publishes_policies_for_what_the_old_one_sealed(shared: Story) -> None:
    before = shared.people["ann"]
    (first,) = stakeholder.own_policies(before)
    after = handed_over(shared, "ann")
    assert ann_policy(shared) == first
    assert stakeholder.publish_policy(after, first) == first.digest()
    text = (shared.folder / "ann.yaml").read_text().replace("runs: 2", "runs: 1")
    changed = ann_policy(shared, text)
    assert (changed.owner, changed.sequence, len(changed.rotations)) == (before.key_id, 2, 1)
    where = [c.where for c in stakeholder.changes(after.home, changed)]
    assert where == ["grants[0].limits.runs"], "how it is signed is no change of terms"
    stakeholder.publish_policy(after, changed)
    assert stakeholder.own_policies(after) == [changed]


def test_a_first_policy_and_a_deposit_after_the_rotation(story: Story) -> None:
    ann, public = story.people["ann"], story.public
    story.share("carol", story.folder / "code", "code")
    late = stakeholder.seal_asset(ann, story.folder / "ann-data.npz", name="late", folder=public)
    after = handed_over(story, "ann")
    text = (story.folder / "carol.yaml").read_text().replace("carol-policy", "ann-policy")
    text = text.replace("use: code\n", "use: data\n    code: [$code]\n")
    for name in ("asset", "anchors", "references"):
        digest = late.digest() if name == "asset" else "sha256:" + "1" * 64
        text = text.replace(f"${name}", digest)
    policy = ann_policy(story, text)
    assert policy.owner == ann.key_id
    stakeholder.publish_policy(after, policy)
    assert stakeholder.deposit_key(after, late) == late.digest()


def test_assets_of_both_keys_in_one_job(shared: Story) -> None:
    """Each has a policy and a consent of its own."""
    old = shared.people["ann"]
    after = handed_over(shared, "ann")
    shared.share("ann", shared.folder / "ann-data.npz", "data", asset="newer")
    mine = {p.owner: p for p in stakeholder.own_policies(after)}
    assert set(mine) == {old.key_id, after.key_id}
    slot = f"  more: {{manifest: $newer, owner: {after.key_id}, manager: $manager, use: data}}\n"
    job = shared.propose(JOB.replace("entry:", slot + "entry:"))
    signed = [open_owned(e, Consent) for e in stakeholder.consent(after, job, NOW)]
    assert {c.owner: c.slots for c in signed} == {old.key_id: ("data",), after.key_id: ("more",)}
    asset = mine[old.key_id].grants[0].asset
    both = (shared.folder / "ann.yaml").read_text() + (
        f"  - {{asset: '{asset}', use: data, code: [$code], modes: [attested],"
        " recipients: [$rita]}\n"
    )
    with pytest.raises(InputError, match=r"policy\.owners"):
        ann_policy(shared, both)
    assert len(stakeholder.withdraw_consents(after, "ann-policy")) == 2
    with pytest.raises(InputError, match=r"policy\.unknown"):
        stakeholder.withdraw_consents(after, "../../etc/passwd")


def test_a_rotation_that_was_not_told_is_told_at_the_next_chance(shared: Story) -> None:
    """Registered by itself, the new key could neither speak for the old ones nor end them."""
    ann = shared.people["ann"]
    reach = ann.transport

    def away() -> httpx.BaseTransport:
        def down(_request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("down")

        return httpx.MockTransport(down)

    second, _ = stakeholder.rotate(ann, int(time.time()))
    third, statement = stakeholder.rotate(second, int(time.time()))
    third.transport = away
    with pytest.raises(TransportError):
        stakeholder.announce(third, statement)
    third.transport = reach
    shared.people["ann"] = third
    job = shared.propose()
    stakeholder.consent(third, job, NOW)
    assert len(stakeholder.status(third, job.digest()).consents) == 1
    stakeholder.revoke_key(third, third.key_id, "lost", int(time.time()))
    with pytest.raises(RefusalError, match=r"key\.revoked"):
        stakeholder.consent(third, job, NOW)


def test_a_first_meeting_after_rotations(story: Story) -> None:
    """Where none of the older keys was known, the newest is registered by itself."""
    ann, _ = stakeholder.rotate(story.people["ann"], int(time.time()))
    assert stakeholder.records(ann)


def test_a_thief_who_rotated_first_is_stopped(shared: Story) -> None:
    """The owner has only the stolen key, which the manager knows, and one that it does not."""
    ann = shared.people["ann"]
    thief, theft = ann.identity.rotate(int(time.time()))
    assert stakeholder.announce(ann, theft)
    mine, statement = stakeholder.rotate(ann, int(time.time()))
    with pytest.raises(RefusalError, match=r"key\.fork"):
        stakeholder.announce(mine, statement)
    with pytest.raises(RefusalError, match=r"identity\.unknown"):
        stakeholder.revoke_key(mine, mine.key_id, "stolen", int(time.time()))
    stakeholder.revoke_key(mine, ann.key_id, "stolen", int(time.time()))
    assert thief.key_id != mine.key_id
    (policy,) = stakeholder.own_policies(mine)
    later = policy.model_copy(update={"sequence": 2, "predecessor": policy.digest()})
    with pytest.raises(RefusalError, match=r"key\.(revoked|fork)"):
        stakeholder.publish_policy(mine, later)


def test_keys_that_are_not_ones_own(shared: Story) -> None:
    ann = handed_over(shared, "ann")
    with pytest.raises(InputError, match=r"key\.not_ours"):
        stakeholder.rotations(ann.home, Identity.generate("x").key_id)
    assert len(stakeholder.rotations(ann.home)) == 1
    assert stakeholder.rotations(ann.home, ann.key_id) == ()


def test_a_rotation_cut_off_before_the_card(shared: Story) -> None:
    """The card follows the identity when the home is opened again."""
    ann = shared.people["ann"]
    card = ann.home.card.read_bytes()
    after, _ = stakeholder.rotate(ann, int(time.time()))
    ann.home.card.write_bytes(card)
    again = stakeholder.load(ann.home.path, Secret(b"canary-passphrase"))
    assert stakeholder.read_card(again.home.card).signing == after.key_id
