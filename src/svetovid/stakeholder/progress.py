"""A recipient reads how far a running job is; nobody else can (T9)."""

from __future__ import annotations

from collections.abc import Sequence

from svetovid.assets.store import read_small
from svetovid.crypto import Card, load_json
from svetovid.errors import InputError, IntegrityError, ParseError, SvetovidError
from svetovid.policy import Job
from svetovid.protocol.output import progress_context
from svetovid.stakeholder.identity import Stakeholder

__all__ = ["read_progress"]

_MAX_NOTES = 1 << 20
_MAX_NOTE = 4096


def read_progress(who: Stakeholder, job: Job, url: str) -> tuple[int, int]:
    """The newest progress that a host reported.

    A hint and no proof: a host may repeat an older note, or none. The receipt is the proof.

    Args:
        who: a recipient of the job.
        job: as agreed.
        url: fsspec URL of the job's ``.progress.json``.

    Returns:
        Steps done, and steps in all; (0, 0) before the first report.

    Raises:
        InputError: ``output.recipient``, also before the first report; ``asset.missing`` where
            there is none yet.
        IntegrityError: ``progress.job`` for another job's notes; ``hpke.open`` where the note is
            not this recipient's, or was altered.
        ParseError: ``progress.malformed``.
    """
    recipients = [Card.open(recipient.card).signing for recipient in job.recipients]
    if not any(who.has_been(key) for key in recipients):
        raise _not_for(who, recipients)
    notes = _notes(read_small(url, _MAX_NOTES))
    if notes.get("job") != job.digest():
        raise IntegrityError(
            "progress.job",
            expected=job.digest(),
            observed=notes.get("job"),
            next_step="look in the folder where this job's outputs go",
        )
    sealed = notes["notes"]
    if not isinstance(sealed, dict):
        raise _malformed("a note for each recipient", type(sealed).__name__)
    for recipient, note in sealed.items():
        try:
            receiving = who.receiving_key(str(recipient))
        except InputError:
            continue
        context = progress_context(job=job.digest(), recipient=str(recipient))
        return _counts(receiving.open(str(note), context).reveal())
    raise _not_for(who, list(sealed))


def _not_for(who: Stakeholder, recipients: Sequence[str]) -> InputError:
    return InputError(
        "output.recipient",
        expected=f"progress sealed to {who.name}",
        observed=", ".join(recipients) or "nobody",
        next_step="only the recipients named in the job can see it",
    )


def _notes(data: bytes) -> dict[str, object]:
    try:
        value = load_json(data, max_bytes=_MAX_NOTES)
    except SvetovidError as e:
        raise _malformed("progress notes", e.code) from e
    if not isinstance(value, dict) or value.keys() != {"job", "notes"}:
        raise _malformed("progress notes", type(value).__name__)
    return value


def _counts(note: bytes) -> tuple[int, int]:
    try:
        value = load_json(note.rstrip(b" "), max_bytes=_MAX_NOTE)
    except SvetovidError as e:
        raise _malformed("counts of steps", e.code) from e
    counts = (value.get("done"), value.get("total")) if isinstance(value, dict) else (None, None)
    done, total = counts
    if type(done) is not int or type(total) is not int or done < 0 or total < 0:
        raise _malformed("counts of steps", "something else")
    return done, total


def _malformed(expected: str, observed: str) -> ParseError:
    return ParseError(
        "progress.malformed",
        expected=expected,
        observed=observed,
        next_step="wait for the next note; if it stays so, ask the operator",
    )
