"""The demo itself fails where anything in it is not as it should be."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import pytest

from svetovid.cli.demo import parties, refusals, tasks
from svetovid.cli.demo.findings import Findings
from svetovid.cli.demo.keyholder import Keyholder
from svetovid.cli.demo.parties import Party, fresh_folder
from svetovid.cli.demo.processes import Processes
from svetovid.cli.demo.refusals import Refusal, try_all
from svetovid.errors import HostError, PolicyError


def code_of(call: Callable[..., object], *args: object) -> str:
    with pytest.raises(HostError) as e:
        call(*args)
    return e.value.code


class Speaking(Party):
    """A party whose command is a line of shell."""

    def __init__(self, line: str) -> None:
        self.line = line
        self._acting = threading.Lock()

    def start(self, module: str, *arguments: str, output: Any = None) -> Any:
        to = output or subprocess.PIPE
        return subprocess.Popen(["sh", "-c", self.line], stdout=to, stderr=to, text=True)


def test_a_command_that_answers_nothing_or_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    assert code_of(Speaking("echo no json").run, "status") == "demo.answer"
    monkeypatch.setattr(parties, "_TIMEOUT_S", 0.05)
    assert code_of(Speaking("exec sleep 5").run, "status") == "demo.timeout"


def test_a_manager_that_does_not_start(tmp_path: Path) -> None:
    party = Speaking("echo no root key >&2; exit 4")
    party.home = tmp_path
    with pytest.raises(HostError) as e:
        Keyholder(party).serve()
    assert e.value.code == "demo.manager"
    assert "no root key" in str(e.value.reasons[0].observed)


def test_a_folder_of_somebody_elses(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    fresh_folder(folder)
    (folder / "left-over").touch()
    fresh_folder(folder)
    assert not (folder / "left-over").exists()
    (tmp_path / "theirs").touch()
    assert code_of(fresh_folder, tmp_path) == "demo.folder"
    assert (tmp_path / "theirs").exists()
    for no_folder in (tmp_path / "theirs", tmp_path / "theirs" / "below", Path("a\0b")):
        assert code_of(fresh_folder, no_folder) == "demo.folder"


def test_data_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tasks, "_FASHION", tmp_path)
    assert code_of(tasks._idx, "train-labels-idx1-ubyte") == "demo.data"


def test_plain_training_that_fails() -> None:
    class Failing(Processes):
        def start(self, module: str, *arguments: str, **how: Any) -> Any:
            pipe = subprocess.PIPE
            return subprocess.Popen(["false"], stdout=pipe, stderr=pipe, text=True)

    ways = {"plain": ({}, {})}
    task = tasks.BREAST_CANCER
    assert code_of(tasks.compare_plain, task, ways, {}, Path(), Failing()) == "demo.plain"


def findings(**changes: Any) -> Findings:
    fields: dict[str, Any] = {
        "identical_weights": {"a": True},
        "enclave_answers_agree": True,
        "canary": {"hits": [], "planted_found": True, "open": []},
        "verdicts": {"a": ("simulated: proves nothing",)},
    }
    return Findings(**(fields | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"identical_weights": {"a": True, "b": False}},
        {"enclave_answers_agree": False},
        {"canary": {"hits": ["key in x"], "planted_found": True, "open": []}},
        {"canary": {"hits": [], "planted_found": False, "open": []}},
        {"canary": {"hits": [], "planted_found": True, "open": ["alice"]}},
        {"verdicts": {"a": ("fine",)}},
    ],
)
def test_t18_one_thing_wrong_and_the_demo_is_not_ok(changes: dict[str, Any]) -> None:
    findings().check()
    assert code_of(findings(**changes).check) == "demo.failed"


class Stage:
    """As much of a story as trying refusals takes."""

    def __init__(self) -> None:
        self.findings = findings()

    def begin(self, act: Callable[[], Any]) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(act())
        return done


def test_t18_what_is_not_refused_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(*_: object) -> None:
        raise PolicyError("grant.mode", expected="x", observed="y", next_step="z")

    def tried(attempt: Any, code: str) -> list[Any]:
        monkeypatch.setattr(refusals, "SCENES", (((Refusal("w", code, attempt),),),))
        return list(try_all(cast(Any, stage), cast(Any, None)))

    stage = Stage()
    for attempt in (lambda *_: None, other):
        assert code_of(tried, attempt, "limit.runs") == "demo.not_refused"
    ((_, error),) = tried(other, "grant.mode")
    assert error.code == "grant.mode"
    assert stage.findings.refusals == {"w": "grant.mode"}
