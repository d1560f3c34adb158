"""Proposing a job, and saying in plain words what one would do."""

from __future__ import annotations

import secrets
from pathlib import Path

from svetovid.crypto import Card, Envelope, b64encode, sign
from svetovid.errors import PolicyError, Reason
from svetovid.policy import Job, load_job, require_available
from svetovid.stakeholder.home import read_bounded
from svetovid.stakeholder.identity import Stakeholder
from svetovid.stakeholder.labels import Labels
from svetovid.stakeholder.manager import connect
from svetovid.stakeholder.names import Names, read_envelope, write_public
from svetovid.stakeholder.pins import pinned_manager

__all__ = ["describe", "propose", "read_job", "write_job"]

MAX_JOB_BYTES = 256 << 10
_USES = {"dataset": "data", "code": "code", "model": "model"}


def propose(who: Stakeholder, file: Path, names: Names) -> tuple[Job, Envelope]:
    """Read a job from YAML, check it against the manifests it names, sign and send it.

    ``proposer`` and ``nonce`` are filled in; ``$name`` stands for what the public files say, and
    ``recipients: [$name]`` for that party's card.

    Raises:
        InputError: ``file.*``, ``policy.yaml``, ``policy.reference``, ``job.invalid``, ``limit.*``.
        PolicyError: ``job.manifest`` where a slot is not what its manifest says;
            ``mode.unavailable``.
    """
    data = read_bounded(file, MAX_JOB_BYTES, what="a job in YAML")
    resolve = dict(names.digests) | {"manager": pinned_manager(who.home).open().signing}
    nonce = b64encode(secrets.token_bytes(16))
    defaults = {"proposer": who.key_id, "nonce": nonce}
    job = load_job(data, resolve=resolve, cards=names.cards, defaults=defaults)
    require_available(job)
    if wrong := _wrong_slots(job, names):
        raise PolicyError.from_reasons(wrong)
    signed = sign(job, who.identity)
    with connect(who) as client:
        client.put_job(signed)
    return job, signed


def read_job(path: Path) -> tuple[Job, Envelope]:
    """A signed job from a file, its proposer's signature verified.

    Raises:
        InputError, IntegrityError: ``file.*``, ``json.*``, ``document.invalid``, ``signature.*``.
    """
    envelope = read_envelope(path)
    return envelope.open(Job, by=envelope.peek(Job).proposer), envelope


def write_job(public: Path, job: Job, signed: Envelope) -> Path:
    """Put a signed job into the public folder, as ``NAME.job.json``."""
    path = public / f"{job.name}.job.json"
    write_public(path, signed)
    return path


def _wrong_slots(job: Job, names: Names) -> list[Reason]:
    wrong = []
    for slot, asset in job.assets.items():
        manifest = names.manifests.get(asset.manifest)
        said = (asset.owner, asset.manager, asset.use)
        known = (
            (manifest.owner, manifest.manager, _USES.get(manifest.kind, "")) if manifest else None
        )
        if said != known:
            wrong.append(
                Reason(
                    code="job.manifest",
                    expected=", ".join(known) if known else f"a known manifest {asset.manifest}",
                    observed=", ".join(said),
                    next_step="correct the slot, or get its manifest from the owner",
                    clause=f"job {job.name} assets {slot}",
                    owner=asset.owner,
                )
            )
    return wrong


def describe(job: Job, labels: Labels) -> list[str]:
    """What a job would do, in plain words; names beside keys and digests, never instead."""
    lines = [
        f"Job {job.name}  {job.digest()}",
        f"proposed by {labels.full(job.proposer)}",
        f"mode {job.mode}, in environment {labels.full(job.environment)}",
        "It would use:",
    ]
    for slot, asset in sorted(job.assets.items()):
        lines.append(f"  {slot}: {asset.use} {labels.full(asset.manifest)}")
        lines.append(f"    of {labels.full(asset.owner)}, key at {labels.full(asset.manager)}")
    arguments = " ".join(job.arguments) or "no arguments"
    lines.append(f"It would run {job.entry} of the code, with {arguments}, seed {job.seed}.")
    lines += [f"  {key} = {value!r}" for key, value in sorted(job.parameters.items())]
    lines.append("What may leave the host:")
    for name, output in sorted(job.outputs.items()):
        shown = [
            f"{t} {spec.dtype}{list(spec.shape)}" for t, spec in sorted(output.tensors.items())
        ]
        lines.append(f"  {name}: {', '.join(shown)}")
    for name, metric in sorted(job.metrics.items()):
        lines.append(f"  metric {name}: at most {metric.max_count} of type {metric.type}")
    lines.append("Who could open it:")
    for recipient in job.recipients:
        card = Card.open(recipient.card)
        lines.append(f"  {labels.full(card.signing)}")
    limits = job.limits
    lines.append(
        f"Limits: {limits.wall_s} s, {limits.memory_mib} MiB, {limits.processes} processes, "
        f"{limits.output_bytes} bytes out, {limits.resumes} resumes"
    )
    if job.devices:
        lines.append(f"Devices: {', '.join(job.devices)}")
    lines.append("A model can memorise what it was trained on: whoever opens it may learn of it.")
    return lines
