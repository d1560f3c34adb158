"""`svetovid worker`: a certificate of its own, then one host is served and nobody else."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from svetovid.cli.main import run
from svetovid.errors import SvetovidError
from svetovid.offload.field import M31
from svetovid.offload.links import connected, make_certificate
from svetovid.offload.product import Product
from svetovid.offload.work import Term, Work

TINY = Work(
    Product("matmul", (1, 1, 2), (1, 2, 1), (1, 1, 1)), M31.p, (Term(1, ((1, 1),), ((1, 1),)),), 1
)
PROGRAM = [sys.executable, "-c", "from svetovid.cli import main; main()"]


def created(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert run(["worker", "create", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["files"] == [str(path), str(path.with_suffix(".crt"))]
    return str(said["certificate"])


def test_create_writes_over_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worker = tmp_path / "worker.pem"
    digest = created(worker, capsys)
    assert digest.startswith("sha256:")
    assert stat.S_IMODE(worker.stat().st_mode) == 0o600
    assert b"PRIVATE" in worker.read_bytes()
    assert b"PRIVATE" not in worker.with_suffix(".crt").read_bytes()
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    for name in ("worker.pem", "worker.key", "other.crt"):  # the file, its certificate, its own
        assert run(["worker", "create", str(tmp_path / name), "--json"]) == 2
        assert json.loads(capsys.readouterr().out)["error"] == "worker.exists"
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert run(["worker", "create", str(tmp_path / "none" / "w.pem"), "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["error"] == "file.write"


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"--listen": "here"}, "worker.address"),
        ({"--listen": "127.0.0.1:99999"}, "worker.address"),
        ({"--host": "nothing.crt"}, "worker.certificate_file"),
        ({"--host": "text"}, "worker.certificate_file"),
        ({"--device": "cuda:77"}, "worker.device"),
    ],
)
def test_what_cannot_serve(
    changed: dict[str, str],
    code: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("no certificate")
    created(tmp_path / "worker.pem", capsys)
    make_certificate(tmp_path / "host.pem")
    options = {"--host": "host.crt", "--listen": "127.0.0.1:0"} | changed
    words = [word for pair in options.items() for word in pair]
    assert run(["worker", "serve", "worker.pem", *words, "--json"]) != 0
    assert json.loads(capsys.readouterr().out)["error"] == code


def test_a_host_is_served_again_and_strangers_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = created(tmp_path / "worker.pem", capsys)
    make_certificate(tmp_path / "host.pem")
    make_certificate(tmp_path / "stranger.pem")
    words = ["worker", "serve", str(tmp_path / "worker.pem"), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(
        [*PROGRAM, *words, "--host", str(tmp_path / "host.crt"), "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            assert said == {"certificate": digest, "device": "cpu", "port": said["port"]}

            def product(own: str) -> int:
                link = connected(
                    "127.0.0.1",
                    said["port"],
                    own=tmp_path / own,
                    identity=digest,
                    operator="ann",
                    timeout_s=20,
                )
                link.send(1, 2, lambda out: np.copyto(out, [3, 4]))
                found = int(link.ask(TINY).wait()[0])
                link.close()
                return found

            assert product("host.pem") == 25
            with pytest.raises(SvetovidError, match=r"worker\.gone"):
                product("stranger.pem")
            assert product("host.pem") == 25
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
        finally:
            process.kill()
