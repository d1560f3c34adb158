"""The host's half of masked mode: a sandbox's tensors are masked, multiplied by workers, checked.

Rules:

1. A sandbox names operands of its step by number, and nothing else. It has no say in which worker
   sees what, under which mask, and learns none of it: only products, and that a step is to be done
   again.
2. Memory that it may write to is read where that is safe: each number is quantised and masked from
   one look at it. Headers come by the channel, copied and checked.
3. What it asks for is counted, attempts that fail as well, and bounded by what the job agreed on:
   what it could signal to workers by shapes and counts ends there (T10).
"""

from __future__ import annotations

import ctypes
import fcntl
import math
import mmap
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from svetovid.errors import HostError, LimitError, ParseError
from svetovid.host.channel import Answer, Message, protocol_error
from svetovid.host.sandbox.memory import SEALS, created
from svetovid.offload.field import M31
from svetovid.offload.product import Product
from svetovid.offload.reading import largest, parse_product
from svetovid.offload.session import FAILURES

if TYPE_CHECKING:
    import numpy as np

    from svetovid.offload.operands import MaskedOperand
    from svetovid.offload.session import Session
    from svetovid.policy.offload import Offload

    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

__all__ = ["Masking", "Room"]

_PADDED = 1 << 22
"""Numbers that any tensor may take once it is padded, however little room there is."""
_MOST_OPERANDS = 100_000
"""Of one step: each costs the host some memory, however small it is."""
_STEP_ROOMS = 8
"""Times the room of one tensor: all operands and products of one step together. A number takes up
to 12 bytes of the host's memory, in its links' and in its own."""
_FLOAT_BYTES = 4


class Room:
    """Memory for one tensor, which a sandbox and its host both see and both write to.

    Args:
        size: in bytes.

    Attributes:
        fd: of it, for the sandbox.
    """

    def __init__(self, size: int) -> None:
        self.size = size // mmap.PAGESIZE * mmap.PAGESIZE
        self.fd = created("tensors")
        try:
            os.ftruncate(self.fd, self.size)
            self._map = mmap.mmap(self.fd, self.size)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, SEALS)
        except (OSError, ValueError) as e:
            os.close(self.fd)
            raise _no_memory(f"{self.size:,} bytes of memory for one tensor", e) from e
        self._map.madvise(mmap.MADV_DONTDUMP)

    def numbers(self, count: int) -> Floats:
        """The first ``count`` numbers, as they stand there."""
        import numpy as np

        return np.frombuffer(self._map, np.float32, count)

    def close(self) -> None:
        """Let go of it; whoever still has a view of it has one of nothing."""
        os.close(self.fd)
        try:
            self._map.close()
        except BufferError:
            ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(self._map)), 0, self.size)


