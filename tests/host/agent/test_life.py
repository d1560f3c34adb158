"""A host's life through the public calls alone: init, enrol, run, status."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentworld import PASSPHRASE, World, now, trained
from svetovid.assets import Manifest
from svetovid.crypto import Identity, sign
from svetovid.errors import HostError, InputError
from svetovid.host import (
    Event,
    enrol_host,
    find_storage,
    host_status,
    init_host,
    life,
    run_host,
)
from svetovid.protocol import ManagerClient, ManagerPin
from svetovid.protocol.seen import SeenFile

Make = Callable[..., World]
GUIDE = Path(__file__).parents[3] / "docs" / "guide" / "hosts.md"


@pytest.fixture
def world(make: Make, monkeypatch: pytest.MonkeyPatch) -> World:
    """Its managers answer in this process; only the way to them is short."""
    made = make()
    houses = {h.pin.url: h for h in made.all_houses}

    def client(pin: ManagerPin, agent: Identity, *, seen: SeenFile) -> ManagerClient:
        return ManagerClient(pin, agent, seen=seen, transport=houses[pin.url].gate)

    monkeypatch.setattr(life, "ManagerClient", client)
    return made


def test_t3_t9_a_whole_life(world: World, tmp_path: Path) -> None:
    home, pin = tmp_path / "second", world.data_house.pin
    made = init_host(
        home,
        name="second",
        passphrase=PASSPHRASE,
        kind="simulated-tee",
        runtime=world.runtime,
        simulated_ca=world.folder / "ca",
    )
    assert host_status(home).host is None
    statement = sign(made.request.statement(world.olga.key_id, "olga", now()), world.olga)
    (record,) = enrol_host(home, [pin], statement, PASSPHRASE)
    assert enrol_host(home, [pin], statement, PASSPHRASE) == [record]
    status = host_status(home)
    assert status.host == record.host_id == statement.payload_digest()
    assert status.managers == (world.data_house.key,)
    assert list(home.glob("seen.*.json"))  # T15: what was seen of the log is remembered
    events: list[Event] = []
    outputs = tmp_path / "not" / "there" / "yet"
    places = [f"{slot}={url}" for slot, url in world.storage.items()]
    outcome = run_host(
        home,
        world.job,
        [pin],
        PASSPHRASE,
        storage=find_storage(world.job, places),
        outputs=f"{outputs.as_uri()}/",
        on_event=events.append,
    )
    assert world.answer(outcome) == trained()
    assert events[-1].stage == "finished"
    assert Path(outcome.bundles[world.data_house.key].removeprefix("file://")).parent == outputs


def test_outputs_without_a_place(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    asked = len(world.data_house.gate.paths)
    with pytest.raises(HostError) as e:
        run_host(
            world.home.path,
            world.job.digest(),
            [world.data_house.pin],
            PASSPHRASE,
            storage=world.storage,
            outputs=f"{(tmp_path / 'file').as_uri()}/below/",
        )
    assert e.value.code == "file.write"
    assert len(world.data_house.gate.paths) == asked
    with pytest.raises(InputError) as e2:
        run_host(world.home.path, world.job, [], PASSPHRASE, storage={}, outputs="ftp://x/")
    assert e2.value.code == "asset.url"


def test_containers_are_found_by_what_their_manifests_say(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = tmp_path / "public"
    public.mkdir()
    data = Path(world.storage["data"].removeprefix("file://"))
    manifest = Manifest.parse(data.with_name(data.name + ".manifest.json").read_bytes())
    (public / "d.v1.sealed.manifest.json").write_bytes(manifest.canonical())
    renamed = manifest.model_copy(update={"name": "other"})
    (public / "a.sealed.manifest.json").write_bytes(renamed.canonical())
    (public / "b.sealed.manifest.json").write_text("junk")
    (public / "c.sealed.manifest.json").mkdir()
    (public / "e.sealed.manifest.json").write_text(json.dumps({"a": "x" * (5 << 20)}))
    (public / "f.sealed.manifest.json").symlink_to(public / "nowhere")
    found = find_storage(world.job, [str(public)])
    assert found == {"data": (public / "d.v1.sealed").as_uri()}
    monkeypatch.chdir(tmp_path)
    named = find_storage(world.job, ["data=here", "code=s3://b/k", "data=memory://x", "public"])
    assert named == {"data": (tmp_path / "here").as_uri(), "code": "s3://b/k"}
    assert find_storage(world.job, ["none=x", str(tmp_path / "missing")]) == {}


def test_the_guides_program_names_what_there_is() -> None:
    """Its calls are those of the test above; here: that every name it imports exists."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    compile(block, "hosts.md", "exec")
    imports = "\n".join(line for line in block.splitlines() if line.startswith("from "))
    names: dict[str, Any] = {}
    exec(imports, names)
    assert {"init_host", "enrol_host", "run_host", "find_storage"} <= names.keys()
