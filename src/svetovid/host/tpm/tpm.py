"""One TPM 2.0 as the host uses it: an EK, an AK, quotes, measurements, a seal and a counter."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from svetovid.crypto import Secret
from svetovid.errors import HostError, InputError, ParseError, SvetovidError
from svetovid.evidence.tpm import PCR_COUNT, TRANSIENT_FIRST, NvAttr, Rc, Rh
from svetovid.host.tpm import commands
from svetovid.host.tpm.templates import AK, CERTIFICATE_INDEX, EK, SEALED, SRK, EkKind
from svetovid.host.tpm.transports import Transport
from svetovid.host.tpm.wire import Reader, TpmRefusedError

__all__ = ["DEFAULT_PCRS", "Quote", "Tpm"]

DEFAULT_PCRS = tuple(range(15))
"""Firmware, boot loader and kernel (0-9, 11-14) and the measurement log (10)."""
_MAX_SEALED = 128
"""Bytes that a TPM 2.0 seals at the most (MAX_SYM_DATA)."""
_MAX_CERTIFICATE = 8 << 10
_LOADED_SESSION_FIRST = 0x02000000
_COUNTER = NvAttr.COUNTER | NvAttr.OWNERWRITE | NvAttr.OWNERREAD | NvAttr.NO_DA
_QUOTE_TRIES = 8


@dataclass(frozen=True, slots=True)
class Quote:
    """What a TPM says of its PCRs, signed.

    Attributes:
        attest: TPMS_ATTEST.
        signature: TPMT_SIGNATURE over it by the AK.
        pcrs: SHA-256 bank, PCR number to 32 bytes; their digest is the one in ``attest``.
    """

    attest: bytes
    signature: bytes
    pcrs: dict[int, bytes]


class Tpm:
    """A started TPM. Safe to call from several threads.

    A TPM without a resource manager has three places for keys. The AK takes one while this object
    is open; every other key is made, used and flushed within one call.

    Args:
        transport: from :func:`open_transport`; closed with this object.
        pcrs: PCRs that :meth:`quote` covers.

    Raises:
        HostError: ``tpm.rc`` with the response code by name.
        ParseError: ``tpm.malformed`` for an answer that is no TPM response.
        TransportError: ``tpm.transport``.
    """

    def __init__(self, transport: Transport, *, pcrs: Iterable[int] = DEFAULT_PCRS) -> None:
        self._transport = transport
        self._pcrs = tuple(sorted(set(pcrs)))
        if not self._pcrs or not 0 <= self._pcrs[0] <= self._pcrs[-1] < PCR_COUNT:
            raise _bad_pcrs("PCR numbers 0 to 23", self._pcrs)
        self._lock = threading.RLock()
        self._ak: tuple[int, bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def startup(self) -> bool:
        """TPM2_Startup(CLEAR) where starting is ours to do; whether PCRs therefore began anew."""
        if not self._transport.owns_power:
            return False
        with self._lock:
            try:
                commands.startup(self._transport)
                fresh = True
            except TpmRefusedError as e:
                if e.rc != Rc.INITIALIZE:  # which here says: started already
                    raise
                fresh = False
            # What a client that was killed left behind would fill the few places there are.
            for first in (TRANSIENT_FIRST, _LOADED_SESSION_FIRST):
                for handle in commands.handles(self._transport, first):
                    commands.flush(self._transport, handle)
            return fresh

    @contextmanager
    def _flushed(self, handle: int) -> Iterator[int]:
        try:
            yield handle
        finally:
            commands.flush(self._transport, handle)

    @contextmanager
    def _primary(self, hierarchy: int, template: bytes) -> Iterator[tuple[int, bytes]]:
        handle, public = commands.create_primary(self._transport, hierarchy, template)
        with self._flushed(handle):
            yield handle, public

    # -- identity (T3) ------------------------------------------------------------------------

    def ek(self, kind: EkKind = "ecc") -> bytes:
        """TPMT_PUBLIC of the endorsement key, from the TCG's default template."""
        with self._lock, self._primary(Rh.ENDORSEMENT, EK[kind]) as (_, public):
            return public

    def _loaded_ak(self) -> tuple[int, bytes]:
        if self._ak is None:
            self._ak = commands.create_primary(self._transport, Rh.ENDORSEMENT, AK)
        return self._ak

    def ak(self) -> bytes:
        """TPMT_PUBLIC of the attestation key; the same after every restart of this TPM."""
        with self._lock:
            return self._loaded_ak()[1]

    def ek_certificate(self, kind: EkKind = "ecc") -> bytes | None:
        """DER of the EK certificate as the vendor stored it in NV; None where there is none."""
        index = CERTIFICATE_INDEX[kind]
        with self._lock:
            try:
                _, size = commands.nv_read_public(self._transport, index)
            except TpmRefusedError as e:
                if e.rc == Rc.HANDLE:
                    return None
                raise
            if size > _MAX_CERTIFICATE:
                raise ParseError(
                    "tpm.malformed",
                    expected=f"a certificate of at most {_MAX_CERTIFICATE} bytes",
                    observed=size,
                    next_step="read NV index " + hex(index) + " with tpm2_nvread",
                )
            data = commands.nv_read(self._transport, index, size)
        return _der(data)

    def store_ek_certificate(self, der: bytes, kind: EkKind = "ecc") -> None:
        """Put a certificate where a vendor would; for software TPMs, which have no vendor."""
        index = CERTIFICATE_INDEX[kind]
        attributes = NvAttr.OWNERWRITE | NvAttr.OWNERREAD | NvAttr.AUTHREAD | NvAttr.NO_DA
        with self._lock:
            commands.nv_define(self._transport, index, attributes, len(der))
            commands.nv_write(self._transport, index, der)

    def activate_credential(self, blob: bytes, secret: bytes, kind: EkKind = "ecc") -> Secret:
        """Open a credential that was made for this EK and this AK, and only for them.

        Args:
            blob: TPM2B_ID_OBJECT.
            secret: TPM2B_ENCRYPTED_SECRET.
            kind: the EK it was made for.

        Raises:
            ParseError: ``tpm.credential`` for what is not of this form.
            HostError: ``tpm.rc`` where it was made for another TPM or another AK (I3).
        """
        for part in (blob, secret):
            if len(part) <= 2 or int.from_bytes(part[:2], "big") != len(part) - 2:
                raise ParseError(
                    "tpm.credential",
                    expected="a TPM2B: length, then as many bytes",
                    observed=f"{len(part)} bytes",
                    next_step="ask the manager for a new credential",
                )
        t = self._transport
        with self._lock:
            ak, _ = self._loaded_ak()
            with self._primary(Rh.ENDORSEMENT, EK[kind]) as (ek, _), self._session() as policy:
                commands.policy_secret(t, Rh.ENDORSEMENT, policy)
                return Secret(commands.activate_credential(t, ak, ek, policy, blob, secret))

    @contextmanager
    def _session(self) -> Iterator[int]:
        with self._flushed(commands.start_policy_session(self._transport)) as session:
            yield session

    # -- measurements and quotes (T4, T6) -----------------------------------------------------

    def extend(self, pcr: int, sha256: bytes) -> None:
        """Extend one PCR of the SHA-256 bank with 32 bytes."""
        if len(sha256) != 32 or not 0 <= pcr < PCR_COUNT:
            raise _bad_pcrs("PCR 0 to 23 and 32 bytes", (pcr, len(sha256)))
        with self._lock:
            commands.pcr_extend(self._transport, pcr, sha256)

    def read_pcrs(self, pcrs: Iterable[int] | None = None) -> dict[int, bytes]:
        """Values of the SHA-256 bank, 32 bytes each; by default of all PCRs a quote covers."""
        with self._lock:
            return commands.pcr_read(self._transport, self._pcrs if pcrs is None else pcrs)

    def quote(self, qualifying: bytes) -> Quote:
        """A quote over the PCRs, with values that belong to it.

        Args:
            qualifying: up to 32 bytes; :func:`svetovid.evidence.documents.binding` (T6).

        Raises:
            HostError: ``tpm.pcrs_moving`` where PCRs changed between quote and reading each time.
        """
        with self._lock:
            ak, _ = self._loaded_ak()
            for _ in range(_QUOTE_TRIES):
                attest, signature = commands.quote(self._transport, ak, qualifying, self._pcrs)
                pcrs = commands.pcr_read(self._transport, self._pcrs)
                together = b"".join(pcrs[i] for i in self._pcrs)
                # TPMS_QUOTE_INFO ends with pcrDigest; the kernel may have extended in between.
                if attest.endswith(hashlib.sha256(together).digest()):
                    return Quote(attest, signature, pcrs)
        raise HostError(
            "tpm.pcrs_moving",
            expected="PCRs that stand still for a millisecond",
            observed=f"a change in each of {_QUOTE_TRIES} tries",
            next_step="stop what floods the measurement log, then try again",
        )

    # -- keeping secrets and counting ---------------------------------------------------------

    def seal_to_srk(self, secret: Secret) -> bytes:
        """Seal up to 128 bytes so that only this TPM opens them.

        They cross the bus in the clear, here and at unsealing: this holds against whoever copies
        the disk, not against whoever probes the machine.

        Raises:
            InputError: ``tpm.seal_size``.
        """
        if not 0 < len(secret) <= _MAX_SEALED:
            raise InputError(
                "tpm.seal_size",
                expected=f"1 to {_MAX_SEALED} bytes",
                observed=len(secret),
                next_step="seal a key, and what is large under that key",
            )
        t = self._transport
        with self._lock, self._primary(Rh.OWNER, SRK) as (srk, _):
            return commands.create_sealed(t, srk, SEALED, secret.reveal())

    def unseal(self, blob: bytes) -> Secret:
        """Open what :meth:`seal_to_srk` answered.

        Raises:
            HostError: ``tpm.rc`` (``TPM_RC_INTEGRITY``) for altered bytes or another TPM's.
            ParseError: ``tpm.sealed`` for what is no sealed object.
        """
        if not _two_2b(blob):
            raise ParseError(
                "tpm.sealed",
                expected="TPM2B_PRIVATE and TPM2B_PUBLIC",
                observed=f"{len(blob)} bytes",
                next_step="restore the file from a backup",
            )
        t = self._transport
        with (
            self._lock,
            self._primary(Rh.OWNER, SRK) as (srk, _),
            self._flushed(commands.load(t, srk, blob)) as handle,
        ):
            return Secret(commands.unseal(t, handle))

    def define_counter(self, index: int) -> None:
        """Make sure that the NV index is a monotonic counter (T15), made if need be.

        A new one starts above every counter that this TPM ever had, so making it again cannot
        turn it back.

        Raises:
            HostError: ``tpm.nv`` where the index serves something else.
        """
        t = self._transport
        with self._lock:
            try:
                attributes, size = commands.nv_read_public(t, index)
            except TpmRefusedError as e:
                if e.rc != Rc.HANDLE:
                    raise
                commands.nv_define(t, index, _COUNTER, 8)
                commands.nv_increment(t, index)  # before the first increment it has no value
                return
            if attributes & NvAttr.NT_MASK != NvAttr.COUNTER or size != 8:
                raise HostError(
                    "tpm.nv",
                    expected=f"a counter at NV index {index:#x}",
                    observed="something else",
                    next_step="choose another index, or free this one: tpm2_nvundefine",
                )
            if not attributes & NvAttr.WRITTEN:
                commands.nv_increment(t, index)

    def increment_counter(self, index: int) -> int:
        """Add one; the new value."""
        with self._lock:
            commands.nv_increment(self._transport, index)
            return self.read_counter(index)

    def read_counter(self, index: int) -> int:
        """What the NV counter at ``index`` stands at."""
        with self._lock:
            return int.from_bytes(commands.nv_read(self._transport, index, 8), "big")

    def close(self) -> None:
        """Flush what we hold, shut a TPM of our own down in order, close the transport."""
        with self._lock:
            steps: list[Callable[[], None]] = []
            if self._ak is not None:
                handle, self._ak = self._ak[0], None
                steps.append(lambda: commands.flush(self._transport, handle))
            if self._transport.owns_power:
                # Without it a TPM counts the stop as an attack, and locks after a few of them.
                steps.append(lambda: commands.shutdown(self._transport))
            try:
                for step in steps:
                    step()
            except SvetovidError:
                pass  # it is gone already, which is what was wanted
            finally:
                self._transport.close()


def _bad_pcrs(expected: str, observed: object) -> InputError:
    return InputError(
        "tpm.pcrs", expected=expected, observed=observed, next_step="name PCRs that a TPM has"
    )


def _two_2b(blob: bytes) -> bool:
    try:
        reader = Reader(blob)
        private, public = reader.sized(1024), reader.sized(1024)
        reader.done()
    except ParseError:
        return False
    return bool(private and public)


def _der(data: bytes) -> bytes:
    """A DER value without the padding that some vendors leave behind it."""
    if data[:2] == b"\x30\x82" and len(data) >= 4:
        return data[: 4 + int.from_bytes(data[2:4], "big")]
    return data
