"""A masked job's workers, as its host reaches them: one TLS link each, pinned by the agreed job.

Rules:

1. The job names workers by certificate; nobody else gets a byte.
2. What waits for a worker ends with the job: the end of a lease is not delayed by one that is slow,
   silent or not there (T12).
3. The masks' key is drawn anew at every start, and kept nowhere. The roundings' key is derived from
   the keys that managers release for this job alone: a job that goes on rounds as before.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path

from svetovid.crypto import Secret, canonical
from svetovid.errors import HostError, TransportError
from svetovid.host.home import LINK
from svetovid.host.masking import Masking, Room
from svetovid.host.waiting import answered
from svetovid.offload.links import FramedLink, connected
from svetovid.offload.protocols import SCHEMES
from svetovid.offload.session import Place, Session
from svetovid.policy.documents import Job
from svetovid.policy.offload import Offload, OffloadWorker

__all__ = ["Workers", "forget_ledger", "masking", "ready", "rounding_key"]

_ROOM_SHARE = 4
"""One tensor may take this part of the memory that the job may."""
_MIB = 1 << 20


def ready() -> None:
    """See that this host can mask and check, before it asks for a key.

    Raises:
        HostError: ``offload.kernels``: the native kernels are not compiled, or PyTorch is not here;
            ``worker.kernel``: its own products, by which it checks, are not exact.
    """
    from svetovid.offload import freivalds, kernels

    kernels.paths()
    try:
        freivalds.proven()
    except ImportError as e:
        raise HostError(
            "offload.kernels",
            expected="PyTorch, by which products are checked",
            observed=e,
            next_step="pip install 'svetovid[train]' on this host",
        ) from e


class Workers:
    """Connects to a job's workers.

    Args:
        own: file of this host's key and certificate.
        stop: set when the job must end.
        rest: bytes of memory that each link keeps from one step to the next.
    """

    def __init__(self, own: Path, stop: threading.Event, rest: int) -> None:
        self._own = own
        self._rest = rest
        self._stop = stop
        self._ended = threading.Event()
        self._links: list[FramedLink] = []

    def places(self, offload: Offload) -> list[Place]:
        """All of the job's workers, in the order of its document."""
        seated = zip(offload.seats, offload.workers, strict=True)
        return [Place(seat, partial(self._connect, worker)) for seat, worker in seated]

    def abort(self) -> None:
        """From any thread: whatever waits for a worker fails, and no other is connected to."""
        self._ended.set()
        for link in list(self._links):
            link.abort()

    def _connect(self, worker: OffloadWorker) -> FramedLink:
        host, port = worker.address
        link = answered(
            lambda: connected(
                host,
                port,
                own=self._own,
                identity=worker.certificate,
                operator=worker.operator,
                rest=self._rest,
            ),
            self._given_up,
            discard=FramedLink.close,
        )
        self._links.append(link)
        if self._over():  # perhaps before this one was among those to abort
            link.abort()
        return link

    def _over(self) -> bool:
        return self._ended.is_set() or self._stop.is_set()

    def _given_up(self) -> TransportError | None:
        if not self._over():
            return None
        return TransportError(
            "worker.unreachable",
            expected="a worker that answers before the job must end",
            next_step="look at why the job ended",
        )


def rounding_key(job: str, joint: Secret) -> Secret:
    """Master key of a job's roundings: HMAC-SHA-256 under the key of its checkpoints, so that only
    its hosts have it, and each of them the same.

    Args:
        job: digest of the job.
        joint: :func:`svetovid.host.heads.joint_key`.
    """
    info = canonical({"job": job, "label": "svetovid rounding key", "version": 1})
    return Secret(hmac.new(joint.reveal(), info, sha256).digest())


def _folder(home: Path, job: Job) -> Path:
    return home / "masked" / job.digest().removeprefix("sha256:")


@contextlib.contextmanager
def masking(
    home: Path,
    job: Job,
    offload: Offload,
    joint: Secret,
    stop: threading.Event,
    *,
    trusted_mib: float | None = None,
) -> Iterator[Masking]:
    """Everything that a masked job's sandbox is answered by. Masks and links end with it.

    Args:
        home: the host's, where its certificate is, and where the job's ledger outlives a crash.
        job, offload: as agreed.
        joint: key of the job's checkpoints.
        stop: set when the job must end.
        trusted_mib: MiB of plaintext that a step's tensors may take here until it ends; others lie
            sealed beside the ledger.

    Raises:
        HostError: ``sandbox.room``; ``offload.kernels``; ``offload.outside``.
        TransportError: ``worker.*``: a worker cannot be reached.
        IntegrityError: ``worker.certificate``; ``offload.ledger``.
        RefusalError: ``offload.point``.
    """
    from svetovid.offload.store import TensorStore

    folder = _folder(home, job)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    memory = job.limits.memory_mib * _MIB
    workers = Workers(home / LINK, stop, memory)
    room = Room(memory // _ROOM_SHARE)
    try:
        with contextlib.ExitStack() as stack:
            store = None
            if trusted_mib is not None:
                store = stack.enter_context(contextlib.closing(TensorStore(trusted_mib, folder)))
            session = Session(
                SCHEMES[offload.protocol],
                workers.places(offload),
                folder,
                run=folder.name,
                roundings=rounding_key(job.digest(), joint),
                trusted="the job's host",
                threads=len(os.sched_getaffinity(0)),
                memory=store,
            )
            stack.enter_context(session)
            yield Masking(session, room, offload, abort=workers.abort)
    finally:
        room.close()


def forget_ledger(home: Path, job: Job) -> None:
    """A job that has finished needs none any more."""
    shutil.rmtree(_folder(home, job), ignore_errors=True)
