"""What a command cannot write or import is said before its work, in our own words."""

from __future__ import annotations

import importlib
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from svetovid.cli.demo import play
from svetovid.cli.demo.findings import Findings
from svetovid.cli.demo.plot import plot_accuracy
from svetovid.cli.main import run
from svetovid.cli.results import write_result
from svetovid.errors import HostError

Cli = Callable[..., tuple[int, Any]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command that must end before the play begins: its code, and what its panel says."""
    monkeypatch.setenv("COLUMNS", "300")

    def begun(*_: object) -> Findings:
        raise AssertionError("the play began")

    monkeypatch.setattr(play, "play", begun)

    def call(*arguments: str) -> tuple[int, str]:
        code, said = run(list(arguments)), capsys.readouterr()
        return code, said.out + said.err

    return call


@contextmanager
def little_room() -> Iterator[None]:
    """No file of this process may become larger than 4 KiB: a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (("--json", "missing/out.json"), 4, "file.write"),
        (("--json", "."), 4, "file.write"),
        (("--plot", "missing/out.svg"), 4, "file.write"),
        (("--plot", "out.gif"), 2, "demo.plot"),
    ],
)
def test_the_demo_looks_where_it_is_to_write_first(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, code: int, error: str
) -> None:
    monkeypatch.chdir(tmp_path)
    found, told = cli("demo", *arguments)
    assert found == code
    assert error in told
    assert list(tmp_path.iterdir()) == []


def test_a_folder_for_the_demo_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--folder", "/etc/passwd"]) == 4
    assert "demo.folder" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["torch", "numpy", "safetensors", "sklearn", "matplotlib"])
def test_the_demo_looks_for_its_packages_first(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    code, told = cli("demo", "--plot", str(tmp_path / "out.svg"))
    assert code == 4
    assert "cli.extra" in told
    assert f"no module {module}" in told
    assert "pip install 'svetovid[" in told


@pytest.mark.parametrize("module", ["torch", "s3fs"])
def test_a_package_that_is_missed_later_is_no_defect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)

    def work(*_: object, **__: object) -> None:
        try:
            importlib.import_module(module)
        except ImportError as e:
            raise ImportError("install something") from e

    monkeypatch.setattr("svetovid.cli.app.app", work)
    assert run(["version", "--json"]) == 4
    (reason,) = json.loads(capsys.readouterr().out)["reasons"]
    assert reason["code"] == "cli.extra"
    assert reason["next_step"].startswith("pip install 'svetovid[")


def test_another_import_that_fails_is_a_defect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(*_: object, **__: object) -> None:
        importlib.import_module("svetovid.nowhere")

    monkeypatch.setattr("svetovid.cli.app.app", work)
    assert run(["version", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"] == "internal"


def test_a_result_for_which_there_is_no_room() -> None:
    with pytest.raises(HostError) as e:
        write_result(Path("/dev/full"), {"a": 1})
    assert e.value.code == "file.write"


def test_a_result_is_whole_or_not_there(tmp_path: Path) -> None:
    with little_room(), pytest.raises(HostError) as e:
        write_result(tmp_path / "out.json", {"a": "b" * 10_000})
    assert e.value.code == "file.write"
    assert list(tmp_path.iterdir()) == []
    write_result(tmp_path / "out.json", {"a": 1})
    assert json.loads((tmp_path / "out.json").read_text()) == {"a": 1}


@pytest.mark.parametrize("name", ["out.svg", "out.png"])
def test_the_plot(tmp_path: Path, name: str) -> None:
    pytest.importorskip("matplotlib")
    plot_accuracy({"clothes": {"alice alone": 0.7, "sealed": 0.8}}, tmp_path / name)
    assert (tmp_path / name).stat().st_size > 1000


def test_an_example_for_which_there_is_no_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    command = ["example", "breast-cancer", str(tmp_path), "--json"]
    with little_room():
        assert run(command) == 4
    assert json.loads(capsys.readouterr().out)["error"] == "file.write"
    assert list(tmp_path.iterdir()) == []
    assert run(command) == 0
    for path in json.loads(capsys.readouterr().out)["files"]:
        assert Path(path).is_file()


def test_the_program_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "svetovid.cli", "version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("svetovid ")
