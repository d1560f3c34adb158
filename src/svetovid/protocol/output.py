"""A sealed output on its way from a host to its recipients."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from svetovid.crypto import Base64, Digest, Document, KeyId, Name
from svetovid.crypto.canonical import canonical, digest
from svetovid.protocol.messages import JsonObject

__all__ = ["OutputPackage", "SealedFor", "progress_context"]


class SealedFor(Document):
    """The output's key, sealed to one recipient in
    :func:`~svetovid.protocol.contexts.output_context`.

    Attributes:
        recipient: whose card it is sealed to.
        sealed: the output's 32-byte key, HPKE-sealed.
    """

    recipient: KeyId
    sealed: Base64


class OutputPackage(Document):
    """Stands beside an output's container as ``<url>.package.json``. Trust nothing in it but what
    the receipt of its job says as well.

    Attributes:
        job: digest of the job.
        output: its name in the job, or ``metrics``.
        manifest: the container's manifest as JSON.
        keys: one for each recipient of the job.
    """

    TYPE: ClassVar[str] = "output-package"
    job: Digest
    output: Name
    manifest: JsonObject
    keys: Annotated[tuple[SealedFor, ...], Field(min_length=1, max_length=16)]

    @property
    def asset(self) -> str:
        """Digest of the manifest."""
        return digest(canonical(self.manifest))


def progress_context(*, job: str, recipient: str) -> dict[str, str]:
    """HPKE context of the progress record that a running job leaves for its recipients (T9)."""
    return {"purpose": "progress", "job": job, "recipient": recipient}
