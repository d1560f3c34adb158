"""A host's home: made once, whole or not at all; read with suspicion (T3)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agentworld import World, now
from svetovid.crypto import Identity, sign
from svetovid.errors import HostError, InputError, IntegrityError, ParseError, SvetovidError
from svetovid.evidence.documents import HostRecord
from svetovid.host import StatementRequest
from svetovid.host import home as rooms
from svetovid.host.attester import TeeAttester, TpmAttester
from svetovid.protocol.client import ManagerClient
from svetovid.protocol.hosts import EnrolAnswer

Make = Callable[..., World]


@pytest.mark.parametrize("name", ["host.json", "request.json", "statement.json", "record"])
def test_files_cut_altered_oversize_or_gone_are_our_errors(make: Make, name: str) -> None:
    world = make()
    home, manager = world.home, world.data_house.key
    file = home.path / name
    if name == "record":
        file = next((home.path / "records").iterdir())
    reads: dict[str, Callable[[], object]] = {
        "host.json": home.config,
        "request.json": lambda: home.enrol(world.clients()[0], world.statement),
        "statement.json": lambda: home.host_id,
        "record": lambda: home.record(manager),
    }
    whole = file.read_bytes()
    bad = [whole[:n] for n in range(0, len(whole), max(1, len(whole) // 40))]
    bad += [b"x" * ((1 << 20) + 2), b'{"a":' * 5000, b"[]", b"\xff\xfe", whole + b" {}"]
    for data in bad:
        file.write_bytes(data)
        with pytest.raises(ParseError) as e:
            reads[name]()
        assert e.value.code == "host.home"
        assert e.value.reason.next_step
    file.unlink()
    with pytest.raises(InputError) as e2:
        reads[name]()
    assert e2.value.code == "host.home"
    file.mkdir()
    with pytest.raises(InputError) as e3:
        reads[name]()
    assert e3.value.code == "host.home"


def test_t3_a_record_by_somebody_else_is_no_record(make: Make) -> None:
    world = make()
    manager = world.data_house.key
    file = next((world.home.path / "records").iterdir())
    record = world.home.record(manager)
    file.write_bytes(sign(record, Identity.generate("mallory")).canonical())
    with pytest.raises(IntegrityError) as e:
        world.home.record(manager)
    assert e.value.code == "signature.missing"


@pytest.mark.parametrize("field", ["host", "kind", "device", "agent"])
def test_t3_a_statement_about_another_host_is_refused(make: Make, field: str) -> None:
    world = make()
    other = {
        "host": "other",
        "kind": "tpm",
        "device": "sha256:" + "0" * 64,
        "agent": world.alice.key_id,
    }
    said = StatementRequest.parse((world.home.path / "request.json").read_bytes())
    statement = said.statement(world.olga.key_id, "olga", now())
    signed = sign(statement.model_copy(update={field: other[field]}), world.olga)
    with pytest.raises(IntegrityError) as e:
        world.home.enrol(world.clients()[0], signed)
    assert e.value.code == "host.statement"


def test_t3_a_statement_nobody_signed_is_refused(make: Make) -> None:
    world = make()
    said = StatementRequest.parse((world.home.path / "request.json").read_bytes())
    forged = sign(said.statement(world.olga.key_id, "olga", now()), world.alice)
    with pytest.raises(IntegrityError) as e:
        world.home.enrol(world.clients()[0], forged)
    assert e.value.code == "signature.missing"


def test_t3_one_host_has_one_id_at_all_its_managers(make: Make) -> None:
    world = make(houses=2)
    said = StatementRequest.parse((world.home.path / "request.json").read_bytes())
    later = sign(said.statement(world.olga.key_id, "olga", now() + 1), world.olga)
    with pytest.raises(InputError) as e:
        world.home.enrol(world.clients()[0], later)
    assert e.value.code == "host.enrolled"
    assert world.home.host_id == world.statement.payload_digest()
    alone = make()
    said = StatementRequest.parse((alone.home.path / "request.json").read_bytes())
    later = sign(said.statement(alone.olga.key_id, "olga", now() + 1), alone.olga)
    assert alone.home.enrol(alone.clients()[0], later).host_id == alone.home.host_id


def test_t3_managers_whose_answers_make_no_sense(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make()
    client = world.clients()[0]
    kept = (world.home.path / "statement.json").read_bytes()
    with monkeypatch.context() as m:
        m.setattr(ManagerClient, "enrol", lambda *_: EnrolAnswer())
        with pytest.raises(IntegrityError) as e:
            world.home.enrol(client, world.statement)
    assert e.value.code == "host.activation"
    said = StatementRequest.parse((world.home.path / "request.json").read_bytes())
    other = sign(said.statement(world.olga.key_id, "olga", 5), world.olga)
    record = HostRecord(statement=other, device_certificates=("AAAA",))
    answer = sign(record, world.data_house.identity)
    monkeypatch.setattr(ManagerClient, "possess", lambda *_: answer)
    with pytest.raises(IntegrityError) as e:
        world.home.enrol(client, world.statement)
    assert e.value.code == "host.record"
    assert (world.home.path / "statement.json").read_bytes() == kept


def test_t3_a_tpm_that_was_exchanged_or_not_challenged(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(kind="tpm")
    client = world.clients()[0]
    with monkeypatch.context() as m:
        m.setattr(ManagerClient, "enrol", lambda *_: EnrolAnswer())
        with pytest.raises(IntegrityError) as e:
            world.home.enrol(client, world.statement)
        assert e.value.code == "host.activation"
    (world.home.path / "tpm.state").unlink()  # another chip: no certificate, other keys
    with pytest.raises(HostError) as e2:
        world.home.enrol(client, world.statement)
    assert e2.value.code == "host.ek_certificate"
    (world.home.path / "measurements.log").unlink(missing_ok=True)
    with pytest.raises(SvetovidError) as e3:
        world.run()
    assert e3.value.code == "attest.signer"
    world.home.open_tpm().close()  # closed on every path


def test_t4_the_kind_of_evidence_follows_from_how_the_host_was_set_up(make: Make) -> None:
    tee = make().home.attester()
    assert isinstance(tee, TeeAttester)
    assert tee.log() == b""
    tee.measure()
    tee.close()
    tpm = make(kind="tpm").home.attester()
    assert isinstance(tpm, TpmAttester)
    tpm.close()


def test_t4_a_device_with_a_kernel_log_is_measured_by_the_kernel(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = make(kind="tpm")
    config = world.home.config().model_copy(update={"tpm": "device:/dev/tpmrm0"})
    (world.home.path / "host.json").write_bytes(config.canonical())
    ima = tmp_path / "ima"
    ima.write_bytes(b"")
    closed: list[str] = []

    class Log:
        count = 0

        def __init__(self, *, runtime: Path) -> None:
            assert runtime == world.home.runtime

        def close(self) -> None:
            closed.append("log")

        def log_since(self, offset: int) -> bytes:
            return b""

    class Device:
        def startup(self) -> None:
            if not ima.exists():
                raise HostError("tpm.rc")

        def close(self) -> None:
            closed.append("tpm")

    monkeypatch.setattr(rooms, "IMA_LOG", ima)
    monkeypatch.setattr(rooms, "KernelLog", Log)
    monkeypatch.setattr(rooms, "boot_log", lambda: b"events")
    monkeypatch.setattr(rooms, "open_transport", lambda _: None)
    monkeypatch.setattr(rooms, "Tpm", lambda _: Device())
    attester = world.home.attester()
    assert isinstance(attester, TpmAttester)
    assert attester._boot_log == "ZXZlbnRz"
    attester.close()
    assert closed == ["log", "tpm"]

    def broken(**_: object) -> None:
        raise HostError("launcher.log_file")

    monkeypatch.setattr(rooms, "KernelLog", broken)
    with pytest.raises(HostError):
        world.home.attester()
    assert closed == ["log", "tpm", "tpm"]
    ima.unlink()
    with pytest.raises(HostError) as e:
        world.home.attester()
    assert e.value.code == "tpm.rc"
    assert closed == ["log", "tpm", "tpm", "tpm"]
