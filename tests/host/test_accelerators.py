"""Accelerators between jobs (T8), on a FAKE driver: no GPU is here, and none is proven."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fakegpu import DEFECTS, GPU, MIB, TOTAL, fake, numbered
from svetovid.errors import HostError
from svetovid.host import accelerators
from svetovid.host.accelerators import Accelerators, Cleared, Gpu


def test_t8_what_a_job_left_is_gone(tmp_path: Path) -> None:
    machine = fake(tmp_path)
    assert b"secret" in (tmp_path / "device-memory").read_bytes()
    assert machine.clear([GPU]) == [Cleared("/dev/nvidia0", TOTAL, TOTAL - 2 * MIB)]
    left = (tmp_path / "device-memory").read_bytes()
    assert not any(left[: TOTAL - 2 * MIB])
    assert machine.clear([]) == []


@pytest.mark.parametrize("defect", DEFECTS)
def test_t8_a_clearing_that_failed_is_no_clearing(tmp_path: Path, defect: str) -> None:
    machine = fake(tmp_path, DEFECTS[defect])
    if defect == "hangs":
        machine = Accelerators(machine.locks, machine.library, machine.proc, 0.1, 1.0)
    with pytest.raises(HostError) as e:
        machine.clear([GPU])
    assert e.value.code == "device.clear"
    assert e.value.reason.observed
    assert "secret" not in e.value.reason.observed


def test_t8_memory_that_others_hold_is_not_cleared(tmp_path: Path) -> None:
    """A job of somebody else on the same device: its memory is not ours to clear, nor to share."""
    machine = fake(tmp_path, held=TOTAL // 2)
    with pytest.raises(HostError) as e:
        machine.clear([GPU])
    assert e.value.code == "device.clear"
    assert "in use" in e.value.reason.observed


def test_t8_memory_of_a_process_that_is_dying_is_waited_for(tmp_path: Path) -> None:
    """After kill -9 of an agent the driver gives its sandbox's memory back a little later."""
    machine = fake(tmp_path, held=TOTAL // 2)
    patient = Accelerators(machine.locks, machine.library, machine.proc, wait_s=20)
    threading.Timer(1.0, os.truncate, (tmp_path / "held", 2 * MIB)).start()
    begun = time.monotonic()
    assert patient.clear([GPU])[0].cleared == TOTAL - 2 * MIB
    assert time.monotonic() - begun < 15
    assert not any((tmp_path / "device-memory").read_bytes()[: TOTAL - 2 * MIB])


@pytest.mark.parametrize(
    "change",
    [
        {"library": "libno-such-driver.so.1"},
        {"library": "libc.so.6"},
        {"timeout_s": 0.001},
    ],
)
def test_t8_no_driver_no_clearing(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(HostError) as e:
        Accelerators(locks=tmp_path, wait_s=0.1, **change).clear([GPU])
    assert e.value.code == "device.clear"


def test_t8_answers_that_make_no_sense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "clear.py"
    monkeypatch.setattr("svetovid.host.accelerators.clearing._SCRIPT", script)
    for text in ("", "print('[]')", "print('{}')", 'print(\'{"total": "x", "cleared": 1}\')'):
        script.write_text(text)
        with pytest.raises(HostError) as e:
            Accelerators(locks=tmp_path).clear([GPU])
        assert e.value.code == "device.clear"
    monkeypatch.setattr("svetovid.host.accelerators.clearing.sys.executable", "/no/python")
    with pytest.raises(HostError) as e:
        Accelerators(locks=tmp_path).clear([GPU])
    assert e.value.code == "device.clear"


def test_t8_two_gpus_are_cleared_and_one_failure_is_a_failure(tmp_path: Path) -> None:
    machine = fake(tmp_path)
    other = Gpu("/dev/nvidia1", 1, "0000:02:00.0")
    with pytest.raises(HostError) as e:
        machine.clear([GPU, other])
    assert e.value.code == "device.clear"
    assert "/dev/nvidia1" in e.value.reason.expected


def test_t8_gpus_are_found_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = fake(tmp_path)
    numbered(
        monkeypatch,
        {
            "/dev/nvidia0": (195, 0),
            "/dev/gpu": (195, 0),
            "/dev/nvidia1": (195, 1),
            "/dev/nvidiactl": (195, 255),
            "/dev/nvidia-uvm": (510, 0),
        },
    )
    listed = ["/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia0"]
    assert [g.bus for g in machine.find(listed)] == ["0000:01:00.0", "0000:02:00.0"]
    assert [g.minor for g in machine.find(["/dev/gpu", "/dev/nvidia0"])] == [0]
    assert machine.find(["/dev/nvidiactl"]) == ()
    assert machine.find([]) == ()


@pytest.mark.parametrize("number", [(195, 2), (195, 254), (510, 1), (226, 128), (1, 3), (511, 0)])
def test_t8_a_device_that_nobody_here_can_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: tuple[int, int]
) -> None:
    """Whatever it is called: a GPU that the driver does not list, another maker's, any other."""
    machine = fake(tmp_path)
    numbered(monkeypatch, {"/dev/nvidia-uvm": number})
    with pytest.raises(HostError) as e:
        machine.find(["/dev/nvidia-uvm"])
    assert e.value.code == "device.kind"


def test_t8_a_machine_without_the_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    numbered(monkeypatch, {"/dev/nvidia0": (195, 0), "/dev/nvidia-uvm": (510, 0)})
    for device in ("/dev/nvidia0", "/dev/nvidia-uvm"):
        with pytest.raises(HostError) as e:
            Accelerators(proc=tmp_path / "none").find([device])
        assert e.value.code == "device.kind"


@pytest.mark.parametrize("device", ["/dev/no-such-accelerator", "/dev", "/etc/hostname"])
def test_a_device_that_is_not_there(device: str) -> None:
    for act in (Accelerators().find, accelerators.require):
        with pytest.raises(HostError) as e:
            act([device])
        assert e.value.code == "device.missing"
    accelerators.require(["/dev/null"])


def test_t8_two_homes_cannot_share_a_gpu(tmp_path: Path) -> None:
    machine = Accelerators(locks=tmp_path)
    other = Gpu("/dev/nvidia1", 1, "0000:02:00.0")
    with machine.lent([GPU]):
        with machine.lent([other]):
            pass
        with pytest.raises(HostError) as e, machine.lent([other, GPU]):
            pytest.fail("lent twice")
        assert e.value.code == "device.busy"
        assert f"process {os.getpid()}" in e.value.reason.observed
        with machine.lent([other]):  # what a refused job took is free again
            pass
    with machine.lent([GPU]):
        pass


def test_a_folder_for_locks_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(HostError) as e, Accelerators(locks=place).lent([GPU]):
            pytest.fail("lent without a lock")
        assert e.value.code == "host.lock"
    (tmp_path / f"svetovid-{GPU.name}.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(HostError) as e, Accelerators(locks=tmp_path).lent([GPU]):
        pytest.fail("followed a link")
    assert e.value.code == "host.lock"
    assert not (tmp_path / "victim").exists()
