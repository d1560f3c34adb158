"""What a policy's placeholders stand for, and that nobody but the owner says so (T2)."""

from __future__ import annotations

import pytest

from ownerstory import POLICY, Story
from svetovid import stakeholder
from svetovid.errors import (
    InputError,
)
from svetovid.evidence.documents import ReferenceValues, TrustAnchors
from svetovid.policy import Policy
from svetovid.stakeholder import Change, read_labels, read_names


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

    def test_a_name_that_stands_for_something_else_by_now(self, shared: Story) -> None:
        """The same YAML would grant another code than it did: the owner is told which."""
        ann = shared.people["ann"]
        (before,) = stakeholder.own_policies(ann)
        assert stakeholder.changes(ann.home, before) == []
        (shared.folder / "code" / "train.py").write_text("print('changed')\n")
        carols = shared.share("carol", shared.folder / "code", "code")
        policy = self._read(shared)
        (change,) = stakeholder.changes(ann.home, policy)
        assert change == Change("grants[0].code[0]", before.grants[0].code[0], carols)
        labels = read_labels(ann.home.path, shared.public)
        (line,) = stakeholder.describe_changes([change], labels)
        assert line.startswith("changes grants[0].code[0]: code v1 (sha256:")
        assert "-> code v2 (sha256:" in line
        stakeholder.publish_policy(ann, policy)
        assert stakeholder.changes(ann.home, policy) == []
        other = policy.model_copy(update={"name": "other"})
        assert stakeholder.changes(ann.home, other) == []
        wide = policy.model_copy(update={"operators": ()})
        (gone,) = stakeholder.changes(ann.home, wide)
        assert gone == Change("operators[0]", shared.people["olga"].key_id, "")
        assert stakeholder.describe_changes([gone], labels)[0].endswith("-> none")

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
        assert f"${name}" in e.value.reason.expected

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
