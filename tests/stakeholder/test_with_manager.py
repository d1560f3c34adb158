"""The owners' side against the real manager, in this process: share, propose, consent, look."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from inprocess import InProcess
from svetovid import stakeholder
from svetovid.crypto import Card, Secret, canonical, digest
from svetovid.errors import IntegrityError, PolicyError, RefusalError
from svetovid.evidence.documents import ReferenceValues, TrustAnchors
from svetovid.manager import Home, PassphraseSealer, make_app, open_home, open_manager
from svetovid.policy import Consent, Job
from svetovid.stakeholder import Stakeholder, read_labels, read_names

NOW = int(time.time())

POLICY = """\
version: svetovid.policy/v1
name: {name}-policy
profile: test
accepts: [simulated, launcher]
anchors: {{document: $anchors}}
references: [{{document: $references}}]
operators: [$olga]
grants:
  - asset: $asset
    use: {use}
{code}    modes: [attested]
    recipients: [$rita]
    conditions:
      - {{name: few, cel: job.parameters.epochs <= 5}}
      - {{name: place, cel: claims.machine_owner == "lab"}}
    limits: {{runs: {runs}, output_bytes: 1000000, expires_at: 9000000000}}
"""

JOB = """\
version: svetovid.job/v1
name: little
mode: attested
assets:
  data: {manifest: $ann-data, owner: $ann, manager: $manager, use: data}
  code: {manifest: $code, owner: $carol, manager: $manager, use: code}
entry: train.py
parameters: {epochs: 3}
environment: $runtime
outputs:
  model: {tensors: {weight: {dtype: float32, shape: [1, 3]}}}
metrics: {loss: {type: float, max_count: 3}}
recipients: [$rita]
limits: {output_bytes: 100000}
"""


@dataclass
class Story:
    """Everybody who takes part, and the folder they share."""

    folder: Path
    public: Path
    people: dict[str, Stakeholder]

    def share(self, name: str, source: Path, use: str, runs: int = 2, asset: str = "") -> str:
        code = "    code: [$code]\n" if use == "data" else ""
        file = self.folder / f"{name}.yaml"
        file.write_text(POLICY.format(name=name, use=use, code=code, runs=runs))
        shared = stakeholder.share(
            self.people[name],
            source,
            file,
            public=self.public,
            name=asset or source.stem,
            anchors=[self.folder / "anchors.json"],
            references=[self.folder / "references.json"],
        )
        return shared.manifest.digest()

    def propose(self, text: str = JOB) -> Job:
        (self.folder / "job.yaml").write_text(text)
        names = read_names(self.public)
        job, signed = stakeholder.propose(self.people["rita"], self.folder / "job.yaml", names)
        stakeholder.write_job(self.public, job, signed)
        return job


@pytest.fixture
def story(tmp_path: Path, data: Path, public: Path) -> Iterator[Story]:
    home: Home = open_home(
        tmp_path / "m", PassphraseSealer(Secret(b"root")), host="127.0.0.1", port=1
    )
    manager = open_manager(home)
    app = make_app(manager)
    people = {}
    for name in ("ann", "carol", "rita", "olga"):
        who = stakeholder.create(tmp_path / name, name, Secret(b"canary-passphrase"))
        stakeholder.pin_manager(who, tmp_path / "m" / "manager.json")
        stakeholder.publish_card(who, public)
        who.transport = lambda: InProcess(app)
        people[name] = who
    anchors = {"kind": "tpm-ek", "name": "CA", "certificate": "AAAA", "simulated": True}
    values = {"product": "runtime", "version": 1, "files": {"/x": [digest(b"x")]}}
    documents = {
        "anchors": TrustAnchors.from_json({"product": "cas", "version": 1, "anchors": [anchors]}),
        "references": ReferenceValues.from_json(values),
    }
    for name, document in documents.items():
        (tmp_path / f"{name}.json").write_bytes(canonical(document.to_json()))
    stakeholder.write_public(public / "runtime.references.json", documents["references"])
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text("print()\n")
    data.rename(tmp_path / "ann-data.npz")
    try:
        yield Story(tmp_path, public, people)
    finally:
        manager.close()


@pytest.fixture
def shared(story: Story) -> Story:
    story.share("carol", story.folder / "code", "code")
    story.share("ann", story.folder / "ann-data.npz", "data")
    return story


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
        signed = stakeholder.consent(shared.people[name], job, NOW)
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
    again = stakeholder.withdraw_consents(ann, "ann-policy")
    (newest,) = stakeholder.own_policies(ann)
    assert (newest.sequence, newest.digest()) == (2, again)
    assert newest.grants == policy.grants


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


def test_who_has_no_say(shared: Story) -> None:
    job = shared.propose()
    with pytest.raises(PolicyError, match=r"consent\.policy"):
        stakeholder.consent(shared.people["olga"], job, NOW)


def test_a_slot_that_is_not_what_its_manifest_says(shared: Story) -> None:
    for old, new in (("owner: $ann", "owner: $olga"), ("use: data", "use: model")):
        with pytest.raises(PolicyError, match=r"job\.manifest"):
            shared.propose(JOB.replace(old, new))


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
