"""A recipient opens what a job put out: first the receipt, then the seal, then the form."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from svetovid.assets import AssetReader, Manifest, open_asset
from svetovid.assets.store import read_small
from svetovid.crypto import Secret, load_json
from svetovid.crypto.private import write_private
from svetovid.dtypes import SAFETENSORS
from svetovid.errors import EvidenceError, InputError, IntegrityError, SvetovidError
from svetovid.policy import Job
from svetovid.protocol.contexts import output_context
from svetovid.protocol.output import OutputPackage
from svetovid.stakeholder.identity import Stakeholder
from svetovid.stakeholder.pins import pinned_manager
from svetovid.stakeholder.receipts import check_receipt, read_receipt
from svetovid.transparency import METRICS, Verdict

__all__ = ["Opened", "check_form", "open_output"]

_MAX_PACKAGE = 4 << 20
_MAX_HEADER = 32 << 20
_DTYPES = {code: name for name, code in SAFETENSORS.items()}


@dataclass(frozen=True, slots=True)
class Opened:
    """An output in the clear, and what its receipt proved."""

    path: Path
    output: str
    size: int
    verdict: Verdict


def open_output(
    who: Stakeholder,
    url: str,
    receipt: Path,
    to: Path,
    *,
    anchors: Path,
    references: Sequence[Path],
    now: int,
) -> Opened:
    """Open a sealed output and write it to ``to`` (mode 0600).

    Args:
        who: a recipient of the job; its pinned manager must have countersigned.
        url: fsspec URL of the container; ``.package.json`` stands beside it.
        receipt: the receipt bundle.
        to: a safetensors file, or JSON for the metrics. It appears whole or not at all.
        anchors, references: what this recipient chose to believe.
        now: Unix seconds.

    Raises:
        RefusalError: as :func:`svetovid.transparency.verify_receipt`; ``evidence.*`` and others
            where the evidence does not satisfy the anchors and values; ``output.receipt`` for an
            output the receipt does not name; ``hpke.open``, ``asset.*``; ``output.schema``.
        InputError: ``output.recipient``, ``file.exists``, ``json.*``, ``document.invalid``.
    """
    manager = pinned_manager(who.home).open().signing
    verdict = check_receipt(
        receipt, anchors=anchors, references=references, manager=manager, now=now
    )
    if not verdict.affirmed:
        raise EvidenceError.from_reasons(verdict.reasons())
    package = OutputPackage.parse(read_small(url + ".package.json", _MAX_PACKAGE))
    said = verdict.outputs.get(package.output)
    if (package.job, package.asset) != (verdict.job, said):
        raise IntegrityError(
            "output.receipt",
            expected=f"{package.output} as the receipt names it: {said}",
            observed=f"{package.asset} of job {package.job}",
            next_step="get the output and the receipt of one and the same job",
        )
    key = _key(who, package)
    manifest = Manifest.from_json(package.manifest)
    with open_asset(url, manifest, key, expected=package.asset) as reader:
        if package.output != METRICS:
            check_form(reader, read_receipt(receipt).job, package.output)
        write_private(to, reader.blocks(), replace=False)
        return Opened(to, package.output, reader.size, verdict)


def _key(who: Stakeholder, package: OutputPackage) -> Secret:
    for entry in package.keys:
        try:
            receiving = who.receiving_key(entry.recipient)
        except InputError:
            continue
        context = output_context(package.asset, package.job, entry.recipient)
        return receiving.open(entry.sealed, context)
    raise InputError(
        "output.recipient",
        expected=f"an output sealed to {who.name}",
        observed=", ".join(entry.recipient for entry in package.keys),
        next_step="only the recipients named in the job can open it",
    )


def check_form(reader: AssetReader, job: Job, name: str) -> None:
    """Whether an output is safetensors with exactly the agreed tensors, and no metadata (T9).

    Raises:
        IntegrityError: ``output.schema``.
    """
    prefix = reader.read_at(0, min(8, reader.size))
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
    if not 0 < length <= min(_MAX_HEADER, reader.size - 8):
        raise _form("a safetensors header", f"{length} of {reader.size} bytes")
    try:
        header = load_json(reader.read_at(8, length), max_bytes=_MAX_HEADER)
    except SvetovidError as e:
        raise _form("a safetensors header", e.code) from e
    agreed = {n: (t.dtype, list(t.shape)) for n, t in job.outputs[name].tensors.items()}
    found = {
        n: (_DTYPES.get(str(t.get("dtype"))), t.get("shape")) if isinstance(t, dict) else None
        for n, t in (header.items() if isinstance(header, dict) else ())
    }
    if found != agreed:
        raise _form(f"the {len(agreed)} agreed tensors and nothing else", ", ".join(found))


def _form(expected: str, observed: str) -> IntegrityError:
    return IntegrityError(
        "output.schema",
        expected=expected,
        observed=observed,
        next_step="do not use this output; ask the operator how it came about",
    )
