"""The job that owners agreed to, as the managers keep it."""

from __future__ import annotations

from collections.abc import Sequence

from svetovid.crypto import Envelope
from svetovid.errors import InputError, IntegrityError, SvetovidError
from svetovid.policy.documents import Job
from svetovid.protocol.client import ManagerClient

__all__ = ["agreed_job"]


def agreed_job(clients: Sequence[ManagerClient], digest: str) -> Job:
    """The job of this digest, from the first manager that knows it.

    Raises:
        InputError: ``job.manager``: there is no manager to ask.
        IntegrityError: ``job.digest``: a manager answers with another job.
        SvetovidError: what the last manager refused with.
    """
    refused: SvetovidError | None = None
    for client in clients:
        try:
            envelope: Envelope = client.job(digest).job
        except SvetovidError as e:
            refused = e
            continue
        job = envelope.peek(Job)
        envelope.open(Job, by=job.proposer)
        if job.digest() != digest:
            raise IntegrityError("job.digest", expected=digest, observed=job.digest())
        return job
    raise refused or InputError("job.manager", expected="the pin of at least one manager")
