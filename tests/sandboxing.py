"""Shared by the tests that run real code in a real sandbox."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
import textwrap
import threading
from pathlib import Path
from typing import Any

from svetovid.host.runner import SandboxJob, SandboxResult, run_sandboxed
from svetovid.host.runtime import build_runtime
from svetovid.policy.documents import JobLimits
from svetovid.policy.outputs import MetricSpec, OutputSpec, TensorSpec

OUTPUTS = {"answer": OutputSpec(tensors={"x": TensorSpec(dtype="int64", shape=(1,))})}
METRICS = {"n": MetricSpec(type="int", max_count=100)}
LIMITS = JobLimits(wall_s=30, memory_mib=512, processes=32, output_bytes=4096)

PRELUDE = '''
import json, os, struct, sys
from svetovid.training import _session
session = _session.current()
wire = session._wire

def file(tensors, extra=None, body=None):
    """safetensors bytes of {name: (code, shape, content)}."""
    header, content = dict(extra or {}), b""
    for name, (code, shape, data) in tensors.items():
        header[name] = {"dtype": code, "shape": shape,
                        "data_offsets": [len(content), len(content) + len(data)]}
        content += data
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + (content if body is None else body)

def answer(number):
    session.save("answer", file({"x": ("I64", [1], struct.pack("<q", number))}))

def refused(action):
    """errno of what the kernel refuses; 0 where it does not."""
    try:
        action()
    except OSError as e:
        return e.errno or -1
    return 0
'''


@functools.cache
def small_runtime() -> Path:
    """A runtime of interpreter, standard library and svetovid.training."""
    return build_runtime(_folder() / "runtime", ())


@functools.cache
def torch_runtime() -> Path:
    """The runtime that jobs have by default: PyTorch as well."""
    return build_runtime(_folder() / "runtime")


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="svetovid-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def job(script: str, **changes: Any) -> SandboxJob:
    code = {"main.py": (PRELUDE + textwrap.dedent(script)).encode()}
    fields: dict[str, Any] = {
        "runtime": small_runtime(),
        "code": code,
        "entry": "main.py",
        "outputs": OUTPUTS,
        "metrics": METRICS,
        "limits": LIMITS,
        "threads": 1,
    }
    return SandboxJob(**(fields | changes))


def run(script: str, *, stop: threading.Event | None = None, **changes: Any) -> SandboxResult:
    return run_sandboxed(job(script, **changes), stop=stop)


def ask(expression: str, setup: str = "", **changes: Any) -> int:
    """The integer that an expression has inside a sandbox."""
    script = textwrap.dedent(setup) + f"\nanswer(int({expression}))\n"
    result = run(script, **changes)
    return int.from_bytes(result.outputs["answer"][-8:], "little", signed=True)
