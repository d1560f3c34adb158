"""The agent: takes one agreed job from challenge to receipt on this host.

It proves the host to every manager that holds a key of the job, opens the assets, checks the code
against the job before it runs (T7), keeps the leases, seals what comes out, and signs a receipt
with the key that the first quote bound. Whatever fails, the sandbox and the keys go first.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from svetovid.assets import AssetReader, Manifest, load_bundle, open_asset
from svetovid.crypto import Identity, ReceivingKey, Secret
from svetovid.errors import InputError, IntegrityError, SvetovidError
from svetovid.host.accelerators import Accelerators
from svetovid.host.agreed import agreed_job
from svetovid.host.alone import lone_job
from svetovid.host.attester import Attester
from svetovid.host.checkpoints import CheckpointStore
from svetovid.host.deliver import deliver, metrics_blob, metrics_digest, put
from svetovid.host.forgetting import forget
from svetovid.host.heads import joint_key, newest_head
from svetovid.host.home import HostHome
from svetovid.host.link import ManagerLink
from svetovid.host.places import Places
from svetovid.host.progress import ProgressNotes
from svetovid.host.receipts import finish_with_receipt
from svetovid.host.runner import SandboxJob, SandboxResult, run_sandboxed
from svetovid.host.workers import forget_ledger, masking, ready
from svetovid.policy.documents import Job
from svetovid.protocol.client import ManagerClient
from svetovid.protocol.messages import Head
from svetovid.protocol.output import OutputPackage
from svetovid.transparency import METRICS

__all__ = ["Event", "JobOutcome", "run_job"]

_GIVE_BACK_S = 10.0
"""What managers have to answer renewals and to take their leases back, which run out if not."""

Stage = Literal["attesting", "released", "opened", "running", "sealing", "finished"]


@dataclass(frozen=True, slots=True)
class Event:
    """All that the operator sees of a job: its stage, and when it got there (T9)."""

    stage: Stage
    seconds: float


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """What a finished job leaves behind.

    Attributes:
        outputs: output name to the URL of its container (``metrics`` among them).
        bundles: manager key id to the URL of the receipt bundle that it countersigned.
        timings: seconds by stage: ``measure_s``, ``attest_s``, ``release_s``, ``open_s``,
            ``run_s``, ``clear_s``, ``seal_s``, in masked mode ``connect_s``, and those of
            :class:`~svetovid.host.runner.SandboxResult`.
    """

    outputs: dict[str, str]
    bundles: dict[str, str]
    timings: dict[str, float]


class _Run:
    """One job under way. Made to be used once."""

    def __init__(
        self,
        home: HostHome,
        job: Job,
        links: Sequence[ManagerLink],
        signer: Identity,
        attester: Attester,
        storage: Mapping[str, str],
        places: Places,
        on_event: Callable[[Event], None],
        clear: Callable[[], None],
        trusted_mib: float | None,
    ) -> None:
        self._clear = clear
        self._trusted_mib = trusted_mib
        self._home = home
        self._job = job
        self._links = links
        self._signer = signer
        self._attester = attester
        self._storage = storage
        self._places = places
        self._on_event = on_event
        self._begun = time.monotonic()
        self._timings: dict[str, float] = {}
        self._stop = threading.Event()
        self._checkpoints: CheckpointStore

    def _event(self, stage: Stage) -> None:
        self._on_event(Event(stage, time.monotonic() - self._begun))

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self._timings[name] = self._timings.get(name, 0.0) + time.monotonic() - begun

    def run(self) -> JobOutcome:
        try:
            outcome = self._go()
        except BaseException as e:
            forget(e)  # before anybody waits for a manager
            self._let_go(e)
            raise
        self._event("finished")
        return outcome

    def _go(self) -> JobOutcome:
        self._event("attesting")
        with self._timed("measure_s"):
            self._attester.measure()
        until = math.inf
        for link in self._links:
            # The leases before it run out meanwhile, whatever it is waiting for.
            link.ask(until, self._signer)
            until = min(until, link.ends)
            for name, seconds in link.timings.items():
                self._timings[name] = self._timings.get(name, 0.0) + seconds
        for link in self._links:
            link.keep(self._stop)
        self._event("released")
        with contextlib.ExitStack() as stack:
            result = self._execute(stack)
        self._event("sealing")
        with self._timed("seal_s"):
            outputs, bundles = self._seal(result)
        return JobOutcome(outputs, bundles, self._timings)

    def _stop_renewing(self) -> None:
        for link in self._links:
            link.stop_renewing()

    def _execute(self, stack: contextlib.ExitStack) -> SandboxResult:
        job, name = self._job, self._job.digest()
        with self._timed("open_s"):
            readers = self._open(stack)
            code = load_bundle(readers[next(s for s, a in job.assets.items() if a.use == "code")])
            joint = joint_key(name, {x.client.manager: x.checkpoint_key() for x in self._links})
            checkpoints = CheckpointStore(
                self._places.checkpoint,
                job,
                joint,
                newest_head(name, {x.client.manager: x.release.head for x in self._links}),
            )
            resume = checkpoints.load()
            self._checkpoints = checkpoints
            if checkpoints.head is not None:  # opened first: only what is good is recorded further
                self._record(checkpoints.head)
        self._event("opened")
        masked = None
        if job.offload is not None:
            with self._timed("connect_s"), self._lost_first():
                masked = stack.enter_context(
                    masking(
                        *(self._home.path, job, job.offload, joint, self._stop),
                        trusted_mib=self._trusted_mib,
                    )
                )
        notes = stack.enter_context(ProgressNotes(job, self._places.progress))

        def save(data: bytes) -> None:
            self._attester.look_back()
            self._places.take()
            self._record(checkpoints.save(data))

        self._event("running")
        spec = SandboxJob(
            runtime=self._home.runtime,
            code=code,
            entry=job.entry,
            arguments=job.arguments,
            parameters=job.parameters,
            seed=job.seed,
            datasets={s: readers[s] for s, a in job.assets.items() if a.use == "data"},
            models={s: readers[s] for s, a in job.assets.items() if a.use == "model"},
            outputs=job.outputs,
            metrics=job.metrics,
            limits=job.limits,
            devices=job.devices,
            resume=resume,
        )
        try:
            with self._timed("run_s"), self._lost_first():
                result = run_sandboxed(
                    spec,
                    on_event=notes.note,
                    on_checkpoint=save,
                    stop=self._stop,
                    masking=masked,
                )
        finally:
            # Whatever became of the job: a failure to clear is the first thing to be told.
            with self._timed("clear_s"):
                self._clear()
        self._raise_if_lost()
        self._attester.look_back()
        self._timings.update(result.timings)
        return result

    def _record(self, head: Head) -> None:
        """Have ``head`` recorded by every manager, the first in order first (T11).

        A resume sends it to all of them again: whoever has it keeps it, whoever a crash left one
        step behind takes that step.
        """
        for link in self._links:
            link.record_head(head, self._signer)
        self._checkpoints.recorded(head)

    @contextlib.contextmanager
    def _lost_first(self) -> Iterator[None]:
        """A job that was stopped because a lease ended says so, not that it was stopped."""
        try:
            yield
        except SvetovidError:
            self._raise_if_lost()
            raise

    def _raise_if_lost(self) -> None:
        """Whichever lease was lost, and why."""
        for link in self._links:
            if link.lost is not None:
                raise link.lost

    def _open(self, stack: contextlib.ExitStack) -> dict[str, AssetReader]:
        readers: dict[str, AssetReader] = {}
        for link in self._links:
            for slot, (manifest, key) in link.keys().items():
                url = self._storage.get(slot)
                if url is None:
                    raise InputError(
                        "job.storage",
                        expected=f"where the container of slot {slot} is",
                        observed=", ".join(sorted(self._storage)) or "nothing",
                        next_step=f"name it: --storage {slot}=URL",
                    )
                agreed = self._job.assets[slot].manifest
                reader = open_asset(url, Manifest.from_json(manifest), key, expected=agreed)
                readers[slot] = stack.enter_context(reader)
        missing = set(self._job.assets) - set(readers)
        if missing:
            raise IntegrityError(
                "release.incomplete",
                expected="a key for every asset of the job",
                observed=f"none for {', '.join(sorted(missing))}",
                next_step="name the pin of every manager that the job names",
            )
        return readers

    def _seal(self, result: SandboxResult) -> tuple[dict[str, str], dict[str, str]]:
        self._places.take()
        packages, urls, metrics = self._deliver(result)
        result.outputs.clear()  # sealed: what is left to do needs no plaintext
        result.metrics.clear()
        self._stop_renewing()  # a renewal could measure, and the log must stand still now
        self._raise_if_lost()
        bundles = {}
        for link in self._links:
            bundle = finish_with_receipt(
                link,
                self._job,
                self._signer,
                host_record=self._home.signed_record(link.client.manager),
                outputs={n: Manifest.from_json(p.manifest) for n, p in packages.items()},
                metrics=metrics,
                log=self._attester.log,
            )
            url = self._places.receipt(link.client.manager)
            put(url, bundle.canonical())
            bundles[link.client.manager] = url
        with contextlib.suppress(SvetovidError):  # finished is finished, whatever is left lying
            self._checkpoints.clear()
        forget_ledger(self._home.path, self._job)
        return urls, bundles

    def _deliver(
        self, result: SandboxResult
    ) -> tuple[dict[str, OutputPackage], dict[str, str], str]:
        """Seal what came out: packages and URLs by name, and the digest of the metrics."""
        blob = metrics_blob(self._job, result.metrics, Secret.random(32))
        packages: dict[str, OutputPackage] = {}
        urls: dict[str, str] = {}
        for name, data in {**result.outputs, METRICS: blob}.items():
            urls[name] = self._places.output(name)
            packages[name] = deliver(self._job, name, data, urls[name])
        return packages, urls, metrics_digest(blob)

    def _let_go(self, error: BaseException) -> None:
        """Renew no more and give the leases back, at all managers at once; none is waited for
        long."""
        why = error.code if isinstance(error, SvetovidError) else "internal"

        def go(link: ManagerLink) -> None:
            link.close()
            self._give_back(link, why)

        threads = [threading.Thread(target=go, args=(x,), daemon=True) for x in self._links]
        end = time.monotonic() + _GIVE_BACK_S
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _give_back(self, link: ManagerLink, why: str) -> None:
        """Tell a manager that this host is done; it would find out when the lease ends."""
        if link.holds_lease:
            # Whoever has waited long enough closes the client meanwhile, and httpx says so its way.
            with contextlib.suppress(SvetovidError, RuntimeError):
                link.client.end_lease(link.lease_id, why, self._signer)


def run_job(
    home: HostHome,
    digest: str,
    clients: Sequence[ManagerClient],
    *,
    storage: Mapping[str, str],
    outputs: str,
    on_event: Callable[[Event], None] = lambda _: None,
    attester: Attester | None = None,
    accelerators: Accelerators | None = None,
    trusted_mib: float | None = None,
) -> JobOutcome:
    """Run one agreed job on this host.

    Args:
        home: an enrolled host.
        digest: the job.
        clients: one for each manager that the job names, signing as this host's agent.
        storage: slot name to the fsspec URL of its container.
        outputs: URL prefix for what comes out, for example ``file:///srv/out/``.
        on_event: hears of each stage; this is all the operator sees.
        attester: an attester that is open already (an agent that runs many jobs keeps one).
        accelerators: how this machine's accelerators are found, lent and cleared.
        trusted_mib: MiB of memory that a masked job's tensors may take while they wait for the
            backward pass; what is beyond lies sealed in the host's home. Any, where it is None.

    Raises:
        RefusalError: a manager refused, or an asset, the code or an output does not hold.
        HostError: this machine lacks something: ``host.busy`` while it runs another job,
            ``device.*`` for an accelerator that is not here, not free or not to be cleared (T8).
        InputError: ``output.exists`` where the outputs of another job of this name lie,
            ``output.taken`` where another file lies that an output would be written over.
    """
    machine = accelerators or Accelerators()
    with contextlib.ExitStack() as stack:
        note = stack.enter_context(lone_job(home.path))
        job = agreed_job(clients, digest)
        named = {c.manager: c for c in clients}
        if missing := sorted(job.managers - named.keys()):
            raise InputError(
                "job.manager",
                expected="the pin of every manager that the job names",
                observed=f"none for {', '.join(missing)}",
                next_step="pass each manager's pin with --manager",
            )
        if job.offload is not None:
            ready()
        note(sorted(job.managers))
        places = Places(outputs, job)
        places.check()
        gpus = machine.find(job.devices)
        stack.enter_context(machine.lent(gpus))
        machine.clear(gpus)  # before a key is asked for: what others left is nobody's to see
        opened = attester or stack.enter_context(contextlib.closing(home.attester()))
        signer = Identity.generate(home.config().name)
        receiving = ReceivingKey.generate()
        links = [
            ManagerLink(named[m], home.host_id, job, receiving, signer.key_id, opened)
            for m in sorted(job.managers)
        ]

        def clear() -> None:
            machine.clear(gpus)

        begun = _Run(
            *(home, job, links, signer, opened, storage, places, on_event, clear, trusted_mib)
        )
        return begun.run()
