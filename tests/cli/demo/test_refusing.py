"""The demo itself fails where anything in it is not as it should be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from svetovid.cli.demo import parties, refusals, tasks
from svetovid.cli.demo.parties import Party, fresh_folder
from svetovid.cli.demo.refusals import Refusal, try_all
from svetovid.cli.demo.story import Story
from svetovid.errors import HostError, PolicyError


def code_of(call: Callable[..., object], *args: object) -> str:
    with pytest.raises(HostError) as e:
        call(*args)
    return e.value.code


class Speaking(Party):
    """A party whose command is a line of shell."""

    def __init__(self, line: str) -> None:
        self.line = line
        self.commands = 0
        self.seconds = 0.0

    def start(self, *arguments: str | Path) -> Any:
        import subprocess

        pipe = subprocess.PIPE
        return subprocess.Popen(["sh", "-c", self.line], stdout=pipe, stderr=pipe, text=True)


def test_a_command_that_answers_nothing_or_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    assert code_of(Speaking("echo no json").run, "status") == "demo.answer"
    monkeypatch.setattr(parties, "_TIMEOUT_S", 0.05)
    assert code_of(Speaking("exec sleep 5").run, "status") == "demo.timeout"


def test_a_folder_of_somebody_elses(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    fresh_folder(folder)
    (folder / "left-over").touch()
    fresh_folder(folder)
    assert not (folder / "left-over").exists()
    (tmp_path / "theirs").touch()
    assert code_of(fresh_folder, tmp_path) == "demo.folder"
    assert (tmp_path / "theirs").exists()


def test_data_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tasks, "_FASHION", tmp_path)
    assert code_of(tasks._idx, "train-labels-idx1-ubyte") == "demo.data"


def test_plain_training_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    done = subprocess.CompletedProcess([], 1, "", "boom")
    monkeypatch.setattr(tasks.subprocess, "run", lambda *a, **k: done)
    assert code_of(tasks.train_plain, tasks.BREAST_CANCER, [({}, {})]) == "demo.plain"


def result(**changes: Any) -> Any:
    fields: dict[str, Any] = {
        "identical_weights": {"a": True},
        "enclave_answers_agree": True,
        "canary": {"hits": [], "planted_found": True},
        "verdicts": {"a": ("simulated: proves nothing",)},
        "refusals": {},
        "seconds": {},
    }
    return SimpleNamespace(result=SimpleNamespace(**(fields | changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"identical_weights": {"a": True, "b": False}},
        {"enclave_answers_agree": False},
        {"canary": {"hits": ["key in x"], "planted_found": True}},
        {"canary": {"hits": [], "planted_found": False}},
        {"verdicts": {"a": ("fine",)}},
    ],
)
def test_t18_one_thing_wrong_and_the_demo_is_not_ok(changes: dict[str, Any]) -> None:
    Story.check(result())
    assert code_of(Story.check, result(**changes)) == "demo.failed"


def test_t18_what_is_not_refused_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(*_: object) -> None:
        raise PolicyError("grant.mode", expected="x", observed="y", next_step="z")

    for attempt, expected in ((lambda *_: None, "demo.not_refused"), (other, "demo.not_refused")):
        monkeypatch.setattr(refusals, "REFUSALS", (Refusal("w", "limit.runs", cast(Any, attempt)),))
        assert code_of(lambda: list(try_all(result(), cast(Any, None)))) == expected
    monkeypatch.setattr(refusals, "REFUSALS", (Refusal("w", "grant.mode", cast(Any, other)),))
    ((_, error),) = try_all(result(), cast(Any, None))
    assert error.code == "grant.mode"
