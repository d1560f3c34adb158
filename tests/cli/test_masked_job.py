"""A masked job by commands alone: three workers are served, a job names them, a host runs it, and
the receipt says who they were."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sandboxing import small_runtime
from svetovid.cli.main import run
from svetovid.cli.service import stop_background
from svetovid.errors import InputError

pytestmark = pytest.mark.slow

PROGRAM = [sys.executable, "-c", "from svetovid.cli import main; main()"]
SCRIPT = """
import mmap, struct
from svetovid.training import _session
session = _session.current()
ask, room = session._wire.ask, session._masked
memory = mmap.mmap(room["memory"], room["size"])
content = session.content("data")
content.wait(16)
ask("begin", step=0)
memory[:16] = bytes(content.buffer[:16])
ask("operand", count=4)
ask("multiply", a=0, b=0, product={
    "kind": "matmul", "a": [1, 2, 2], "b": [1, 2, 2], "out": [1, 2, 2],
    "transpose": [False, False], "stride": [], "padding": [], "dilation": [], "groups": 1})
product = memory[:16]
ask("end")
header = b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
session.save("model", struct.pack("<Q", len(header)) + header + product)
"""
POLICY = """\
version: svetovid.policy/v1
name: {name}-policy
profile: test
accepts: [simulated, launcher]
anchors: {{document: $anchors}}
references: [{{document: $references}}]
operators: [$olga]
grants:
  - {{asset: $asset, use: {use}, code: [{code}], modes: [masked], recipients: [$rita],
     collusion: {collusion}, limits: {{runs: 2, output_bytes: 2000000}}}}
"""
JOB = """\
version: svetovid.job/v1
name: square
mode: masked
assets:
  data: {manifest: $records, owner: $ann, manager: $manager, use: data}
  code: {manifest: $program, owner: $carol, manager: $manager, use: code}
entry: train.py
environment: $box-runtime
outputs: {model: {tensors: {w: {dtype: float32, shape: [4]}}}}
recipients: [$rita]
limits: {memory_mib: 256, processes: 16, wall_s: 60, output_bytes: 65536}
offload:
  protocol: coded
  products: 10
  numbers: 100
  workers:
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pass").write_text("passphrase")
    (tmp_path / "pass").chmod(0o600)
    monkeypatch.setenv("SVETOVID_PASSPHRASE_FILE", str(tmp_path / "pass"))
    yield tmp_path
    with contextlib.suppress(InputError):
        stop_background(tmp_path / "manager")


def test_t17_a_masked_job_by_commands(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def cli(line: str, expect: int = 0) -> dict[str, Any]:
        code = run([*line.split(), "--json"])
        said = capsys.readouterr()
        assert code == expect, (line, said.out, said.err)
        value: dict[str, Any] = json.loads(said.out)
        return value

    cli("manager serve --home manager --background")
    cli("identity create ann carol rita olga --manager manager/manager.json")
    cli(
        f"host init --home box --name box --runtime {small_runtime()} --kind simulated-tee"
        " --operator olga --manager manager/manager.json"
    )
    (here / "program").mkdir()
    (here / "program" / "train.py").write_text(SCRIPT)
    np.savez(here / "records.npz", x=np.array([[1, 2], [3, 4]], "f4"))
    papers = "--anchors public/box.anchors.json --references public/box.references.json"
    for name, what, use, code in (
        ("carol", "program", "code", ""),
        ("ann", "records.npz", "data", "$program"),
    ):
        text = POLICY.format(name=name, use=use, code=code, collusion=1)
        (here / f"{name}.yaml").write_text(text)
        cli(f"share {what} --home {name} --policy {name}.yaml {papers}")
    with contextlib.ExitStack() as stack:
        job = JOB
        for i, operator in enumerate(("Ada Ltd", "Bell Labs", "Cray & Sons")):
            made = cli(f"worker create w{i}.pem")
            words = f"worker serve w{i}.pem --host public/box.link.crt --listen 127.0.0.1:0 --json"
            process = stack.enter_context(
                subprocess.Popen([*PROGRAM, *words.split()], stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            port = json.loads(process.stdout.readline())["port"]
            named = f'certificate: "{made["certificate"]}", operator: {operator}'
            job += f'    - {{{named}, url: "tls://127.0.0.1:{port}"}}\n'
        (here / "job.yaml").write_text(job)
        cli("job propose job.yaml --home carol")
        shown = cli("job show public/square.job.json")
        assert shown["guarantees"]["collusion_bound"] == 1
        assert "Bell Labs" in shown["guarantees"]["operators"]
        for name in ("ann", "carol"):
            cli(f"job consent public/square.job.json --home {name} --yes")
        cli("host run public/square.job.json --home box --manager manager/manager.json")
    opened = "output open out/square.model.sealed --home rita --receipt out/square.receipt.json"
    cli(f"{opened} {papers} --to model.safetensors")
    found = np.frombuffer((here / "model.safetensors").read_bytes()[-16:], "<f4")
    assert found.tolist() == [7, 10, 15, 22]
    pin = "--manager manager/manager.json"
    verdict = cli(f"receipt verify out/square.receipt.json {pin} {papers}")
    assert verdict["verified"]
    assert "Cray & Sons" in json.dumps(verdict)
