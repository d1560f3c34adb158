"""A run in masked mode: steps, workers that fail and are replaced, steps that are done again.

::

    with Session(CODED, seats, folder, run="r1", roundings=key) as session:
        model = protect(model, session)
        for number, (x, y) in enumerate(loader):
            def step():
                optimiser.zero_grad()
                loss = cross_entropy(model(x), y)
                loss.backward()
                return loss.item()
            session.run(number, step, model)
            optimiser.step()

What fails inside a step leaves no mark: the model's buffers and PyTorch's random numbers are put
back, and the step is done again under a new attempt: other masks, the same roundings and results.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from svetovid.crypto import Secret
from svetovid.errors import (
    IntegrityError,
    LimitError,
    RefusalError,
    SvetovidError,
    TransportError,
)
from svetovid.offload.allocator import kept_memory
from svetovid.offload.card import GuaranteeCard, Seat, card
from svetovid.offload.field import M31, Field
from svetovid.offload.ledger import Ledger
from svetovid.offload.masking import Masker

if TYPE_CHECKING:
    import torch

    from svetovid.offload.operands import MaskedOperand
    from svetovid.offload.product import Product
    from svetovid.offload.protocols import Scheme
    from svetovid.offload.store import TensorStore
    from svetovid.offload.work import Link

__all__ = ["FAILURES", "Place", "Session"]

T = TypeVar("T")

FAILURES = (IntegrityError, LimitError, TransportError)
"""Errors that may be a worker's: :meth:`Session.replace` says whether one was."""


@dataclass(frozen=True)
class Place:
    """A worker that can be had.

    Attributes:
        connect: makes the link; called when the worker is needed.
    """

    seat: Seat
    connect: Callable[[], Link]


class Session:
    """The trusted side of a run. Of one thread.

    While it is entered, the process keeps memory that it frees: see :mod:`.allocator`.

    Args:
        places: workers, in order of the scheme's points; those beyond what it needs are spare, and
            take the place of whoever fails.
        folder: of the trusted side, for its ledger.
        run: names the run.
        roundings: master key of the roundings; the same run with the same key gives the same bits.
        trusted: what this process runs in, for the card.
        check, threads: see :class:`Masker`.
        memory: where steps keep what they save for their backward pass, within its limit; closed
            with the session.

    Raises:
        InputError: ``offload.workers``.
        SvetovidError: as of the links.
    """

    def __init__(
        self,
        scheme: Scheme,
        places: Sequence[Place],
        folder: Path,
        *,
        run: str,
        roundings: Secret,
        trusted: str = "simulated TEE",
        field: Field = M31,
        check: bool = True,
        threads: int = 1,
        memory: TensorStore | None = None,
    ) -> None:
        self._memory = memory
        self._kept = contextlib.ExitStack()
        needed = len(scheme.workers)
        self._scheme, self._field = scheme, field
        self._trusted, self._checked = trusted, check
        self._seats = [place.seat for place in places[:needed]]
        self._spare = list(places[needed:])
        ledger = Ledger(folder / "ledger.json", run)
        ledger.begin()
        links: list[Link] = []
        self._past: list[Seat] = []
        self._was_careful = False
        try:
            links.extend(self._first(i, place, ledger) for i, place in enumerate(places[:needed]))
            self._masker = Masker(
                scheme,
                links,
                ledger,
                run=run,
                roundings=roundings,
                field=field,
                check=check,
                threads=threads,
                memory=memory,
            )
        except BaseException:
            for link in links:
                link.close()
            raise

    def __enter__(self) -> Session:
        self._kept.enter_context(kept_memory())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._masker.close()
        if self._memory is not None:
            self._memory.close()
        self._kept.close()

    def card(self) -> GuaranteeCard:
        """What holds, whoever fails: workers that were replaced, and those that may come to take a
        place, count as much as those of now."""
        seats = [*self._seats, *(place.seat for place in self._spare), *self._past]
        return card(self._scheme, seats, self._field, checked=self._checked, trusted=self._trusted)

    # -- as a multiplier

    @property
    def begun(self) -> int:
        return self._masker.begun

    def operand(self, name: str, value: torch.Tensor) -> MaskedOperand:
        return self._masker.operand(name, value)

    def multiply(self, product: Product, a: MaskedOperand, b: MaskedOperand) -> torch.Tensor:
        return self._masker.multiply(product, a, b)

    def ask(
        self, product: Product, a: MaskedOperand, b: MaskedOperand
    ) -> Callable[[], torch.Tensor]:
        return self._masker.ask(product, a, b)

    # -- steps

    def begin(self, step: int) -> None:
        """Start a step, for the first time or again, where somebody else runs its body."""
        self._masker.begin(step)

    def end(self) -> None:
        """End it: workers forget its operands."""
        self._masker.end()

    def replace(self, error: SvetovidError) -> None:
        """After a step failed: others take the places of those who failed, under a new attempt.

        Where a product was wrong and nobody knows any more by whom, the step is done again by the
        same workers, once, with answers that nobody can put right afterwards.

        Raises:
            SvetovidError: ``error``, where it is nobody's failure or none is left.
        """
        failed = sorted(self._masker.failed)
        if error.code == "worker.wrong" and not failed and not self._was_careful:
            self._was_careful = True
            self._masker.again()
            return
        if not failed or len(failed) > len(self._spare):
            raise error
        for place in failed:
            self._take(place, error)

    def _take(self, place: int, error: SvetovidError) -> None:
        """Give a place to the first spare worker that is there, and had no other in this run."""
        while True:
            seat, link = self._next(error)
            try:
                self._masker.replace(place, link)
            except RefusalError as e:
                link.close()
                error = e
                continue
            self._past.append(self._seats[place])
            self._seats[place] = seat
            return

    def _first(self, place: int, wanted: Place, ledger: Ledger) -> Link:
        """The worker that was chosen for a place, or, where that is not there, a spare one that had
        no other place in this run."""
        error: SvetovidError
        try:
            return wanted.connect()
        except (IntegrityError, TransportError) as e:
            error = e
        while True:
            seat, link = self._next(error)
            try:
                ledger.bind(link.identity, place)
            except RefusalError as e:
                link.close()
                error = e
                continue
            self._past.append(wanted.seat)
            self._seats[place] = seat
            return link

    def _next(self, error: SvetovidError) -> tuple[Seat, Link]:
        """The first spare worker that is there."""
        while self._spare:
            spare = self._spare.pop(0)
            try:
                return spare.seat, spare.connect()
            except (IntegrityError, TransportError) as e:
                error = e
        raise error

    @property
    def replaced(self) -> list[str]:
        """Identities of workers that failed, or were not there at the start, in order."""
        return [seat.identity for seat in self._past]

    def run(self, step: int, body: Callable[[], T], model: torch.nn.Module) -> T:
        """Do one step, as often as it takes.

        Args:
            step: number of the step, rising.
            body: computes the loss and all gradients, and changes nothing but them and buffers of
                ``model``, which are put back before it is called again where a worker failed.

        Raises:
            SvetovidError: of the worker that failed, when none is left to take its place.
        """
        import torch

        buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
        gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        chance = torch.get_rng_state()
        while True:
            try:
                self.begin(step)
                with self._memory.saving() if self._memory else contextlib.nullcontext():
                    done = body()
                self.end()
            except FAILURES as e:
                self.replace(e)
                with torch.no_grad():
                    for name, b in model.named_buffers():
                        b.copy_(buffers[name])
                for parameter, before in zip(model.parameters(), gradients, strict=True):
                    parameter.grad = None if before is None else before.clone()
                torch.set_rng_state(chance)
            else:
                return done
