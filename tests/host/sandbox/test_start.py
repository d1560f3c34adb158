"""Where a sandbox cannot be made, the job is refused: there is no running without one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandboxing import job, run, small_runtime
from svetovid.errors import HostError, LimitError
from svetovid.host.runner import run_sandboxed
from svetovid.host.sandbox import find_bubblewrap, process
from svetovid.host.sandbox.cgroup import Cgroup


def code_of(**changes: object) -> str:
    with pytest.raises(HostError) as e:
        run_sandboxed(job("answer(1)", **changes))
    assert e.value.reason.next_step
    return e.value.code


def test_no_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.shutil, "which", lambda *_, **__: None)
    with pytest.raises(HostError) as e:
        find_bubblewrap()
    assert e.value.code == "sandbox.bubblewrap"
    assert e.value.reason.next_step == "apt-get install bubblewrap"
    assert code_of() == "sandbox.bubblewrap"


def test_no_runtime(tmp_path: Path) -> None:
    assert code_of(runtime=tmp_path / "none") == "sandbox.runtime"


def test_no_device() -> None:
    assert code_of(devices=("/dev/no-such-accelerator",)) == "device.missing"


def test_a_listed_device_is_visible_and_no_other() -> None:
    """T8, with a device node that every machine has."""
    here = run("answer(os.path.exists('/dev/kmsg'))", devices=())
    assert here.outputs["answer"][-8] == 0
    if not os.path.exists("/dev/kmsg"):
        pytest.skip("no /dev/kmsg here")
    listed = run("answer(os.path.exists('/dev/kmsg'))", devices=("/dev/kmsg",))
    assert listed.outputs["answer"][-8] == 1


def test_no_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's answer where user namespaces are switched off, from bubblewrap itself."""
    say = "import sys; sys.exit('bwrap: No permissions to create new namespace')"
    monkeypatch.setattr(process, "_STAGE", _stage(tmp_path, say))
    assert code_of() == "sandbox.namespaces"


def test_bubblewrap_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        process, "_STAGE", _stage(tmp_path, "import sys; sys.exit('bwrap: Unknown option')")
    )
    assert code_of() == "sandbox.start"
    monkeypatch.setattr(process, "_STAGE", _stage(tmp_path, "pass"))
    assert code_of() == "sandbox.start"


def _stage(folder: Path, text: str) -> Path:
    path = folder / "stage.py"
    path.write_text(text)
    return path


def test_more_files_than_can_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(name: str, data: bytes) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(process, "frozen", full)
    with pytest.raises(LimitError) as e:
        process.Sandbox(small_runtime(), {"a.py": b""}, ["x"], [], process.Confinement())
    assert e.value.code == "sandbox.files"


def test_many_code_files() -> None:
    files = {f"package/m{i}.py": f"N = {i}".encode() for i in range(300)}
    spec = job("import package.m299 as m\nanswer(m.N)")
    result = run_sandboxed(job("", code={**spec.code, **files}))
    assert int.from_bytes(result.outputs["answer"][-8:], "little") == 299


def test_groups_in_both_layouts(tmp_path: Path) -> None:
    """A folder stands in for the kernel's file system: what is asked of it, in version 1 and 2."""
    old = tmp_path / "v1"
    for kind in ("memory", "pids"):
        (old / kind).mkdir(parents=True)
    group = Cgroup(1 << 20, 7, old)
    assert group.bounds == ("memory", "pids")
    memory, pids = group.folders
    assert (memory / "memory.limit_in_bytes").read_text() == str(1 << 20)
    assert (pids / "pids.max").read_text() == "7"
    new = tmp_path / "v2"
    new.mkdir()
    (new / "cgroup.controllers").write_text("memory pids")
    group = Cgroup(1 << 20, 7, new)
    assert group.bounds == ("memory", "pids")
    assert (group.folders[0] / "memory.max").read_text() == str(1 << 20)
    for folder in group.folders:
        for file in folder.iterdir():
            file.unlink()
    group.close()
    assert not any(p.is_dir() for p in new.iterdir())
    assert Cgroup(1, 1, tmp_path / "none").bounds == ()


def test_group_that_cannot_be_bounded_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("")
    name: list[Path] = []
    original = Path.write_text

    def refuse(self: Path, text: str) -> int:
        if self.name == "memory.max":
            name.append(self.parent)
            raise PermissionError
        return original(self, text)

    with pytest.MonkeyPatch.context() as m:
        m.setattr(Path, "write_text", refuse)
        assert Cgroup(1, 1, tmp_path).bounds == ()
    assert not name[0].exists()
