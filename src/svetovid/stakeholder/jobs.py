"""Proposing a job, and saying in plain words what one would do."""

from __future__ import annotations

import secrets
from pathlib import Path

from svetovid.crypto import Card, Envelope, b64encode, sign
from svetovid.errors import InputError, PolicyError, Reason, SvetovidError
from svetovid.offload.card import GuaranteeCard
from svetovid.policy import Job, guarantees, load_job, require_available
from svetovid.stakeholder.choosing import explained
from svetovid.stakeholder.home import read_bounded
from svetovid.stakeholder.identity import Stakeholder
from svetovid.stakeholder.labels import Labels
from svetovid.stakeholder.manager import connect
from svetovid.stakeholder.names import Names, naming, read_envelope, write_public
from svetovid.stakeholder.pins import pinned_manager
from svetovid.stakeholder.uses import USES

__all__ = ["describe", "promised", "propose", "read_job", "write_job"]

MAX_JOB_BYTES = 256 << 10


def propose(
    who: Stakeholder, file: Path, names: Names, *, replace: bool = False
) -> tuple[Job, Envelope]:
    """Read a job from YAML, check it against the manifests it names, sign and send it.

    ``proposer`` and ``nonce`` are filled in; ``$name`` stands for what the public files say, and
    ``recipients: [$name]`` for that party's card. What was proposed already and stands in the
    public folder is sent again as it is: consents to it stay good.

    Args:
        who: the proposer.
        file: YAML as ``docs/spec/policy.md`` describes it.
        names: what ``$name`` stands for, and the public folder that the job will be put into.
        replace: whether another job of this name in that folder gives way; then this is a new job,
            also where all but its nonce is the same.

    Raises:
        InputError: ``job.exists``; ``file.*``, ``policy.yaml``, ``policy.reference``,
            ``job.invalid``, ``limit.*``.
        PolicyError: ``job.manifest`` where a slot is not what its manifest says;
            ``mode.unavailable``.
    """
    data = read_bounded(file, MAX_JOB_BYTES, what="a job in YAML")
    resolve = dict(names.digests) | {"manager": pinned_manager(who.home).open().signing}
    defaults = {"proposer": who.key_id, "nonce": b64encode(secrets.token_bytes(16))}
    with explained(who.home, names):
        job = load_job(data, resolve=resolve, cards=names.cards, defaults=defaults)
    require_available(job)
    if wrong := _wrong_slots(job, names):
        raise PolicyError.from_reasons(wrong)
    signed = None
    if not replace and names.folder is not None:
        job, signed = _as_it_stands(job_file(names.folder, job), job)
    signed = signed or sign(job, who.identity)
    with connect(who) as client:
        client.put_job(signed)
    return job, signed


def read_job(path: Path) -> tuple[Job, Envelope]:
    """A signed job from a file, its proposer's signature verified.

    Raises:
        InputError, IntegrityError: ``file.*``, ``json.*``, ``document.invalid``, ``signature.*``.
    """
    envelope = read_envelope(path)
    with naming(path):
        return envelope.open(Job, by=envelope.peek(Job).proposer), envelope


def write_job(public: Path, job: Job, signed: Envelope) -> Path:
    """Put a signed job into the public folder, as ``NAME.job.json``.

    Args:
        public: folder that others read.
        job: names the file.
        signed: its envelope.
    """
    path = job_file(public, job)
    write_public(path, signed)
    return path


def job_file(public: Path, job: Job) -> Path:
    return public / f"{job.name}.job.json"


def _as_it_stands(path: Path, job: Job) -> tuple[Job, Envelope | None]:
    """The job in ``path`` where it is ``job`` but for its nonce; ``job`` where nothing is there.

    Raises:
        InputError: ``job.exists`` for another one: somebody may have consented to it.
    """
    if not path.exists():
        return job, None
    try:
        there, signed = read_job(path)
    except SvetovidError:
        there = None
    if there is not None and there == job.model_copy(update={"nonce": there.nonce}):
        return there, signed
    raise InputError(
        "job.exists",
        expected=f"no other job in {path}",
        observed=there.digest() if there else "something that is no job",
        next_step="give this job another name, or add --replace if that one is done with",
    )


def _wrong_slots(job: Job, names: Names) -> list[Reason]:
    wrong = []
    for slot, asset in sorted(job.assets.items()):
        clause = f"job {job.name} assets {slot}"
        manifest = names.manifests.get(asset.manifest)
        if manifest is None:
            wrong.append(
                Reason(
                    "job.manifest",
                    expected=f"the manifest {asset.manifest} in {names.folder}",
                    observed="none of that digest",
                    next_step="get it from the asset's owner: svetovid share writes it",
                    clause=clause,
                    owner=asset.owner,
                )
            )
            continue
        known = {
            "owner": manifest.owner,
            "manager": manifest.manager,
            "use": USES.get(manifest.kind, manifest.kind),
        }
        said = {"owner": asset.owner, "manager": asset.manager, "use": asset.use}
        if differ := [key for key in known if known[key] != said[key]]:
            wrong.append(
                Reason(
                    "job.manifest",
                    expected="as its manifest says: " + _listed(known, differ),
                    observed=_listed(said, differ),
                    next_step="correct the slot in the job's YAML, or name another asset in it",
                    clause=clause,
                    owner=asset.owner,
                )
            )
    return wrong


def _listed(fields: dict[str, str], keys: list[str]) -> str:
    return ", ".join(f"{key} {fields[key]}" for key in keys)


def promised(job: Job) -> GuaranteeCard | None:
    """The guarantee card of a job that has workers, before anybody knows its host."""
    if job.offload is None:
        return None
    return guarantees(job.offload, trusted="a host that the owners' policies admit")


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
    lines.append(
        f"Each run, also a resumed one, takes {job.bytes_out} bytes of a grant's output_bytes, "
        "for good."
    )
    if job.devices:
        lines.append(f"Devices: {', '.join(job.devices)}")
    if job.offload:
        lines.append("It would have masked numbers multiplied by workers that prove nothing:")
        lines += [f"  {w.certificate} at {w.url}" for w in job.offload.workers]
    if (promise := promised(job)) is not None:
        lines += [f"  {line}" for line in promise.words()]
    lines.append("A model can memorise what it was trained on: whoever opens it may learn of it.")
    return lines
