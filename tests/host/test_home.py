"""A host's home: what is refused before, while and after it is enrolled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from svetovid.crypto import Secret, sign
from svetovid.errors import HostError, InputError, IntegrityError, ParseError
from svetovid.host import HostHome, init_host
from world.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, at={"bob": "south"})
    yield world
    world.close()


def test_no_home(tmp_path: Path) -> None:
    with pytest.raises(InputError) as e:
        HostHome(tmp_path).config()
    assert e.value.code == "host.home"
    (tmp_path / "host.json").write_bytes(b"{")
    with pytest.raises(ParseError) as e:
        HostHome(tmp_path).config()
    assert e.value.code == "host.home"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HostError) as e:
        init_host(
            tmp_path / "file" / "home",
            name="h",
            runtime=tmp_path,
            passphrase=Secret(b"p"),
            kind="simulated-tee",
        )
    assert e.value.code == "host.home"


def test_a_tpm_without_a_certificate(world: World) -> None:
    machine = world.machine("host-2", enrol=False)
    machine.tpm.ek_certificate = None  # type: ignore[assignment]
    with pytest.raises(HostError) as e:
        world.enrol(machine, "north")
    assert e.value.code == "host.ek_certificate"


def test_one_statement_at_every_manager(world: World) -> None:
    """T3: a host has one id; a second statement would make it another host elsewhere."""
    opal = world.people["opal"]
    machine = world.machine("host-2", enrol=False)
    world.enrol(machine, "north")
    other = sign(machine.statement(opal, world.clock() + 1), opal)
    with pytest.raises(InputError) as e:
        machine.home.enrol(world.managers["south"].client(machine.agent), other)
    assert e.value.code == "host.enrolled"
    assert machine.host_id != other.payload_digest()
    world.enrol(machine, "south")


def test_a_statement_about_another_machine(world: World) -> None:
    """T3: what the operator signed is held against what was asked for."""
    opal = world.people["opal"]
    machine = world.machine("host-2", enrol=False)
    wrong = sign(machine.statement(opal, world.clock(), host="host-3"), opal)
    with pytest.raises(IntegrityError) as e:
        machine.home.enrol(world.manager.client(machine.agent), wrong)
    assert e.value.code == "host.statement"


def test_a_manager_that_asks_for_no_proof(world: World) -> None:
    """T3: a record without credential activation would say nothing."""
    opal = world.people["opal"]
    machine = world.machine("host-2", enrol=False)
    statement = sign(machine.statement(opal, world.clock()), opal)
    lax: Any = SimpleNamespace(
        manager=world.manager.key_id, enrol=lambda *_: SimpleNamespace(challenge=None)
    )
    with pytest.raises(IntegrityError) as e:
        machine.home.enrol(lax, statement)
    assert e.value.code == "host.activation"


def test_a_manager_that_records_another_host(world: World) -> None:
    """T3: the record must be of the statement that was handed in."""
    opal = world.people["opal"]
    machine = world.machine("host-2", enrol=False)
    statement = sign(machine.statement(opal, world.clock()), opal)
    client = world.manager.client(machine.agent)
    foreign = world.host.home.signed_record(world.manager.key_id)
    lax: Any = SimpleNamespace(
        manager=client.manager, enrol=client.enrol, activate=lambda *_: foreign
    )
    with pytest.raises(IntegrityError) as e:
        machine.home.enrol(lax, statement)
    assert e.value.code == "host.record"
