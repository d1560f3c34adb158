"""Under which uid a sandbox runs, and that it needs nothing of the agent's to be read by it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path, PurePosixPath

import pytest

from otheruser import NOBODY, run_as_nobody
from sandboxing import ask, job
from svetovid.assets import open_asset
from svetovid.assets.seal import seal_stream
from svetovid.crypto import Identity
from svetovid.host.runner import run_sandboxed
from svetovid.host.runtime import build, build_runtime
from svetovid.host.sandbox.process import _FIRST_UID, _UIDS

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root gives a job a uid of its own")
WAITS = "session.progress(1, 1)\nimport time\ntime.sleep(0.3)\nanswer(os.getuid())"


def _status(folder: Path) -> dict[str, int]:
    lines = (folder / "status").read_text().splitlines()
    fields = (line.split() for line in lines if line.startswith(("PPid:", "Uid:")))
    return {f[0]: int(f[1]) for f in fields}


def _uids_below(process: int) -> set[int]:
    """The uids, as the kernel knows them, of all that descends from ``process``."""
    known: dict[int, dict[str, int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                known[int(folder.name)] = _status(folder)
    family = {process}
    for _ in range(8):
        family |= {pid for pid, status in known.items() if status["PPid:"] in family}
    return {known[pid]["Uid:"] for pid in family if pid in known}


@as_root
def test_t8_each_job_has_a_uid_of_its_own() -> None:
    """No file of root's, and none of another job's, is its own, should it ever see one."""
    seen: list[set[int]] = []
    for _ in range(2):
        found: set[int] = set()
        run_sandboxed(
            job(WAITS), on_event=lambda _, found=found: found.update(_uids_below(os.getpid()))
        )
        found = {u for u in found if u}
        assert len(found) == 1
        assert found <= set(range(_FIRST_UID, _FIRST_UID + _UIDS))
        seen.append(found)
    assert seen[0] != seen[1]


@as_root
def test_t7_what_a_job_was_lent_it_cannot_open_anew(alice: Identity) -> None:
    """A kernel that measures would enter a digest of it in a log that the operator reads."""
    setup = """
    lent = [session._slot("m")[k] for k in ("data", "mark")]
    """
    asked = "set(refused(lambda: os.open(f'/proc/self/fd/{f}', os.O_RDONLY)) for f in lent) == {13}"
    manifest, key = seal_stream(
        "memory://lent", [b"secret"], kind="model", name="lent",
        owner=alice.key_id, manager=alice.key_id,
    )  # fmt: skip
    with open_asset("memory://lent", manifest, key, expected=manifest.digest()) as reader:
        assert ask(asked, setup, models={"m": reader}) == 1


@as_root
def test_a_runtime_that_a_careful_root_built(tmp_path: Path) -> None:
    """An umask of 077 in the agent's shell must not close the runtime to the jobs."""
    before = os.umask(0o077)
    try:
        tree = build_runtime(tmp_path / "runtime", ())
    finally:
        os.umask(before)
    assert tree.stat().st_mode & 0o777 == 0o755
    assert ask("os.getuid()", runtime=tree) == 1000


def test_files_that_only_their_owner_may_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are copied: a link's mode would be changed for whoever has the other name."""
    (tmp_path / "closed.py").write_text("A = 1")
    (tmp_path / "closed.py").chmod(0o600)
    (tmp_path / "open.py").write_text("B = 1")
    (tmp_path / "open.py").chmod(0o644)
    (tmp_path / "tool").write_text("#!")
    (tmp_path / "tool").chmod(0o744)
    names = ("closed.py", "open.py", "tool")
    plan = {PurePosixPath(f"/deep/{n}"): tmp_path / n for n in names}
    monkeypatch.setattr(build, "_plan", lambda _: plan)
    monkeypatch.setattr(build.sources, "shared_objects", lambda _: [])
    before = os.umask(0o077)
    try:
        tree = build_runtime(tmp_path / "tree")
    finally:
        os.umask(before)
    modes = {n: (tree / "deep" / n).stat().st_mode & 0o777 for n in names}
    assert modes == {"closed.py": 0o644, "open.py": 0o644, "tool": 0o755}
    assert (tmp_path / "closed.py").stat().st_mode & 0o777 == 0o600
    assert (tree / "deep" / "open.py").samefile(tmp_path / "open.py")
    assert (tree / "deep").stat().st_mode & 0o777 == 0o755


def test_an_agent_that_is_not_root_confines_as_well() -> None:
    """In a user namespace, wherever its Python lies; the sandbox then has the agent's own uid."""
    done = run_as_nobody(
        "import os, sandboxing\n"
        "from svetovid.host.check import OWN_UID, _who\n"
        "print(os.getuid(), OWN_UID in _who(), sandboxing.ask('os.getuid()'))\n"
        "print(sandboxing.ask('refused(lambda: open(\"/etc/hostname\"))'))\n"
    )
    mine = NOBODY if os.getuid() == 0 else os.getuid()
    assert done.stdout.splitlines() == [f"{mine} False 1000", "2"], done.stderr
