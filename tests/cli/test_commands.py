"""Every command once for people and once for machines, against a manager in the background."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svetovid.cli.checkout import checkout, load_module
from svetovid.cli.main import run
from svetovid.cli.service import stop_background
from svetovid.errors import InputError
from svetovid.host import find_storage
from svetovid.stakeholder import read_job

CANARY = "canary-passphrase"
POLICY = """\
version: svetovid.policy/v1
name: {name}-policy
profile: test
accepts: [simulated, launcher]
anchors: {{document: ${anchors}}}
references: [{{document: ${references}}}]
operators: [$olga]
grants:
  - {{asset: ${asset}, use: {use}, code: [{code}], modes: [attested], recipients: [$rita],
     limits: {{runs: 2, output_bytes: 2000000000}}}}
"""
JOB = """\
version: svetovid.job/v1
name: little
mode: attested
assets:
  data: {manifest: $records, owner: $ann, manager: $manager, use: data}
  code: {manifest: $program, owner: $carol, manager: $manager, use: code}
entry: train.py
environment: $box-runtime
outputs: {model: {tensors: {w: {dtype: float32, shape: [1]}}}}
metrics: {loss: {type: float, max_count: 3}}
recipients: [$rita]
devices: []
"""
Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("world")
    (folder / "pass").write_text(CANARY)
    (folder / "pass").chmod(0o600)
    (folder / "program").mkdir()
    (folder / "program" / "train.py").write_text("print()\n")
    (folder / "tree").mkdir()
    (folder / "tree" / "file").write_text("x")
    np.savez(folder / "records.npz", x=np.zeros((4, 2), "f4"))
    yield folder
    with pytest.raises(InputError, match=r"manager\.stopped"):
        stop_background(folder / "manager")


@pytest.fixture
def cli(world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(world)
    monkeypatch.setenv("SVETOVID_PASSPHRASE_FILE", str(world / "pass"))

    def call(*args: str, expect: int = 0, as_json: bool = True) -> dict[str, Any]:
        code = run([*args, *(["--json"] if as_json else [])])
        seen = capsys.readouterr()
        assert code == expect, (args, seen.out, seen.err)
        assert CANARY not in seen.out + seen.err
        assert "Traceback" not in seen.err
        if not as_json:
            assert seen.out if code == 0 else seen.err
            return {"text": seen.out, "noted": seen.err}
        value = json.loads(seen.out)
        assert isinstance(value, dict)
        return value

    return call


def test_the_whole_story(cli: Run, world: Path) -> None:
    """One story, in order: each step needs the one before."""
    _a_manager(cli)
    _a_host(cli, world)
    _assets_and_policies(cli, world)
    _a_job(cli, world)
    _an_identity_changes(cli)
    assert cli("manager", "stop", "--home", "manager")["stopped"] > 0
    assert cli("manager", "stop", "--home", "manager", expect=2)["error"] == "manager.stopped"
    assert cli("manager", "verify", "--home", "carol", expect=5)["error"] == "transport.unreachable"


def _a_manager(cli: Run) -> None:
    first = cli("manager", "serve", "--home", "manager", "--background")
    assert first["url"].startswith("https://127.0.0.1:")
    again = cli("manager", "serve", "--home", "manager", "--background", expect=2)
    assert again["error"] == "manager.running"
    cli("manager", "stop", "--home", "manager", as_json=False)
    second = cli("manager", "serve", "--home", "manager", "--background")
    assert second["url"] == first["url"], "pins stay good over a restart"
    pin = ["--manager", "manager/manager.json"]
    made = cli("identity", "create", "ann", "carol", "rita", "olga", *pin)
    assert set(made["identities"]) == {"ann", "carol", "rita", "olga"}
    cli("identity", "create", "zoe", as_json=False)
    assert cli("manager", "verify", "--home", "zoe", expect=2)["error"] == "manager.unpinned"
    cli("manager", "pin", "manager/manager.json", "--home", "zoe")
    cli("manager", "pin", "manager/manager.json", "--home", "zoe", as_json=False)
    assert cli("manager", "verify", "--home", "zoe")["verdict"] == "manager: trusted, unproven"
    door = cli("manager", "admit", "--strangers", "0", "--home", "manager")
    assert door == {"admitted": {}, "strangers": 0}
    assert cli("identity", "rotate", "--home", "zoe", expect=2)["error"] == "identity.strangers"
    cards = [f"public/{name}.card.json" for name in (*made["identities"], "zoe")]
    shown = cli("manager", "admit", *cards, "--home", "manager", as_json=False)["text"]
    assert "ann" in shown
    assert "room for 0" in shown
    shown = cli("manager", "verify", "--home", "zoe", as_json=False)["text"]
    assert "manager: trusted, unproven" in shown
    assert "store rollback" in shown
    assert cli("identity", "show", "--home", "ann")["key"] == made["identities"]["ann"]["key"]
    assert "ann" in cli("identity", "show", "--home", "ann", as_json=False)["text"]
    assert cli("identity", "create", "ann", expect=2)["error"] == "key.exists"


def _a_host(cli: Run, world: Path) -> None:
    made = cli("tpm", "simulate", "ca", "--tpm", f"libtpms:{world / 'tpm.state'}")
    assert made["protects"] == "nothing"
    assert Path(made["ek_certificate"]).is_file()
    assert "SIMULATED" in cli("tpm", "simulate", "ca", as_json=False)["text"]
    args = ["host", "init", "--home", "box", "--name", "box", "--runtime", "tree"]
    assert cli(*args)["simulated"] is True
    assert cli("host", "status", "--home", "box")["host"] is None
    assert "not enrolled" in cli("host", "status", "--home", "box", as_json=False)["text"]
    cli(
        "host",
        "sign",
        "public/box.request.json",
        "--home",
        "olga",
        "--out",
        "public/box.statement.json",
    )
    enrol = ["host", "enrol", "--home", "box", "--statement", "public/box.statement.json"]
    assert cli(*enrol, expect=2)["error"] == "host.enrol"
    (host,) = cli(*enrol, "--manager", "manager/manager.json")["enrolled"]
    assert cli("host", "status", "--home", "box")["host"] == host
    assert "box" in cli("host", "status", "--home", "box", as_json=False)["text"]
    tried = cli("host", "check", "--home", "box", "--device", "/dev/none", expect=4)
    findings = {f["what"]: f["reason"] for f in tried["findings"]}
    assert findings["evidence"] is None
    assert findings["sandbox"]["code"] == "sandbox.start"  # a runtime of one file has no Python
    assert findings["devices"]["code"] == "device.missing"
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert run(["host", "check", "--home", "box"]) == 4
    assert "FAIL  sandbox" in shown.getvalue()
    assert cli(*args, expect=2)["error"] == "host.exists"
    other = ["host", "init", "--home", "box2", "--name", "box", "--runtime", "tree"]
    assert cli(*other, expect=2)["error"] == "host.exists"
    assert not (world / "box2").exists()
    assert cli(*other, "--operator", "olga", expect=2)["error"] == "host.enrol"
    tee = ["host", "init", "--home", "tee", "--name", "tee", "--runtime", "tree"]
    owned = ["--kind", "simulated-tee", "--operator", "olga", "--manager", "manager/manager.json"]
    text = cli(*tee, *owned, as_json=False)["text"]
    assert "enrolled" in text
    assert "SIMULATED" in text


def _assets_and_policies(cli: Run, world: Path) -> None:
    ca = ["anchors", "make", "ca/tpm-ca.pem", "--product", "mine", "--simulated", "--out", "a.json"]
    cli(*ca, as_json=False)
    assert cli(*ca)["document"].startswith("sha256:")
    cli("anchors", "publish", "a.json", "--home", "ann")
    values = ["reference", "make", "tree", "--product", "v", "--out", "v.json"]
    assert cli(*values)["files"] > 0
    cli("reference", "publish", "v.json", "--home", "ann", as_json=False)
    sealed = cli("asset", "seal", "records.npz", "--home", "zoe", "--name", "other")
    assert cli("asset", "show", sealed["manifest"])["asset"] == sealed["asset"]
    assert "x float32[2]" in cli("asset", "show", sealed["manifest"], as_json=False)["text"]
    place = ["asset", "verify", sealed["manifest"], "public/other.v1.sealed", "--home", "zoe"]
    assert cli(*place)["verified_bytes"] == 32
    assert "every chunk holds" in cli(*place, as_json=False)["text"]
    chosen = {"anchors": "anchors", "references": "references", "asset": "asset"}
    host = ["--anchors", "public/box.anchors.json", "--references", "public/box.references.json"]
    (world / "carol.yaml").write_text(POLICY.format(name="carol", use="code", code="", **chosen))
    (world / "ann.yaml").write_text(
        POLICY.format(name="ann", use="data", code="$program", **chosen)
    )
    cli("share", "program", "--home", "carol", "--policy", "carol.yaml", *host)
    text = cli(
        "share", "records.npz", "--home", "ann", "--policy", "ann.yaml", *host, as_json=False
    )
    assert "trusted, unproven" in text["text"]
    named = {"anchors": "box-anchors", "references": "box-runtime", "asset": "records"}
    (world / "ann2.yaml").write_text(
        POLICY.format(name="ann", use="data", code="$program", **named)
    )
    assert not [f for f in _check(cli, "ann2.yaml") if f["severity"] == "error"]
    cli("policy", "check", "ann2.yaml", "--home", "ann", as_json=False)
    assert cli("policy", "publish", "ann2.yaml", "--home", "ann")["sequence"] == 1
    wide = POLICY.format(name="ann", use="data", code="$program", **named)
    (world / "wide.yaml").write_text(wide.replace("operators: [$olga]\n", ""))
    assert _check(cli, "wide.yaml", expect=3)[0]["code"] == "lint.any_tpm"
    assert cli("policy", "withdraw", "none", "--home", "ann", expect=2)["error"] == "policy.unknown"
    cli("policy", "withdraw", "ann-policy", "--home", "ann")
    (policy,) = cli("policy", "show", "--home", "ann")["policies"]
    assert policy["policy"]["sequence"] == 2
    _placeholders(cli, world, host)
    assert "ann-policy" in cli("policy", "show", "--home", "ann", as_json=False)["text"]


def _placeholders(cli: Run, world: Path, host: list[str]) -> None:
    """The YAML that `share` was given can be checked and published: $anchors and all."""
    assert cli("policy", "check", "ann.yaml", "--home", "ann")["policy"].startswith("sha256:")
    assert cli("policy", "publish", "ann.yaml", "--home", "ann")["sequence"] == 2
    assert cli("policy", "publish", "ann.yaml", "--home", "ann", *host)["sequence"] == 2
    (world / "more.yaml").write_text((world / "ann.yaml").read_text().replace("runs: 2", "runs: 4"))
    change = {"where": "grants[0].limits.runs", "before": "2", "after": "4"}
    more = ["more.yaml", "--home", "ann"]
    assert cli("policy", "check", *more)["changes"] == [change]
    said = "changes grants[0].limits.runs: 2 -> 4"
    assert said in cli("policy", "check", *more, as_json=False)["noted"]
    assert said in cli("policy", "publish", *more, as_json=False)["text"]
    assert cli("policy", "publish", "ann.yaml", "--home", "ann")["changes"][0]["after"] == "2"
    unknown = cli("policy", "publish", "ann.yaml", "--home", "ann", "--asset", "no", expect=2)
    assert unknown["error"] == "asset.unknown"
    other = (world / "ann.yaml").read_text().replace("name: ann-policy", "name: other")
    (world / "new.yaml").write_text(other)
    new = ["new.yaml", "--home", "ann"]
    for command in ("check", "publish"):
        refused = cli("policy", command, *new, expect=2)
        assert refused["error"] == "policy.placeholder"
        assert "box.anchors.json" in refused["reasons"][0]["observed"]
    checked = cli("policy", "check", *new, *host)
    assert checked["policy"] is None
    assert "still to be sealed" in cli("policy", "check", *new, *host, as_json=False)["noted"]
    assert cli("policy", "check", *new, *host, "--asset", "records")["policy"]
    assert cli("policy", "publish", *new, *host, expect=2)["error"] == "policy.placeholder"


def _check(cli: Run, file: str, expect: int = 0) -> list[dict[str, str]]:
    found = cli("policy", "check", file, "--home", "ann", expect=expect)["findings"]
    assert isinstance(found, list)
    return found


def _a_job(cli: Run, world: Path) -> None:
    (world / "job.yaml").write_text(JOB)
    job = cli("job", "propose", "job.yaml", "--home", "rita")
    again = cli("job", "propose", "job.yaml", "--home", "rita", as_json=False)
    assert "proposed before" in again["noted"]
    assert "ann (ed25519:" in again["text"]
    assert cli("job", "propose", "job.yaml", "--home", "rita")["job"] == job["job"]
    (world / "other.yaml").write_text(JOB.replace("devices: []", "seed: 3"))
    other = ["job", "propose", "other.yaml", "--home", "rita"]
    assert cli(*other, expect=2)["error"] == "job.exists"
    assert cli(*other, "--replace")["job"] != job["job"]
    job = cli("job", "propose", "job.yaml", "--home", "rita", "--replace")
    assert cli("job", "show", job["file"])["job"]["name"] == "little"
    assert "It would use:" in cli("job", "show", job["file"], as_json=False)["text"]
    agreed = cli("job", "consent", job["file"], "--home", "ann", "--yes", as_json=False)
    assert "Who could open it:" in agreed["noted"]
    cli("job", "consent", job["file"], "--home", "ann", "--yes")
    waiting = cli("job", "status", job["file"], "--home", "rita")
    assert waiting["state"] == "waiting"
    shown = cli("job", "status", job["file"], "--home", "rita", as_json=False)["text"]
    assert "agreed    ann (ed25519:" in shown
    assert "waiting   for carol (ed25519:" in shown
    refused = cli("job", "consent", job["file"], "--home", "olga", "--yes", expect=3)
    assert refused["error"] == "consent.owner"
    noted = cli("job", "consent", job["file"], "--home", "olga", "--yes", expect=3, as_json=False)
    assert "olga (ed25519:" in noted["noted"]
    cli("job", "consent", job["file"], "--home", "carol", "--yes")
    assert "ready" in cli("job", "status", job["file"], "--home", "rita", as_json=False)["text"]
    kinds = {r["entry"]["kind"] for r in cli("job", "records", "--home", "ann")["records"]}
    assert {"asset", "policy", "consent"} <= kinds
    text = cli("job", "records", "--home", "ann", as_json=False)["text"]
    for word in ("about", "why", "consent", "records v1", "job little", "carol", "proposed by"):
        assert word in text
    watch = ["job", "watch", job["file"], "--home", "rita", "--once", "--outputs"]
    assert cli(*watch, "nowhere", expect=2)["error"] == "watch.outputs"
    (world / "empty").mkdir()
    assert cli(*watch, "empty")["finished"] is False
    stranger = ["job", "watch", job["file"], "--home", "ann", "--once", "--outputs", "empty"]
    assert cli(*stranger, expect=2)["error"] == "output.recipient"
    run_it = ["host", "run", job["file"], "--home", "box", "--outputs"]
    assert cli(*run_it, "pass/below-a-file", expect=4)["error"] == "file.write"
    assert cli(*run_it, "out", expect=2)["error"] == "job.manager"
    agreed_job, _ = read_job(Path(job["file"]))
    (world / "public" / "x.sealed.manifest.json").write_text("junk")
    found = find_storage(agreed_job, ["data=memory://data", "public"])
    assert found["data"] == "memory://data"
    assert found["code"].endswith("/public/program.v1.sealed")


def _an_identity_changes(cli: Run) -> None:
    after = cli("identity", "rotate", "--home", "zoe")
    assert after["manager_told"] is True
    cli("identity", "rotate", "--home", "zoe", as_json=False)
    assert cli("identity", "revoke", "--home", "zoe", "--why", "lost")["revoked"]
    assert cli("manager", "verify", "--home", "zoe")["verdict"]
    who = ["asset", "seal", "records.npz", "--home", "zoe", "--name", "late"]
    assert cli(*who)["asset"]
    refused = cli("policy", "publish", "ann2.yaml", "--home", "zoe", expect=3)
    assert refused["error"] in ("key.revoked", "key.rotated")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_question_answered_with_no(
    cli: Run, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --yes an owner is asked; only a yes is a yes. Standard output is for the result."""
    files = sorted((world / "public").glob("*.job.json"))
    signed: list[object] = []
    monkeypatch.setattr("svetovid.stakeholder.consent", lambda *a: signed.append(a))
    for typed in ("n\n", "", "\n", "yesterday\n"):
        monkeypatch.setattr("sys.stdin", _Terminal(typed))
        assert run(["job", "consent", str(files[0]), "--home", "ann", "--json"]) == 130
        seen = capsys.readouterr()
        assert "Do you agree?" in seen.err
        assert seen.out == ""
    assert not signed
    for typed in ("y\n", "Yes\n"):
        monkeypatch.setattr("sys.stdin", _Terminal(typed))
        assert run(["job", "consent", str(files[0]), "--home", "ann", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["consents"]
    assert len(signed) == 2


def test_a_question_that_nobody_can_answer(
    cli: Run, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody at a terminal and no --yes: told, and nothing is signed."""
    (file,) = (world / "public").glob("*.job.json")
    monkeypatch.setattr("svetovid.stakeholder.consent", lambda *a: pytest.fail("signed"))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    refused = cli("job", "consent", str(file), "--home", "ann", expect=2)
    assert refused["error"] == "consent.question"
    (reason,) = refused["reasons"]
    assert reason["next_step"] == f"read the job (svetovid job show {file}), then add --yes"


def test_a_manager_that_cannot_start(
    cli: Run, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (world / "broken").mkdir(mode=0o700)
    (world / "broken" / "root.key").write_text("junk")
    os.chmod(world / "broken" / "root.key", 0o600)
    serve = ["manager", "serve", "--home", "broken", "--background"]
    assert cli(*serve, expect=2)["error"] == "json.syntax"
    monkeypatch.setattr("svetovid.cli.service.sys.executable", "/bin/true")
    assert cli(*serve, expect=4)["error"] == "manager.start"
    assert not (world / "broken" / "manager.pid").exists()


def test_a_manager_on_a_tpm_notices_an_older_store(cli: Run, world: Path) -> None:
    """T15: the counter in the TPM does not go back with the store."""
    tpm = ["--tpm", f"libtpms:{world / 'manager-tpm.state'}"]
    serve = ["manager", "serve", "--home", "tpm-manager", "--background", *tpm]
    cli(*serve)
    pin = ["--manager", "tpm-manager/manager.json", "--public", "public2"]
    cli("identity", "create", "eve", *pin)
    status = cli("manager", "verify", "--home", "eve")["status"]
    assert (status["root_key"], status["store_rollback"]) == ("tpm", "detected")
    cli("manager", "stop", "--home", "tpm-manager")
    shutil.copytree(world / "tpm-manager", world / "backup")
    cli(*serve)
    ca = ["--product", "mine2", "--simulated", "--out", "a2.json"]
    cli("tpm", "simulate", "ca2")
    cli("anchors", "make", "ca2/tpm-ca.pem", *ca)
    cli("anchors", "publish", "a2.json", "--home", "eve")
    cli("manager", "stop", "--home", "tpm-manager")
    shutil.rmtree(world / "tpm-manager")
    shutil.copytree(world / "backup", world / "tpm-manager")
    assert cli(*serve, expect=3)["error"] == "store.rollback"


def test_a_manager_that_does_not_end(
    world: Path, monkeypatch: pytest.MonkeyPatch, cli: Run
) -> None:
    """Only a process that is surely the manager is ended; one that goes on is told."""
    from svetovid.cli import service

    (world / "stuck").mkdir()
    here = service._Running(pid=os.getpid(), started=service._start_time(os.getpid()))
    (world / "stuck" / "manager.pid").write_bytes(here.canonical())
    monkeypatch.setattr(service, "_STOP_S", 0.0)
    monkeypatch.setattr(service.os, "kill", lambda pid, signal: None)
    assert cli("manager", "stop", "--home", "stuck", expect=4)["error"] == "manager.stop"
    other = service._Running(pid=os.getpid(), started=1)
    (world / "stuck" / "manager.pid").write_bytes(other.canonical())
    assert cli("manager", "stop", "--home", "stuck", expect=2)["error"] == "manager.stopped"


def test_examples_and_benchmarks(cli: Run, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("example", "none", expect=2)["error"] == "example.name"
    assert len(cli("example", "breast-cancer", "ex")["files"]) == 8
    assert cli("example", "breast-cancer", "ex", expect=2)["error"] == "example.exists"
    with pytest.raises(InputError, match=r"cli\.name"):
        load_module("benchmarks", "no-such-benchmark")
    assert run(["bench", "no-such-benchmark"]) == 2
    monkeypatch.setattr("svetovid.cli.checkout.load_module", lambda folder, name: _Bench)
    monkeypatch.syspath_prepend(str(checkout()))
    assert run(["bench", "any"]) == 0
    assert run(["bench", "any", "--quick", "--json", "-"]) == 0
    assert run(["bench", "any", "--json", str(world / "b.json")]) == 0
    (world / "folder.json").mkdir()
    for nowhere in (world / "pass" / "b.json", world / "folder.json"):
        with monkeypatch.context() as m:
            m.setattr(_Bench, "run", lambda quick: pytest.fail("measured in vain"))
            assert run(["bench", "any", "--json", str(nowhere)]) == 4
    figures = json.loads((world / "b.json").read_text())
    assert figures["ratio"] == 1.0
    assert figures["machine"]["cores"]


class _Bench:
    @staticmethod
    def run(quick: bool = False) -> dict[str, object]:
        return {"ratio": 1.0, "runs": [1.0]}


def test_no_checkout_and_no_scikit_learn(
    cli: Run, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    with monkeypatch.context() as m:
        m.setitem(sys.modules, "sklearn.datasets", None)
        assert cli("example", "breast-cancer", "ex3", expect=4)["error"] == "example.sklearn"
    monkeypatch.setattr("svetovid.__file__", str(world / "a" / "b" / "c" / "d.py"))
    assert cli("example", "breast-cancer", "ex2", expect=4)["error"] == "cli.checkout"
    assert run(["bench", "seal"]) == 4
