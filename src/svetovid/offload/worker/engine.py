"""A worker's arithmetic, on one device."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from svetovid.errors import HostError, LimitError
from svetovid.offload import exact
from svetovid.offload.work import Work
from svetovid.offload.worker.expansion import expand

if TYPE_CHECKING:
    from svetovid.offload.work import Residues

__all__ = ["Engine", "ready"]

_NO_MEMORY = "can't allocate memory"
"""As PyTorch's allocator for processors says it."""


class Engine:
    """Holds tensors on a device and multiplies them.

    Args:
        device: ``cpu``, or ``cuda:N``.
        threads: that expand masks.

    Raises:
        HostError: ``worker.device``: there is no such device.
    """

    def __init__(self, device: str = "cpu", *, threads: int = 1) -> None:
        try:
            self._device = torch.device(device)
            torch.zeros(1, device=self._device)
        except (RuntimeError, AssertionError) as e:  # a build without CUDA asserts that it is there
            raise HostError(
                "worker.device",
                expected="cpu, or a device of PyTorch that is there, like cuda:0",
                observed=f"{device}: {e}".partition("\n")[0],
                next_step="name another device, or install PyTorch for it",
            ) from e
        self._threads = threads

    def test(self) -> None:
        """Prove that products are exact here.

        Raises:
            HostError: ``worker.kernel``: they are not. This can be no worker.
        """
        exact.self_test(self._device)

    def hold(self, numbers: Residues) -> torch.Tensor:
        """The numbers where they can be multiplied: on the processor they are not copied.

        Raises:
            LimitError: ``worker.limit``: there is no memory for them.
        """
        with self._within(f"{numbers.size:,} numbers"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # operands are mapped read-only, and only read
            return torch.from_numpy(numbers).to(self._device)

    def expand(self, count: int, key: bytes, p: int) -> torch.Tensor:
        """The residues of a key; raises as :meth:`hold`."""
        with self._within(f"{count:,} numbers"):
            numbers = np.empty(count, np.int32)
            expand(key, p, numbers, threads=self._threads)
        return self.hold(numbers)

    def compute(self, work: Work, held: Callable[[int], torch.Tensor], into: Residues) -> None:
        """Do one work.

        Args:
            work: with operands that are held, of the right sizes.
            held: an operand by its number.
            into: ``[parts * out]``; the answer is written there.

        Raises:
            InputError: ``worker.operand``, a number is no residue; ``offload.shape``, of the parts.
            LimitError: ``worker.limit``: there is no memory for it.
            HostError: ``worker.compute``: the device cannot.
        """
        with self._within(f"a {work.product.kind}"):
            total = None
            for term in work.terms:
                a, b = (_sum([(held(n), s) for n, s in side], work.p) for side in (term.a, term.b))
                kernel = exact.fastest(self._device, work.p)
                out = exact.multiply(work.product, a, b, work.p, work.parts, kernel=kernel)
                if total is None and term.sign == 1:
                    total = out
                else:
                    before = 0 if total is None else total.long()
                    total = ((before + term.sign * out.long()) % work.p).int()
            assert total is not None
            torch.from_numpy(into).copy_(total.view(-1))

    @contextlib.contextmanager
    def _within(self, what: str) -> Iterator[None]:
        """Too little memory is the work's fault, and the next connection's work may fit; whatever
        else a device says is its own."""
        try:
            yield
        except (RuntimeError, MemoryError) as e:
            observed = str(e).partition("\n")[0]
            if isinstance(e, MemoryError | torch.OutOfMemoryError) or _NO_MEMORY in observed:
                raise LimitError(
                    "worker.limit",
                    expected=f"memory on {self._device} for {what}",
                    observed=observed,
                    next_step="make the batch smaller, or use a device with more memory",
                ) from e
            raise HostError(
                "worker.compute",
                expected=f"{what} on {self._device}",
                observed=observed,
                next_step="see what the device's driver says: this worker is of no use any more",
            ) from e


def _sum(summed: Sequence[tuple[torch.Tensor, int]], p: int) -> torch.Tensor:
    if len(summed) == 1 and summed[0][1] == 1:
        return summed[0][0]
    total = sum((sign * tensor.long() for tensor, sign in summed), start=torch.tensor(0))
    return (total % p).int()


def ready(device: str, threads: int) -> Engine:
    """An engine whose every kernel was proven here; PyTorch uses as many threads from now on.

    Raises:
        HostError: ``worker.device``, ``worker.kernel``.
    """
    torch.set_num_threads(threads)
    engine = Engine(device, threads=threads)
    engine.test()
    return engine
