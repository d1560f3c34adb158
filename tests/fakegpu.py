"""A FAKE accelerator: a CUDA driver of a few lines whose device memory is a file.

No GPU is in it and none is proven by it: it shows that the agent clears, looks, and refuses.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from svetovid.host.accelerators import Accelerators, Gpu, nodes

MIB = 1 << 20
TOTAL = 48 * MIB
GPU = Gpu("/dev/nvidia0", 0, "0000:01:00.0")
DEFECTS = {
    "no memset": 1,
    "no copy": 2,
    "no device": 3,
    "hangs": 4,
    "memset fails": 5,
    "one byte short": 6,
}


def fake(folder: Path, defect: int = 0, *, held: int = 2 * MIB) -> Accelerators:
    """A fake GPU, full of what the last job left, behind a fake driver."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build the fake driver with")
    memory, taken = folder / "device-memory", folder / "held"
    memory.write_bytes(b"secret" * (TOTAL // 6))
    taken.write_bytes(b"")
    os.truncate(memory, TOTAL)
    os.truncate(taken, held)
    library = folder / f"libfake-cuda-{defect}.so"
    macros = [f'-DMEMORY="{memory}"', f'-DHELD="{taken}"', f"-DDEFECT={defect}"]
    source = Path(__file__).with_name("fake_cuda.c")
    build = [compiler, "-shared", "-fPIC", "-o", str(library), *macros, str(source)]
    subprocess.run(build, check=True)
    proc = folder / "proc"
    for number, bus in enumerate(("0000:01:00.0", "0000:02:00.0")):
        gpu = proc / "driver" / "nvidia" / "gpus" / bus
        gpu.mkdir(parents=True)
        (gpu / "information").write_text(f"Model: \t\t FAKE\nDevice Minor: \t {number}\n")
    (proc / "devices").write_text(
        "Character devices:\n195 nvidia\n510 nvidia-uvm\n\nBlock devices:\n259 blkext\n"
    )
    return Accelerators(locks=folder, library=str(library), proc=proc, wait_s=0.3, timeout_s=5)


def numbered(monkeypatch: pytest.MonkeyPatch, numbers: dict[str, tuple[int, int]]) -> None:
    """Device nodes of these numbers, which only the kernel's owner could make."""
    real = nodes._number
    monkeypatch.setattr(nodes, "_number", lambda d: numbers[d] if d in numbers else real(d))
