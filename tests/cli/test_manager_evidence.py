"""``manager verify``, with a manager in the background whose software TPM proves what it runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from svetovid.cli.main import run
from svetovid.errors import HostError
from svetovid.host.tpm import open_transport

Call = Callable[..., Any]


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Call]:
    try:
        open_transport(f"libtpms:{tmp_path / 'probe.state'}").close()
    except HostError as e:
        pytest.skip(e.code)
    (tmp_path / "pass").write_text("canary-passphrase")
    (tmp_path / "pass").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SVETOVID_PASSPHRASE_FILE", str(tmp_path / "pass"))

    def call(*args: str, expect: int = 0, as_json: bool = True) -> Any:
        code = run([*args, *(["--json"] if as_json else [])])
        seen = capsys.readouterr()
        assert code == expect, (args, seen.out, seen.err)
        return json.loads(seen.out) if as_json else seen.out

    yield call
    run(["manager", "stop", "--home", "m"])


def test_t1_a_manager_with_a_tpm(cli: Call, tmp_path: Path) -> None:
    tpm = f"libtpms:{tmp_path / 'tpm.state'}"
    serve = ["manager", "serve", "--home", "m", "--background", "--tpm", tpm]
    cli("tpm", "simulate", "ca", "--tpm", tpm)
    cli("tpm", "simulate", "other")
    for ca in ("ca", "other"):
        made = ["anchors", "make", f"{ca}/tpm-ca.pem", "--product", ca, "--simulated"]
        cli(*made, "--out", f"{ca}.json")
    cli("identity", "create", "ann")
    cli(*serve)
    cli("manager", "pin", "m/manager.json", "--home", "ann")
    assert cli("manager", "references", "--product", "m", "--out", "v.json")["files"] > 500
    verify = ["manager", "verify", "--home", "ann"]
    mine = ["--anchors", "ca.json", "--references", "v.json"]
    _proven(cli, verify, mine)
    _refused(cli, verify, mine)
    _required(cli, verify, mine)
    cli("manager", "stop", "--home", "m")
    cli(*serve, "--no-evidence")
    assert cli(*verify, expect=3)["error"] == "evidence.none"


def _proven(cli: Call, verify: list[str], mine: list[str]) -> None:
    verdict = "manager: proven (measurement: launcher, simulated)"
    found = cli(*verify, *mine)
    assert (found["verdict"], found["proven"], found["why"]) == (verdict, True, "")
    assert found["status"]["evidence"] == "tpm"
    assert {"device.anchor", "log.files", "measurement"} <= {c["name"] for c in found["claims"]}
    assert cli(*verify, *mine, as_json=False).splitlines()[0] == verdict
    unasked = cli(*verify)
    assert (unasked["verdict"], unasked["proven"]) == ("manager: trusted, unproven", False)
    assert unasked["why"] in cli(*verify, as_json=False)


def _refused(cli: Call, verify: list[str], mine: list[str]) -> None:
    for half in (mine[:2], mine[2:]):
        assert cli(*verify, *half, expect=2)["error"] == "manager.demand"
    other = ["--anchors", "other.json", *mine[2:]]
    assert cli(*verify, *other, expect=3)["error"] == "ek.untrusted"
    values = json.loads(Path("v.json").read_bytes())
    own = next(p for p in values["files"] if p.endswith("svetovid/manager/proving.py"))
    values["files"][own] = ["sha256:" + "0" * 64]
    Path("w.json").write_text(json.dumps(values))
    changed = cli(*verify, *mine[:3], "w.json", expect=3)
    assert changed["error"] == "ima.digest"
    assert own in changed["reasons"][0]["observed"]


def _required(cli: Call, verify: list[str], mine: list[str]) -> None:
    pin = ["manager", "pin", "m/manager.json", "--home", "ann"]
    for bad in (["--require-evidence"], mine, ["--require-evidence", "--trust-unproven", *mine]):
        assert cli(*pin, *bad, expect=2)["error"] == "manager.demand"
    assert "must prove" in cli(*pin, "--require-evidence", *mine, as_json=False)
    assert cli(*pin)["require_evidence"] is True
    assert cli(*verify)["proven"] is True
    assert cli(*pin, "--trust-unproven")["require_evidence"] is False
    assert cli(*verify)["proven"] is False
    assert cli(*pin, "--require-evidence", *mine)["require_evidence"] is True
