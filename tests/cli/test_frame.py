"""The frame of every command: help, exit codes, JSON, passphrases, terminals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from svetovid.cli import main as console_script
from svetovid.cli import output
from svetovid.cli.app import app
from svetovid.cli.main import run
from svetovid.cli.options import passphrase
from svetovid.crypto import Identity
from svetovid.errors import (
    EvidenceError,
    HostError,
    InputError,
    PolicyError,
    Reason,
    SvetovidError,
    TransportError,
)
from svetovid.stakeholder import write_public

COMMAND = [sys.executable, "-c", "from svetovid.cli import main; main()"]


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every leaf of the command tree."""
    command = command or typer.main.get_command(app)
    children = getattr(command, "commands", None)
    if not children:
        yield path
        return
    for name, child in children.items():
        yield from commands(child, (*path, name))


@pytest.mark.parametrize("path", sorted(commands()), ids=" ".join)
def test_every_command_has_an_example_and_json(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"svetovid {' '.join(path)}" in result.output
    assert "--json" in result.output


def test_help_is_quick_and_light() -> None:
    """Neither torch nor the wings are imported to show help."""
    code = (
        "import sys; from svetovid.cli.main import run; code = run(['--help']);"
        "heavy = {'torch', 'numpy', 'sqlalchemy', 'uvicorn', 'httpx', 'sklearn',"
        " 'svetovid.manager', 'svetovid.host', 'svetovid.stakeholder'} & set(sys.modules);"
        "print(heavy, file=sys.stderr); sys.exit(code or bool(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "identity" in done.stdout


def test_completion_is_on() -> None:
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).output


def test_version_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version", "--json"]) == 0
    assert "svetovid" in json.loads(capsys.readouterr().out)
    for args in (["version"], ["--version"]):
        assert run(args) == 0
        assert capsys.readouterr().out.startswith("svetovid ")


@pytest.mark.parametrize(
    "args", [["nonsense"], ["version", "--nonsense"], ["identity", "create"], ["bench"]]
)
def test_wrong_usage_is_exit_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(args) == 2
    assert "cli.usage" in capsys.readouterr().err
    assert run([*args, "--json", "x"] if args == ["bench"] else [*args, "--json"]) in (2, 4)
    assert json.loads(capsys.readouterr().out)["reasons"]


@pytest.mark.parametrize(
    ("args", "help_of"),
    [
        (["nonsense"], "svetovid"),
        (["job", "consnt"], "svetovid job"),
        (["identity", "create"], "svetovid identity create"),
        (["host", "run", "--nonsense"], "svetovid host run"),
        (["appraise", "nope"], "svetovid appraise"),
    ],
)
def test_wrong_usage_names_the_help_of_the_command(
    args: list[str], help_of: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*args, "--json"]) == 2
    (reason,) = json.loads(capsys.readouterr().out)["reasons"]
    assert reason["next_step"] == f"{help_of} --help"


