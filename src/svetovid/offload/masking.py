"""The trusted side of masked mode: quantise, mask, have multiplied, put together, check.

Rules:

1. Nothing of a tensor leaves but points of it, and each worker is sent its own points only.
2. Every mask is noted in the ledger before it is used; a tensor's masks are used for it alone.
3. An answer is read once for each result that it is a part of, from memory that the worker may
   write to, into memory that it may not; what was read is checked before anybody uses it. A wrong
   one ends the step.
4. Which products are asked for, and how they are split, follows from shapes alone.
"""

from __future__ import annotations

import contextlib
import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from svetovid.crypto import Secret
from svetovid.errors import IntegrityError, RefusalError, SvetovidError
from svetovid.offload import freivalds
from svetovid.offload.address import KEY_BYTES, Mask, Rounding
from svetovid.offload.blocks import Blocks, blocks_of
from svetovid.offload.field import M31, Field
from svetovid.offload.naming import on_one_line, wrong_places
from svetovid.offload.operands import MaskedOperand, require_numbers, terms
from svetovid.offload.product import Product
from svetovid.offload.work import Answer, Link, Work

Pair = tuple[MaskedOperand, MaskedOperand]

if TYPE_CHECKING:
    import numpy as np
    import torch

    from svetovid.offload.ledger import Ledger
    from svetovid.offload.protocols.scheme import Scheme
    from svetovid.offload.store import TensorStore

    Integers = np.ndarray[tuple[int, ...], np.dtype[np.int32]]
    Out = tuple[Integers, int, int, int]
    Write = Callable[[Sequence[tuple[Integers, str]]], None]

__all__ = ["Masker"]