class Masking:
    """Answers a sandbox's steps, operands and products.

    Args:
        session: with the job's workers; closed by whoever made it.
        room: where operands and products lie.
        offload: what the job agreed on.
        abort: from any thread, makes whatever waits for a worker fail at once.
    """

    def __init__(
        self,
        session: Session,
        room: Room,
        offload: Offload,
        *,
        abort: Callable[[], None] = lambda: None,
    ) -> None:
        self.room = room
        self._session = session
        self._abort = abort
        self._ended = threading.Event()
        self._most = len(room.numbers(room.size // _FLOAT_BYTES))
        self._left = {"products": offload.products, "numbers": offload.numbers}
        self._in_step = 0
        self._step = -1
        self._under_way = self._again = False
        self._operands: list[MaskedOperand] = []

    def end(self) -> None:
        """Ask nothing of any worker any more. Any thread may call."""
        self._ended.set()
        self._abort()

    def take(self, message: Message) -> Answer:
        """Do what a sandbox asks; ``again`` where a worker failed, until the step begins anew.

        Raises:
            ParseError: ``sandbox.protocol``: an unknown operand, a product that does not fit, or
                anything outside of a step.
            LimitError: ``offload.limit``: more than the job agreed on, or than a step may have.
            InputError: ``offload.nonfinite``, ``offload.changed``, ``offload.shape``.
            HostError: ``worker.memory``, ``sandbox.room``.
            TransportError, IntegrityError, LimitError: ``worker.*``: a worker failed, and none is
                left to take its place.
        """
        if message.type == "begin":
            if message.step < self._step or (message.step == self._step) != self._again:
                raise protocol_error("steps that rise, but where one is done again", message.step)
            self._step = message.step
            self._again, self._under_way = False, True
        elif self._again:
            return "again"
        elif not self._under_way:
            raise protocol_error(f"begin before {message.type}")
        try:
            self._do(message)
        except FAILURES as e:
            self._operands.clear()
            if self._ended.is_set():
                raise
            self._session.replace(e)
            self._again = True
            return "again"
        except MemoryError as e:
            raise _no_memory("memory for a step's tensors", e) from e
        return "taken"

    def _do(self, message: Message) -> None:
        if message.type == "begin":
            self._operands.clear()
            self._in_step = 0
            self._session.begin(self._step)
        elif message.type == "operand":
            self._operand(message.count)
        elif message.type == "multiply":
            self._multiply(message)
        else:
            self._operands.clear()
            self._under_way = False
            self._session.end()

    def _operand(self, count: int) -> None:
        import torch

        if not 0 < count <= self._most:
            raise protocol_error(f"1 to {self._most:,} numbers of an operand", count)
        if len(self._operands) >= _MOST_OPERANDS:
            raise _limit("operands of one step", _MOST_OPERANDS)
        self._spend("numbers", count)
        self._hold(count)
        value = torch.from_numpy(self.room.numbers(count))
        self._operands.append(self._session.operand(str(len(self._operands)), value))

    def _multiply(self, message: Message) -> None:
        product = _product(message.product)
        a, b = (self._named(number) for number in (message.a, message.b))
        for operand, shape in ((a, product.a), (b, product.b)):
            if math.prod(operand.shape) != math.prod(shape):
                raise protocol_error("operands of the product's shapes")
        most = max(self._most, _PADDED)
        if math.prod(product.out) > self._most or largest(product, _parts(product)) > most:
            raise protocol_error(f"a product whose tensors have at most {self._most:,} numbers")
        self._spend("products", 1)
        self._hold(math.prod(product.out) * _parts(product))
        out = self._session.multiply(product, a, b).numpy().reshape(-1)
        self.room.numbers(out.size)[:] = out

    def _named(self, number: int) -> MaskedOperand:
        if number >= len(self._operands):
            raise protocol_error("an operand of this step", number)
        return self._operands[number]

    def _hold(self, count: int) -> None:
        """What a step's tensors take of this host's memory ends with the step, and not before."""
        self._in_step += count
        if self._in_step > _STEP_ROOMS * self._most:
            raise _limit("numbers in one step", _STEP_ROOMS * self._most)

    def _spend(self, what: str, count: int) -> None:
        if count > self._left[what]:
            raise _limit(f"{what} in all", self._left[what])
        self._left[what] -= count


def _parts(product: Product) -> int:
    return len(product.parts(M31.longest))


def _product(value: Any) -> Product:
    try:
        return parse_product(value)
    except ParseError as e:
        raise protocol_error(f"a product with {e.reason.expected}") from e


def _no_memory(what: str, why: Exception) -> HostError:
    return HostError(
        "sandbox.room",
        expected=what,
        observed=why,
        next_step="run the job on a host with more memory, or make its batches smaller",
    )


def _limit(what: str, most: int) -> LimitError:
    return LimitError(
        "offload.limit",
        expected=f"at most {most:,} {what}",
        observed="more",
        next_step="agree on a job whose offload allows more products and numbers: steps that are "
        "done again count as well",
    )
