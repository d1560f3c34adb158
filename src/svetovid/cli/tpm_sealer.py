"""A manager's root key in a TPM, and a counter that no restored store turns back (T15).

The manager's room does not know TPMs and the host's does not know managers; here they meet.
"""

from __future__ import annotations

from typing import Literal

from svetovid.crypto import Secret
from svetovid.host.tpm import Tpm

__all__ = ["COUNTER_INDEX", "TpmSealer"]

COUNTER_INDEX = 0x01805356
"""NV index in the owner's range (TCG registry of reserved handles): one manager a TPM."""


class TpmSealer:
    """A :class:`svetovid.manager.RootSealer` on a started TPM, which it does not close.

    The root key crosses the bus in the clear: this holds against whoever copies the disk.
    """

    kind: Literal["tpm"] = "tpm"

    def __init__(self, tpm: Tpm, index: int = COUNTER_INDEX) -> None:
        tpm.define_counter(index)
        self._tpm = tpm
        self._index = index

    def seal(self, secret: Secret) -> bytes:
        return self._tpm.seal_to_srk(secret)

    def unseal(self, blob: bytes) -> Secret:
        return self._tpm.unseal(blob)

    def counter(self) -> int:
        return self._tpm.read_counter(self._index)

    def increment(self) -> int:
        return self._tpm.increment_counter(self._index)
