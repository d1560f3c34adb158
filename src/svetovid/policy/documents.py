"""Policies, jobs and consents: what owners sign. YAML is only a way to write them down."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator

from svetovid.crypto.canonical import Base64, Digest, Document, KeyId, Name, Text
from svetovid.crypto.envelope import Envelope
from svetovid.policy.offload import Offload
from svetovid.policy.outputs import MetricSpec, OutputSpec, Recipient

__all__ = [
    "Condition",
    "Consent",
    "Export",
    "Grant",
    "Import",
    "Job",
    "JobAsset",
    "JobLimits",
    "Limits",
    "Mode",
    "Pin",
    "Policy",
    "Use",
]

Mode = Literal["plain", "attested", "enclave", "masked", "permuted", "verified"]
Use = Literal["data", "code", "model"]
Weakness = Literal["simulated", "launcher"]
Count = Annotated[int, Field(ge=1, le=2**40)]
CelSource = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
DevicePath = Annotated[str, StringConstraints(pattern=r"^/dev/[a-z0-9/_-]{1,64}$")]
BundlePath = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}){0,7}$"
    ),
]
Rotations = Annotated[tuple[Envelope, ...], Field(max_length=32)]

MAX_CONDITIONS = 256
"""In one policy: each is evaluated at every decision."""


class Pin(Document):
    """Which signed document an owner means: exactly one, or any edition of a signer's product.

    Either ``document`` (a digest) stands alone, or ``signer``, ``product`` and ``min_version``
    stand together.

    Attributes:
        document: digest of the one that is meant.
        signer: whose editions count.
        product: which line of editions of that signer.
        min_version: the oldest edition that counts.
    """

    document: Digest | None = None
    signer: KeyId | None = None
    product: Name | None = None
    min_version: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Pin:
        by_signer = (self.signer, self.product, self.min_version)
        if (self.document is None) == all(x is None for x in by_signer) or (
            self.document is None and any(x is None for x in by_signer)
        ):
            raise ValueError("either document, or signer with product and min_version")
        return self


class Limits(Document):
    """How far a grant goes. A limit that is left out is no limit; the linter names those.

    Attributes:
        runs: releases, resumes included.
        expires_at: Unix seconds.
        output_bytes: over all releases; each takes its job's :attr:`Job.bytes_out`, for good.
    """

    runs: Count | None = None
    expires_at: int | None = None
    output_bytes: Count | None = None


class Condition(Document):
    """A CEL expression over ``claims`` and ``job`` that must be exactly ``true``.

    Attributes:
        name: by which a refusal names it.
        cel: the expression.
        because: why it is asked, for people.
    """

    name: Name
    cel: CelSource
    because: Text = ""


class Grant(Document):
    """Who may use one asset, with which code, for whom, how far.

    Attributes:
        asset: digest of the asset's manifest.
        use: the part it may play in a job.
        code: manifests of the code bundles that may read it (for ``use: code``: itself or empty;
            for data and models an empty list admits none).
        modes: protection modes it may be used in.
        recipients: keys that may receive what comes out.
        devices: accelerator device nodes a job may ask for (T8); none unless they are named.
        collusion: so many operators of a masked job's workers together must learn nothing (T17).
        conditions: all must hold.
        limits: counted over all jobs, resumes included; for all of an owner's own grants of one
            asset together, and for all its exports of it to one importer together.
    """

    asset: Digest
    use: Use
    code: Annotated[tuple[Digest, ...], Field(max_length=64)] = ()
    modes: Annotated[tuple[Mode, ...], Field(min_length=1, max_length=6)]
    recipients: Annotated[tuple[KeyId, ...], Field(max_length=64)]
    devices: Annotated[tuple[DevicePath, ...], Field(max_length=64)] = ()
    collusion: Annotated[int, Field(ge=0, le=8)] = 1
    conditions: Annotated[tuple[Condition, ...], Field(max_length=64)] = ()
    limits: Limits = Limits()


class Export(Grant):
    """A grant to another owner's policy: ``to`` may consent in this owner's stead, within it.

    Attributes:
        to: owner of the policy that may import it.
    """

    to: KeyId


class Import(Document):
    """Use of an asset that another owner's policy exports; pins that policy's exact hash (T5).

    Attributes:
        policy: digest of the policy that exports it.
        asset: digest of its manifest.
    """

    policy: Digest
    asset: Digest


class Policy(Document):
    """A stakeholder's signed document. ``docs/spec/policy.md`` is its specification.

    Attributes:
        owner: the key that its assets name as theirs.
        rotations: those that lead from ``owner`` to the key that signs, where it is not ``owner``;
            see :mod:`svetovid.policy.speaking`.
        sequence, predecessor: 1 and none at first; then one more, and the hash of the one before,
            so that no update is lost or rolled back.
        manager: key of the one manager this owner gives keys to; pinned out of band (T1).
        profile: ``production`` refuses simulated devices and launcher measurement, whatever
            ``accepts`` says; ``test`` accepts what ``accepts`` names.
        anchors, references: this owner's own choice (T2).
        operators, hosts: whose machines, or which; one of them must be named (T3).
        version: of this format.
        name: under which its owner keeps it; each name has its own sequence.
        accepts: weaknesses that this owner puts up with, in profile ``test`` alone.
        grants: uses that this owner allows.
        exports: grants that other owners may draw on.
        imports: exports of other owners that this one draws on.
    """

    TYPE: ClassVar[str] = "policy"
    MAX_BYTES: ClassVar[int] = 1 << 20
    version: Literal["svetovid.policy/v1"]
    name: Name
    owner: KeyId
    rotations: Rotations = ()
    sequence: Annotated[int, Field(ge=1)]
    predecessor: Digest | None = None
    manager: KeyId
    profile: Literal["production", "test"]
    accepts: tuple[Weakness, ...] = ()
    anchors: Pin
    references: Annotated[tuple[Pin, ...], Field(min_length=1, max_length=16)]
    operators: Annotated[tuple[KeyId, ...], Field(max_length=64)] = ()
    hosts: Annotated[tuple[Digest, ...], Field(max_length=1024)] = ()
    grants: Annotated[tuple[Grant, ...], Field(max_length=256)] = ()
    exports: Annotated[tuple[Export, ...], Field(max_length=256)] = ()
    imports: Annotated[tuple[Import, ...], Field(max_length=256)] = ()

    @model_validator(mode="after")
    def _conditions(self) -> Policy:
        if sum(len(g.conditions) for g in (*self.grants, *self.exports)) > MAX_CONDITIONS:
            raise ValueError(f"at most {MAX_CONDITIONS} conditions in all")
        return self


class JobAsset(Document):
    """An asset in a job, under its slot name. ``manager`` holds its key.

    Attributes:
        manifest: digest of its manifest.
        owner: whose it is.
        manager: who holds its key.
        use: the part it plays.
    """

    manifest: Digest
    owner: KeyId
    manager: KeyId
    use: Use


_VALUE_BYTES = 26
"""One value of a metric as RFC 8785 writes it at the longest, and the comma behind it."""
_METRICS_FRAME_BYTES, _METRIC_FRAME_BYTES = 128, 8
_NOTE_BYTES = 16
"""What a note of progress says: two counts below 2^53."""


class JobLimits(Document):
    """Bounds of one job, over all its resumes.

    Attributes:
        output_bytes: sealed outputs together, headers included; metrics come on top.
        checkpoint_bytes: one checkpoint, as the job's code hands it over.
        checkpoint_step_bytes: sealed checkpoints have a multiple of this length and never shrink,
            so that their sizes say little to the operator (T10); with as much as
            ``checkpoint_bytes``, next to nothing.
        resumes: releases after the first.
        wall_s: seconds, from start to end of one run.
        memory_mib: MiB of memory for the code.
        processes: processes and threads of the code.
    """

    wall_s: Annotated[int, Field(ge=1, le=31 * 86400)] = 3600
    memory_mib: Annotated[int, Field(ge=64, le=2**22)] = 4096
    processes: Annotated[int, Field(ge=1, le=4096)] = 64
    output_bytes: Annotated[int, Field(ge=1, le=2**40)] = 1 << 30
    checkpoint_bytes: Annotated[int, Field(ge=0, le=2**40)] = 1 << 30
    checkpoint_step_bytes: Annotated[int, Field(ge=2**20, le=2**40)] = 1 << 20
    resumes: Annotated[int, Field(ge=0, le=1000)] = 3


class Job(Document):
    """Everything that was agreed (T5). Owners consent to its hash; it names no policy hash.

    Attributes:
        nonce: 16 random bytes: two like jobs are two jobs.
        assets: slot name to asset; exactly one has ``use: code``.
        entry: script inside the code bundle.
        arguments, parameters: argv after the script's name; typed hyper-parameters.
        environment: digest of the :class:`ReferenceValues` document of the runtime it runs in.
        offload: the workers of a job in masked mode; absent in every other.
        devices: accelerator device nodes the sandbox may see, for example ``/dev/nvidia0``.
        outputs, metrics: all that may leave.
        version: of this format.
        name: what its proposer calls it.
        proposer: who put it together and signs it.
        mode: protection mode of the whole job.
        seed: what the code is to draw its random numbers from.
        recipients: who can open what comes out.
        limits: bounds of time, memory and size.
    """

    TYPE: ClassVar[str] = "job"
    version: Literal["svetovid.job/v1"]
    name: Name
    proposer: KeyId
    nonce: Base64
    mode: Mode
    assets: Annotated[dict[Name, JobAsset], Field(min_length=1, max_length=64)]
    entry: BundlePath
    arguments: Annotated[tuple[Text, ...], Field(max_length=64)] = ()
    parameters: Annotated[dict[Name, bool | int | float | Text], Field(max_length=128)] = {}
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0
    environment: Digest
    offload: Offload | None = None
    devices: Annotated[tuple[DevicePath, ...], Field(max_length=64)] = ()
    outputs: Annotated[dict[Name, OutputSpec], Field(min_length=1, max_length=16)]
    metrics: Annotated[dict[Name, MetricSpec], Field(max_length=64)] = {}
    recipients: Annotated[tuple[Recipient, ...], Field(min_length=1, max_length=16)]
    limits: JobLimits = JobLimits()

    @model_validator(mode="after")
    def _whole(self) -> Job:
        if (self.mode == "masked") != (self.offload is not None):
            raise ValueError("offload belongs to masked mode, and to no other")
        if sum(a.use == "code" for a in self.assets.values()) != 1:
            raise ValueError("exactly one asset is the code")
        if "metrics" in self.outputs:
            raise ValueError("metrics is the name of what every job puts out beside its outputs")
        return self

    @property
    def code(self) -> JobAsset:
        """The one asset that is its code."""
        return next(a for a in self.assets.values() if a.use == "code")

    @property
    def metrics_bytes(self) -> int:
        """Bytes of the sealed metrics, however many values were logged: they are filled up."""
        each = (
            _METRIC_FRAME_BYTES + len(name) + _VALUE_BYTES * spec.max_count
            for name, spec in self.metrics.items()
        )
        return _METRICS_FRAME_BYTES + sum(each)

    @property
    def bytes_out(self) -> int:
        """The most that one release lets out to the recipients (T9): outputs, metrics, and a note
        of progress at the end of each second. What a grant's ``limits.output_bytes`` is charged.
        """
        progress = _NOTE_BYTES * (self.limits.wall_s + 1)
        return self.limits.output_bytes + self.metrics_bytes + progress

    @property
    def owners(self) -> frozenset[str]:
        """Keys that own an asset in it: each must consent (T5)."""
        return frozenset(a.owner for a in self.assets.values())

    @property
    def managers(self) -> frozenset[str]:
        """Keys of the managers that hold an asset of it."""
        return frozenset(a.manager for a in self.assets.values())


class Consent(Document):
    """An owner agrees that its assets are used in this job under this policy of its own (T5).

    ``owner`` and ``rotations`` are as in its policy.

    Attributes:
        job: digest of the job.
        policy: digest of the owner's policy under which it agrees.
        owner: as in its policy.
        rotations: as in its policy.
        slots: slots of the job that it agrees to.
        issued_at: by the owner's clock, Unix seconds.
    """

    TYPE: ClassVar[str] = "consent"
    job: Digest
    policy: Digest
    owner: KeyId
    rotations: Rotations = ()
    slots: Annotated[tuple[Name, ...], Field(min_length=1, max_length=64)]
    issued_at: int