@pytest.mark.parametrize("args", [[], ["job"]])
def test_no_command_is_help_and_nothing_wrong_beside_it(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(args) == 2
    seen = capsys.readouterr()
    assert "Usage" in seen.out
    assert "cli.usage" not in seen.out + seen.err


@pytest.mark.parametrize(
    ("error", "code"),
    [(InputError, 2), (PolicyError, 3), (EvidenceError, 3), (HostError, 4), (TransportError, 5)],
)
def test_exit_codes_and_both_forms(
    error: type[SvetovidError],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error(
            "x.y", expected="this", observed="that\x1b[2J", next_step="do it", clause="policy a"
        )

    monkeypatch.setattr("svetovid.cli.app.app", fail)
    assert run(["version"]) == code
    seen = capsys.readouterr()
    assert not seen.out
    for word in ("x.y", "this", "that", "do it", "policy a"):
        assert word in seen.err
    assert "\x1b[2J" not in seen.err
    assert run(["version", "--json"]) == code
    value = json.loads(capsys.readouterr().out)
    assert value["error"] == "x.y"
    assert value["exit_code"] == code


def test_each_reason_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    error = PolicyError.from_reasons([Reason("a.b", owner="alice"), Reason("c.d", expected="x")])
    output.emit_error(error, as_json=False)
    text = capsys.readouterr().err
    assert "a.b" in text
    assert "alice" in text
    assert "c.d" in text
    output.emit_error(PolicyError("e.f"), as_json=False)
    assert "no more is known" in capsys.readouterr().err


def test_a_defect_is_internal_and_silent_about_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a canary-secret in a message")

    monkeypatch.setattr("svetovid.cli.app.app", fail)
    monkeypatch.delenv("SVETOVID_DEBUG", raising=False)
    assert run(["version"]) == 1
    seen = capsys.readouterr()
    assert "internal" in seen.err
    assert "Traceback" not in seen.err
    assert "canary-secret" not in seen.err + seen.out
    monkeypatch.setenv("SVETOVID_DEBUG", "1")
    assert run(["version", "--json"]) == 1
    seen = capsys.readouterr()
    assert "Traceback" in seen.err
    assert json.loads(seen.out)["error"] == "internal"


@pytest.mark.parametrize("error", [KeyboardInterrupt, EOFError, typer.Abort])
def test_interrupted(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("svetovid.cli.app.app", fail)
    assert run(["version"]) == 130


def test_console_script_and_a_reader_that_has_gone() -> None:
    done = subprocess.run([*COMMAND, "version", "--json"], capture_output=True, text=True)
    assert done.returncode == 0
    assert json.loads(done.stdout)
    assert console_script is not None
    gone, writer = os.pipe()
    os.close(gone)
    done = subprocess.run([*COMMAND, "version"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr == ""


class TestPassphrase:
    """Never from argv; a file must be private."""

    @pytest.fixture(autouse=True)
    def _no_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("SVETOVID_PASSPHRASE_FILE", "SVETOVID_PASSPHRASE_FD"):
            monkeypatch.delenv(name, raising=False)

    def _refused(self) -> str:
        with pytest.raises(InputError) as e:
            passphrase("ann")
        assert e.value.reason.next_step
        return e.value.code

    def test_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = tmp_path / "p"
        monkeypatch.setenv("SVETOVID_PASSPHRASE_FILE", str(file))
        assert self._refused() == "passphrase.file"
        file.write_bytes(b"correct horse\n")
        file.chmod(0o644)
        assert self._refused() == "passphrase.file"
        file.chmod(0o600)
        assert passphrase("ann").reveal() == b"correct horse"
        file.write_bytes(b"\n")
        assert self._refused() == "passphrase.file"
        file.write_bytes(b"x" * 2000)
        assert self._refused() == "passphrase.file"
        monkeypatch.setenv("SVETOVID_PASSPHRASE_FILE", str(tmp_path))
        assert self._refused() == "passphrase.file"

    def test_fd(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        reader, writer = os.pipe()
        os.write(writer, b"by pipe\n")
        os.close(writer)
        monkeypatch.setenv("SVETOVID_PASSPHRASE_FD", str(reader))
        assert passphrase("ann").reveal() == b"by pipe"
        assert self._refused() == "passphrase.fd"
        os.close(reader)
        for wrong in (str(reader), "seven", "-1"):
            monkeypatch.setenv("SVETOVID_PASSPHRASE_FD", wrong)
            assert self._refused() == "passphrase.fd"

    def test_prompt_or_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
        assert self._refused() == "passphrase.missing"
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        asked = []
        monkeypatch.setattr(typer, "prompt", lambda *a, **k: asked.append((*a, k)) or "typed")
        assert passphrase("ann", confirm=True).reveal() == b"typed"
        ((prompt, how),) = asked
        assert prompt == "Passphrase of ann"
        assert how["hide_input"]
        assert how["confirmation_prompt"]


def test_tables_show_text_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("a",), [("[red]x[/red]\x1b[31m",)], {"a": 1}, as_json=False)
    text = capsys.readouterr().out
    assert "[red]x[/red]" in text
    assert "\x1b" not in text
    output.table(("a",), [("x",)], {"a": 1}, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    output.note("wait\x07")
    assert "\x07" not in capsys.readouterr().err


def test_errors_name_whom_they_speak_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """People read names with the beginning of the key; machines read keys, whole."""
    who = Identity.generate("ann")
    write_public(tmp_path / "public" / "ann.card.json", who.signed_card())

    def refuse(*args: object, **kwargs: object) -> None:
        raise PolicyError("x.y", observed=f"{who.key_id} did", owner=who.key_id)

    monkeypatch.setattr("svetovid.stakeholder.read_job", refuse)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SVETOVID_PUBLIC", raising=False)
    for args in ([], ["--public", "public"]):
        assert run(["job", "show", "some.json", *args]) == 3
        shown = " ".join(capsys.readouterr().err.split())
        assert f"ann ({who.key_id[:24]}…)" in shown
        assert who.key_id not in shown
    assert run(["job", "show", "some.json", "--public", "elsewhere"]) == 3
    assert "ann" not in capsys.readouterr().err
    assert run(["job", "show", "some.json", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["reasons"][0]["owner"] == who.key_id


@pytest.mark.parametrize("path", [("host", "run"), ("share",), ("reference", "make")])
def test_no_name_of_an_option_is_cut_in_a_narrow_terminal(path: tuple[str, ...]) -> None:
    command = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]  # type: ignore[attr-defined]
    names = [name for p in command.params for name in p.opts if name.startswith("--")]
    done = subprocess.run(
        [*COMMAND, *path, "--help"],
        env={**os.environ, "COLUMNS": "30"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert [n for n in names if n not in done.stdout] == []


def test_a_table_in_a_narrow_terminal_is_a_field_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(1, "a release that was refused"), (2, "b")]
    monkeypatch.setenv("COLUMNS", "20")
    output.table(("entry", "what was asked"), rows, {}, False)
    assert capsys.readouterr().out.splitlines() == [
        *("entry: 1", "what was asked: a release that was refused", ""),
        *("entry: 2", "what was asked: b", ""),
    ]
    monkeypatch.setenv("COLUMNS", "80")
    output.table(("entry", "what was asked"), rows, {}, False)
    assert "entry: 1" not in capsys.readouterr().out
