"""An ordinary PyTorch script becomes a job's script by three changed statements, and no other.

The two scripts stand in ``examples/three_lines``; both run, and their weights are the same.
"""

from __future__ import annotations

import ast
import difflib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from svetovid.assets import open_asset, seal_dataset
from svetovid.crypto import Identity
from svetovid.host.runner import SandboxJob, run_sandboxed
from svetovid.host.runtime import build_runtime
from svetovid.policy.documents import JobLimits
from svetovid.policy.outputs import OutputSpec, TensorSpec

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")

EXAMPLES = Path(__file__).parents[2] / "examples"
PLAIN, SEALED = (EXAMPLES / "three_lines" / f"{name}.py" for name in ("plain", "sealed"))


def statements(text: str) -> list[str]:
    """Every statement in its order, compound ones by their first line; an import names one thing.

    Docstrings, comments and layout are no statements.
    """
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = f"from {node.module} " if isinstance(node, ast.ImportFrom) else ""
            found += [(node.lineno, f"{module}import {ast.unparse(a)}") for a in node.names]
        elif isinstance(node, ast.stmt) and not (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            found.append((node.lineno, ast.unparse(node).splitlines()[0]))
    return [line for _, line in sorted(found, key=lambda f: f[0])]


def changed(before: str, after: str) -> list[str]:
    """Statements of ``after`` that ``before`` has not. What is only left out is no change."""
    diff = difflib.ndiff(statements(before), statements(after))
    return [line[2:] for line in diff if line.startswith("+ ")]


def test_at_most_three_statements_change() -> None:
    found = changed(PLAIN.read_text(), SEALED.read_text())
    assert len(found) <= 3, found
    # nn.Module and everything else of the training stays as it is.
    assert all("sv" in statement for statement in found)


def test_what_counts_as_a_change() -> None:
    plain = "import os\nfor x in y:\n    f(x)\n    g(x)\n"
    assert changed(plain, "# a comment\n" + plain.replace("f(x)", "f( x )")) == []
    assert changed(plain, plain.replace("    f(x)\n", "")) == []
    assert changed(plain, plain.replace("f(x)", "h(x)") + "end()\n") == ["h(x)", "end()"]
    assert changed(plain, plain.replace("in y", "in z")) == ["for x in z:"]
    assert changed(plain, plain.replace("import os", "import os, sys")) == ["import sys"]


def test_both_scripts_train_to_the_same_weights(alice: Identity, tmp_path: Path) -> None:
    """The one in a plain process on a plain file, the other in the sandbox on sealed records."""
    rng = np.random.default_rng(1)
    columns = {
        "features": rng.normal(size=(120, 30)).astype("float32"),
        "label": rng.integers(0, 2, 120),
    }
    np.savez(tmp_path / "records.npz", **columns)
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, str(PLAIN)], cwd=tmp_path, env=threads, check=True)
    plain = torch.load(tmp_path / "model.pt", weights_only=True)

    url = "memory://three-lines"
    manifest, key = seal_dataset(
        url, columns, name="records", owner=alice.key_id, manager=alice.key_id
    )
    tensors = {
        name: TensorSpec(dtype=str(t.dtype).removeprefix("torch."), shape=tuple(t.shape))
        for name, t in plain.items()
    }
    with open_asset(url, manifest, key, expected=manifest.digest()) as reader:
        result = run_sandboxed(
            SandboxJob(
                runtime=build_runtime(tmp_path / "runtime"),
                code={"train.py": SEALED.read_bytes()},
                entry="train.py",
                datasets={"records": reader},
                outputs={"model": OutputSpec(tensors=tensors)},
                metrics={},
                limits=JobLimits(wall_s=200),
                threads=1,
            )
        )
    from safetensors.torch import load

    sealed = load(result.outputs["model"])
    assert sealed.keys() == plain.keys()
    assert all(torch.equal(sealed[name], plain[name]) for name in plain)