class Masker:
    """Products of tensors that no worker learns anything of. Of one thread.

    Args:
        scheme: the protocol.
        links: as many as the scheme has workers, in the order of its points.
        ledger: of the run; :meth:`Ledger.begin` was called in this life.
        run: its name.
        roundings: master key of the roundings, kept with the run: the same gives the same bits.
        field: residues that are sent are of.
        check: by Freivalds, every product. Off only to measure what it costs.
        threads: of the kernels.
        memory: where operands' integers lie for the backward pass, within its limit.

    Attributes:
        failed: places of workers that did not answer, or wrongly, since the last attempt began.
        careful: answers are copied before they are looked at. A wrong one in shared memory may be
            put right before anybody asks whose it was; from then on that helps nobody.

    Raises:
        InputError: ``offload.workers``: another number of links than the scheme needs;
            ``offload.scheme``: it does not multiply, or one worker could learn something.
        HostError: ``worker.kernel``: this machine's own products, by which it checks, are not
            exact.
    """

    def __init__(
        self,
        scheme: Scheme,
        links: Sequence[Link],
        ledger: Ledger,
        *,
        run: str,
        roundings: Secret,
        field: Field = M31,
        check: bool = True,
        threads: int = 1,
        memory: TensorStore | None = None,
    ) -> None:
        scheme.require(len(links), field.p)
        if check:
            freivalds.proven()
        self.scheme = scheme
        self.links = list(links)
        self._ledger = ledger
        self._run = run
        self._roundings = roundings
        self._masks = Secret(secrets.token_bytes(KEY_BYTES))
        self._field = field
        self._check = check
        self._threads = threads
        self._memory = memory
        self._kept: list[MaskedOperand] = []
        self._step = -1
        self._names: set[str] = set()
        self._next = 0
        self.failed: set[int] = set()
        self.careful = False
        self.begun = 0
        self._scratch: Integers | None = None
        for place, link in enumerate(self.links):
            ledger.bind(link.identity, place)

    # -- steps

    def begin(self, step: int) -> None:
        """Start a step; operands of the last one are forgotten everywhere."""
        self.failed.clear()
        self.end()
        self._step = step
        self.begun += 1

    def end(self) -> None:
        """Workers forget their operands."""
        if self._step >= 0:
            for place, link in enumerate(self.links):
                with self._blaming(place):
                    link.drop()
        self._step, self._next = -1, 0
        self._names.clear()
        for operand in self._kept:
            operand.forget()
        self._kept.clear()

    def replace(self, place: int, link: Link) -> None:
        """Give a place to another worker, under a new attempt: whatever is done again has other
        masks, so that the new worker's points say nothing beside the old one's."""
        self._ledger.bind(link.identity, place)
        self._ledger.begin()
        self.links[place].close()
        self.links[place] = link
        self.failed.discard(place)

    def again(self) -> None:
        """The step is about to be done once more by the same workers."""
        self._ledger.begin()

    def close(self) -> None:
        """Forget the masks' key, and leave the workers."""
        self._masks, self._scratch = Secret(bytes(KEY_BYTES)), None
        for link in self.links:
            link.close()

    # -- operands and products

    def operand(self, name: str, value: torch.Tensor) -> MaskedOperand:
        """See :meth:`svetovid.offload.multiplier.Multiplier.operand`."""
        import numpy as np

        from svetovid.offload import kernels

        if name in self._names or self._step < 0:
            raise RefusalError(
                "offload.reuse",
                expected="a step that has begun, and a name that is new in it",
                observed=name,
                next_step="call each layer inside the step, once for each name",
            )
        require_numbers(name, value)
        self._names.add(name)
        data = value.detach().contiguous().numpy()
        shift = kernels.shift_of(kernels.absmax(data, threads=self._threads))
        rounding = Rounding(self._run, self._step, name).key(self._roundings)
        q = np.empty(data.size, np.int16)
        operand = MaskedOperand(name, tuple(value.shape), shift, q, self.begun)
        p, threads = self._field.p, self._threads

        def quantised(keys: Sequence[bytes], outs: Sequence[Out]) -> None:
            kernels.share(data, shift, rounding, keys, p, q, outs, threads=threads)

        if not self.scheme.at_once:
            quantised([], [])
            self._keep(operand)
            return operand
        operand.take(operand.shape, data.size, cut=False, count=1)
        shares = {share.point: share for share in self.scheme.shares}
        masks = list(self.scheme.masks)

        def write(memory: Sequence[tuple[Integers, str]]) -> None:
            made = [(into, shares[point]) for into, point in memory]
            outs = [(into, masks.index(s.mask), s.alpha, s.betas[0]) for into, s in made]
            quantised([operand.keys[role] for role in masks], outs)

        self._share(operand, write)
        self._keep(operand)
        return operand

    def _keep(self, operand: MaskedOperand) -> None:
        if self._memory is not None:
            operand.keep(self._memory)
            self._kept.append(operand)

    def _share_quantised(self, operand: MaskedOperand) -> None:
        """Share what was quantised before."""
        from svetovid.offload import kernels

        def write(memory: Sequence[tuple[Integers, str]]) -> None:
            rows = [(into, *self.scheme.row(point)) for into, point in memory]
            kernels.mix(
                [block for _, block in operand.blocks(self.scheme.row(memory[0][1])[1])],
                [operand.keys[role] for role in self.scheme.masks],
                self._field.p,
                [
                    (into, alphas, [beta for beta, _ in operand.blocks(betas)])
                    for into, alphas, betas in rows
                ],
                threads=self._threads,
            )

        self._share(operand, write)

    def _share(self, operand: MaskedOperand, write: Write) -> None:
        """Give every worker its points; all shares are written together."""
        name = f"{operand.name}#{operand.times}" if self.scheme.per_product else operand.name
        operand.times += 1
        operand.keys = {
            role: self._ledger.use(
                Mask(self._run, self._ledger.attempt, self._step, name, role, self._field.p)
            ).key(self._masks)
            for role in self.scheme.masks
        }
        held = sorted({point for worker in self.scheme.workers for point in worker.points})
        operand.numbers = {point: self._next + i for i, point in enumerate(held)}
        self._next += len(held)
        wanted = []
        for place, (link, worker) in enumerate(zip(self.links, self.scheme.workers, strict=True)):
            for point in worker.points:
                if point in operand.keys:
                    with self._blaming(place):
                        key = operand.keys[point]
                        link.seed(operand.numbers[point], operand.size, key, self._field.p)
                else:
                    wanted.append((place, point))
        self._filled(operand, wanted, [], write)

    def _filled(
        self,
        operand: MaskedOperand,
        wanted: Sequence[tuple[int, str]],
        memory: list[tuple[Integers, str]],
        write: Write,
    ) -> None:
        """Get memory of one link after another, then write all shares in one pass."""
        if not wanted:
            write(memory)
            return
        (place, point), rest = wanted[0], wanted[1:]

        def fill(into: Integers) -> None:
            self._filled(operand, rest, [*memory, (into, point)], write)

        with self._blaming(place):
            self.links[place].send(operand.numbers[point], operand.size, fill)

    def multiply(self, product: Product, a: MaskedOperand, b: MaskedOperand) -> torch.Tensor:
        """See :meth:`svetovid.offload.multiplier.Multiplier.multiply`."""
        return self.ask(product, a, b)()

    def ask(
        self, product: Product, a: MaskedOperand, b: MaskedOperand
    ) -> Callable[[], torch.Tensor]:
        """See :meth:`svetovid.offload.multiplier.Multiplier.ask`.

        Raises:
            IntegrityError: ``worker.wrong``.
            SvetovidError: as of :class:`svetovid.offload.work.Answer`.
        """
        if {a.begun, b.begun} != {self.begun} or self._step < 0:
            raise RefusalError(
                "offload.step",
                expected="operands of the step under way",
                observed=f"{a.name} and {b.name} of another",
                next_step="put forward and backward of one step between its begin and its end",
            )
        blocks = blocks_of(product.canonical, self.scheme.blocks, self._field.longest)
        block = blocks.product
        sides = zip((a, b), blocks.cut, (product.a, product.b), (block.a, block.b), strict=True)
        for operand, cut, whole, shape in sides:
            operand.take(whole, math.prod(shape), cut, self.scheme.blocks)
            if self.scheme.per_product or not operand.numbers:
                self._share_quantised(operand)
        times = [self.scheme.answers(summed, self._field.p) for summed in blocks.results]
        asked = self._asked(blocks, a, b, times)
        if self.scheme.per_product:  # of the next, operands have other masks
            done = self._done(product, blocks, (a, b), times, asked)
            return lambda: done
        return lambda: self._done(product, blocks, (a, b), times, asked)

    def _done(
        self,
        product: Product,
        blocks: Blocks,
        pair: Pair,
        times: Sequence[Sequence[int]],
        asked: Mapping[int, Answer],
    ) -> torch.Tensor:
        import numpy as np
        import torch

        (a, b), block, parts = pair, blocks.product, blocks.parts
        answers = {}
        for place, answer in asked.items():
            with self._blaming(place):
                answers[place] = answer.wait()
        if self.scheme.parity or self.careful:
            answers = {place: answer.copy() for place, answer in answers.items()}
        if self.scheme.parity and not on_one_line(self.scheme, answers, self._field.p):
            raise self._wrong(block, pair, answers, parts)
        size = math.prod(block.out)
        out, total = np.empty(len(blocks.results) * size, np.float32), np.int64(0)
        shift = a.shift + b.shift
        for i, summed in enumerate(blocks.results):
            used = [(answer, times[i][place]) for place, answer in answers.items()]
            try:
                integers = self._combined(used, parts, shift, out[i * size : (i + 1) * size])
            except IntegrityError as e:  # some number was no residue: it may say now whose
                raise self._wrong(block, pair, answers, parts) from e
            held = [(1, a.block(k), b.block(k)) for k in summed]
            if self._check and not freivalds.holds(
                block, held, integers, parts, self._field, threads=self._threads
            ):
                raise self._wrong(block, pair, answers, parts)
            if blocks.join == "sum":
                total = total + integers.reshape(parts, size).sum(0, dtype=np.int64)
        if blocks.join == "sum":
            with np.errstate(over="ignore"):
                out = np.ldexp(total.astype(np.float64), -shift).astype(np.float32)
        return torch.from_numpy(out)[: math.prod(product.out)].view(product.out)

    def _asked(
        self, blocks: Blocks, a: MaskedOperand, b: MaskedOperand, times: Sequence[Sequence[int]]
    ) -> dict[int, Answer]:
        """All workers whose answer some result needs, by their places."""
        asked = {}
        for place, (link, worker) in enumerate(zip(self.links, self.scheme.workers, strict=True)):
            if self.scheme.parity or any(of_result[place] for of_result in times):
                work = Work(blocks.product, self._field.p, terms(worker, a, b), blocks.parts)
                with self._blaming(place):
                    asked[place] = link.ask(work)
        return asked

    def _combined(
        self,
        answers: Sequence[tuple[Integers, int]],
        parts: int,
        shift: int,
        out: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    ) -> Integers:
        """The sum of answers, each so many times, as float32 and as integers, part by part."""
        import numpy as np

        from svetovid.offload import kernels

        used = [(answer, n) for answer, n in answers if n]
        if self._scratch is None or self._scratch.size < parts * out.size:
            self._scratch = np.empty(parts * out.size, np.int32)
        whole = self._scratch[: parts * out.size]
        kernels.combine(
            [answer for answer, _ in used],
            [n for _, n in used],
            self._field.p,
            shift,
            out,
            whole,
            threads=self._threads,
        )
        return whole

    @contextlib.contextmanager
    def _blaming(self, place: int) -> Iterator[None]:
        try:
            yield
        except SvetovidError as e:
            # Links are asked for memory one inside the other: a script's fault passes all of them.
            if e.code.startswith("worker.") and not self.failed:
                self.failed.add(place)
            raise

    def _wrong(
        self, product: Product, pair: Pair, answers: Mapping[int, Integers], parts: int
    ) -> IntegrityError:
        places = wrong_places(self.scheme, product, pair, answers, parts, self._field)
        self.failed.update(places)
        self.careful |= not places
        return IntegrityError(
            "worker.wrong",
            expected="the product that was asked for",
            observed=", ".join(self.links[i].identity for i in places)
            or "another one; whose answer it was does not show any more",
            next_step="replace that worker, and do the step again",
        )
