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
from svetovid.errors import (
    InputError,
    IntegrityError,
    ParseError,
    PolicyError,
    Reason,
    RefusalError,
)
from svetovid.evidence.documents import ReferenceValues, TrustAnchors
from svetovid.manager import Home, PassphraseSealer, make_app, open_home, open_manager
from svetovid.policy import Consent, Job, Policy
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

    def propose(self, text: str = JOB, *, by: str = "rita", replace: bool = True) -> Job:
        (self.folder / "job.yaml").write_text(text)
        job, signed = stakeholder.propose(
            self.people[by], self.folder / "job.yaml", read_names(self.public), replace=replace
        )
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


def test_an_older_version_of_ones_asset(shared: Story) -> None:
    """The owner is told which version is the newest; after a rotation, too."""
    job = shared.propose()
    newest = shared.share("ann", shared.folder / "ann-data.npz", "data")
    reason = _no_consent(shared, "ann", job, "consent.version")
    assert f"version 2 of ann-data, the newest that ann owns: {newest}" == reason.expected
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
    stands = ann.home.policies / "ann-policy.json"
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
    for path in (stands, ann.home.policies / "other.json"):
        path.unlink()
    reason = _no_consent(shared, "ann", job, "consent.policy")
    assert reason.observed == "none"
    assert "ann-data" in reason.expected
    assert "policy publish --asset" in reason.next_step


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


def test_an_asset_keeps_its_kind(shared: Story) -> None:
    carol = shared.people["carol"]
    before = sorted(shared.public.iterdir())
    with pytest.raises(InputError, match=r"asset\.kind") as e:
        shared.share("carol", shared.folder / "ann-data.npz", "code", asset="code")
    assert "stay a code" in e.value.reason.expected
    assert "dataset" in e.value.reason.observed
    assert sorted(shared.public.iterdir()) == before
    newest = stakeholder.newest_manifest(carol, "code")
    assert newest is not None
    assert newest.version == 1


class TestPlaceholders:
    """What $anchors, $references and $asset stand for: an owner's own choice (T2)."""

    def _read(self, story: Story, **given: object) -> Policy:
        ann, names = story.people["ann"], read_names(story.public)
        chosen = stakeholder.choose(ann.home, names, **given)  # type: ignore[arg-type]
        file = story.folder / "ann.yaml"
        return stakeholder.read_policy(ann.home, file, names, chosen=chosen.digests)

    def test_as_in_the_edition_before(self, shared: Story) -> None:
        ann = shared.people["ann"]
        (before,) = stakeholder.own_policies(ann)
        assert self._read(shared) == before
        file = shared.folder / "ann.yaml"
        file.write_text(file.read_text().replace("runs: 2", "runs: 9"))
        policy = self._read(shared)
        assert (policy.sequence, policy.grants[0].limits.runs) == (2, 9)
        assert (policy.anchors, policy.references) == (before.anchors, before.references)
        assert policy.grants[0].asset == before.grants[0].asset
        stakeholder.publish_policy(ann, policy)
        again = shared.share("ann", shared.folder / "ann-data.npz", "data")
        assert self._read(shared, asset="ann-data").grants[0].asset == again

    def test_given_with_the_command(self, shared: Story) -> None:
        values = ReferenceValues(product="newer", version=2)
        file = shared.folder / "newer.references.json"
        file.write_bytes(values.canonical())
        policy = self._read(shared, references=[file])
        assert [pin.document for pin in policy.references] == [values.digest()]

    @pytest.mark.parametrize("name", ["anchors", "references", "asset"])
    def test_not_chosen(self, story: Story, name: str) -> None:
        """Nothing that merely lies in the public folder is believed; what lies there is named."""
        text = POLICY.format(name="ann", use="code", code="", runs=1)
        own = {"anchors": "$cas", "references": "$runtime", "asset": "'sha256:" + "0" * 64 + "'"}
        for other, value in own.items():
            text = text.replace(f"${other}", value) if other != name else text
        (story.folder / "ann.yaml").write_text(text)
        with pytest.raises(InputError, match=r"policy\.(placeholder|reference)") as e:
            self._read(story)
        for kind in ("anchors", "references"):
            source = story.folder / f"{kind}.json"
            (story.public / f"made.{kind}.json").write_bytes(source.read_bytes())
        (story.public / "runtime.references.json").unlink()
        if name == "asset":
            stakeholder.seal_asset(story.people["ann"], story.folder / "ann-data.npz")
        with pytest.raises(InputError) as e:
            self._read(story)
        reason = e.value.reason
        assert e.value.code == "policy.placeholder"
        assert f"--{name} with" in reason.expected
        assert ("ann-data" if name == "asset" else f"made.{name}.json") in reason.observed
        assert f"--{name}" in reason.next_step

    @pytest.mark.parametrize("name", ["anchors", "references"])
    def test_a_product_in_the_public_folder_is_no_choice(self, story: Story, name: str) -> None:
        """A stranger may call its document what the placeholder is called."""
        made = TrustAnchors if name == "anchors" else ReferenceValues
        source = made.parse((story.folder / f"{name}.json").read_bytes())
        impostor = source.model_copy(update={"product": name})
        stakeholder.write_public(story.public / f"x.{name}.json", impostor)
        (story.folder / "ann.yaml").write_text(
            POLICY.format(name="ann", use="code", code="", runs=1)
        )
        other = "references" if name == "anchors" else "anchors"
        with pytest.raises(InputError) as e:
            self._read(story, **{other: [story.folder / f"{other}.json"]})
        assert e.value.code == "policy.placeholder"

    def test_several_files_go_by_their_products(self, shared: Story) -> None:
        values = ReferenceValues(product="newer", version=2)
        file = shared.folder / "newer.references.json"
        file.write_bytes(values.canonical())
        both = [shared.folder / "references.json", file]
        yaml = shared.folder / "ann.yaml"
        yaml.write_text(
            yaml.read_text()
            .replace("{document: $references}", "{document: $runtime}, {document: $newer}")
            .replace("name: ann-policy", "name: both")
        )
        anchors = [shared.folder / "anchors.json"]
        policy = self._read(shared, references=both, anchors=anchors, asset="ann-data")
        assert policy.references[1].document == values.digest()
        yaml.write_text(yaml.read_text().replace("$newer", "$references"))
        with pytest.raises(InputError, match=r"policy\.placeholder"):
            self._read(shared, references=both, anchors=anchors, asset="ann-data")

    def test_an_asset_that_is_not_here(self, shared: Story) -> None:
        with pytest.raises(InputError, match=r"asset\.unknown") as e:
            self._read(shared, asset="../ann-data")
        assert "ann-data" in e.value.reason.expected

    def test_a_check_before_anything_is_sealed(self, story: Story) -> None:
        home = story.people["ann"].home
        (story.folder / "ann.yaml").write_text(
            POLICY.format(name="ann", use="code", code="", runs=1)
        )
        names = read_names(story.public)
        chosen = stakeholder.choose(
            home,
            names,
            anchors=[story.folder / "anchors.json"],
            references=[story.folder / "references.json"],
        )
        found = stakeholder.check_policy(
            home.path, story.folder / "ann.yaml", names, chosen.digests
        )
        assert not found.sealed
        assert not [f for f in found.findings if f.severity == "error"]
        with pytest.raises(InputError, match=r"policy\.placeholder"):
            stakeholder.read_policy(home, story.folder / "ann.yaml", names, chosen=chosen.digests)


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
