"""An accelerator's memory, cleared before and after a job, by a process of its own for each (T8).

What that gives: after a clearing that succeeded, every byte that the driver would hand out was zero
when it was read back. What it does not: memory that the driver keeps for itself (at most 1 GiB, or
an eighth of a smaller GPU), caches and registers, and whatever a driver that lies says.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from svetovid.crypto import load_json
from svetovid.errors import HostError, SvetovidError
from svetovid.host.accelerators.nodes import Gpu, find
from svetovid.host.alone import lone_user

__all__ = ["Accelerators", "Cleared"]

_SCRIPT = Path(__file__).with_name("clear.py")
_MAX_ANSWER = 4096


@dataclass(frozen=True, slots=True)
class Cleared:
    """One clearing.

    Attributes:
        node: which device.
        total: bytes of memory that it has.
        cleared: bytes that were overwritten and read back as zeros.
    """

    node: str
    total: int
    cleared: int


@dataclass(frozen=True, slots=True)
class Accelerators:
    """How this machine's accelerators are found, lent and cleared.

    Attributes:
        locks: folder of their locks, the same for every home on this machine.
        library: the CUDA driver, as the dynamic linker finds it.
        proc: where the kernel shows drivers and devices.
        wait_s: how long memory that others hold is waited for.
        timeout_s: after which one clearing has failed.
    """

    locks: Path = Path("/run/lock")
    library: str = "libcuda.so.1"
    proc: Path = Path("/proc")
    wait_s: float = 10.0
    timeout_s: float = 180.0

    def find(self, devices: Sequence[str]) -> tuple[Gpu, ...]:
        """The GPUs that a job lists.

        Raises:
            HostError: ``device.missing``, ``device.kind``.
        """
        return find(devices, self.proc)

    @contextlib.contextmanager
    def lent(self, gpus: Sequence[Gpu]) -> Iterator[None]:
        """Hold ``gpus`` against every other job on this machine.

        Raises:
            HostError: ``device.busy``, ``host.lock``.
        """
        with contextlib.ExitStack() as stack:
            for gpu in gpus:
                stack.enter_context(lone_user(gpu.node, gpu.name, self.locks))
            yield

    def clear(self, gpus: Sequence[Gpu]) -> list[Cleared]:
        """Overwrite the memory of ``gpus``, all at once, and read it back.

        Raises:
            HostError: ``device.clear`` where that did not succeed on one of them.
        """
        if not gpus:
            return []
        with ThreadPoolExecutor(len(gpus)) as pool:
            return list(pool.map(self._clear, gpus))

    def _clear(self, gpu: Gpu) -> Cleared:
        command = [sys.executable, "-I", "-S", "-B", str(_SCRIPT), self.library, gpu.bus]
        try:
            done = subprocess.run(
                [*command, str(self.wait_s)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self.timeout_s,
                env={"CUDA_CACHE_DISABLE": "1"},
                cwd="/",
                check=False,
            )
        except subprocess.TimeoutExpired as e:
            raise _failed(gpu, f"no answer within {self.timeout_s:g} s") from e
        except OSError as e:
            raise _failed(gpu, e.strerror or e) from e
        said = done.stderr[:_MAX_ANSWER].decode("utf-8", "replace").strip()
        if done.returncode != 0:
            raise _failed(gpu, said or f"exit status {done.returncode}")
        try:
            answer = load_json(done.stdout[:_MAX_ANSWER])
            assert isinstance(answer, dict)
            return Cleared(gpu.node, int(str(answer["total"])), int(str(answer["cleared"])))
        except (SvetovidError, AssertionError, KeyError, ValueError) as e:
            raise _failed(gpu, "an answer that makes no sense") from e


def _failed(gpu: Gpu, observed: object) -> HostError:
    return HostError(
        "device.clear",
        expected=f"the memory of {gpu.node} overwritten, and read back as zeros",
        observed=observed,
        next_step="no job runs there until that succeeds: see what else uses it (nvidia-smi), mend"
        " the driver, or restart the machine",
    )
