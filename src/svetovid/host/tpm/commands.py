"""The TPM 2.0 commands we use, one function each (TPM 2.0 Library Part 3).

Arguments and answers are plain integers and bytes; structures that a verifier reads
(TPMS_ATTEST, TPMT_PUBLIC, TPMT_SIGNATURE) pass through as the TPM gave them.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence

from svetovid.errors import HostError
from svetovid.evidence.tpm import PCR_COUNT, Alg, Cap, Cc, NvAttr, Rh, SessionType, Su
from svetovid.evidence.tpm.wire import tpm2b
from svetovid.host.tpm.transports import Transport
from svetovid.host.tpm.wire import PASSWORD, Reader, Session, execute, u8, u16, u32

__all__ = [
    "activate_credential",
    "create_primary",
    "create_sealed",
    "flush",
    "handles",
    "load",
    "nv_define",
    "nv_increment",
    "nv_read",
    "nv_read_public",
    "nv_write",
    "pcr_extend",
    "pcr_read",
    "policy_secret",
    "quote",
    "selection",
    "shutdown",
    "start_policy_session",
    "startup",
    "unseal",
]

_MAX_2B = 2048
NV_CHUNK = 512
"""Every TPM in the field moves this much NV data at once."""


def _run(
    t: Transport,
    command: Cc,
    *,
    handles: Sequence[int] = (),
    sessions: Sequence[Session] = (),
    parameters: bytes = b"",
) -> None:
    """A command that answers nothing but that it is done."""
    _, answer = execute(t, command, handles=handles, sessions=sessions, parameters=parameters)
    answer.done()


def startup(t: Transport) -> None:
    _run(t, Cc.STARTUP, parameters=u16(Su.CLEAR))


def shutdown(t: Transport) -> None:
    _run(t, Cc.SHUTDOWN, parameters=u16(Su.CLEAR))


def create_primary(t: Transport, hierarchy: int, template: bytes) -> tuple[int, bytes]:
    """Handle and TPMT_PUBLIC of the primary key that ``template`` derives."""
    parameters = tpm2b(tpm2b(b"") + tpm2b(b"")) + tpm2b(template) + tpm2b(b"") + u32(0)
    handle, answer = execute(
        t, Cc.CREATE_PRIMARY, handles=[hierarchy], sessions=[PASSWORD], parameters=parameters
    )
    return handle, answer.sized(_MAX_2B)


def flush(t: Transport, handle: int) -> None:
    _run(t, Cc.FLUSH_CONTEXT, parameters=u32(handle))


def handles(t: Transport, first: int) -> list[int]:
    """Handles in use from ``first`` on, of its kind (at most 64)."""
    _, answer = execute(t, Cc.GET_CAPABILITY, parameters=u32(Cap.HANDLES) + u32(first) + u32(64))
    answer.uint(1)
    answer.uint(4)
    count = answer.uint(4)
    found = [answer.uint(4) for _ in range(min(count, 256))]
    answer.done()
    return [h for h in found if h >> 24 == first >> 24]


def selection(pcrs: Iterable[int]) -> bytes:
    """TPML_PCR_SELECTION of one bank, SHA-256."""
    bits = sum(1 << i for i in set(pcrs))
    return u32(1) + u16(Alg.SHA256) + u8(3) + bits.to_bytes(3, "little")


def _selected(answer: Reader) -> list[int]:
    """PCRs of a TPML_PCR_SELECTION that names the SHA-256 bank alone, or nothing."""
    found: list[int] = []
    for _ in range(min(answer.uint(4), 16)):
        bank, bits = answer.uint(2), int.from_bytes(answer.take(answer.uint(1)), "little")
        if bank == Alg.SHA256:
            found += [i for i in range(PCR_COUNT) if bits >> i & 1]
    return found


def pcr_extend(t: Transport, pcr: int, sha256: bytes) -> None:
    parameters = u32(1) + u16(Alg.SHA256) + sha256
    _run(t, Cc.PCR_EXTEND, handles=[pcr], sessions=[PASSWORD], parameters=parameters)


def pcr_read(t: Transport, pcrs: Iterable[int]) -> dict[int, bytes]:
    """Values of the SHA-256 bank.

    Raises:
        HostError: ``tpm.bank`` where the TPM keeps no SHA-256 value of one of them.
    """
    missing = sorted(set(pcrs))
    values: dict[int, bytes] = {}
    while missing:
        _, answer = execute(t, Cc.PCR_READ, parameters=selection(missing))
        answer.uint(4)
        given = _selected(answer)
        digests = [answer.sized(64) for _ in range(min(answer.uint(4), 8))]
        answer.done()
        read = dict(zip(given, digests, strict=False))
        # Each round must bring something that was asked for, or it would go on for ever.
        if not read.keys() & set(missing) or any(len(d) != 32 for d in digests):
            raise HostError(
                "tpm.bank",
                expected=f"SHA-256 values of PCR {missing}",
                observed="none",
                next_step="enable the SHA-256 PCR bank in the firmware's set-up",
            )
        values.update({i: v for i, v in read.items() if i in missing})
        missing = [i for i in missing if i not in values]
    return values


def quote(t: Transport, ak: int, qualifying: bytes, pcrs: Iterable[int]) -> tuple[bytes, bytes]:
    """TPMS_ATTEST and TPMT_SIGNATURE over PCRs of the SHA-256 bank."""
    parameters = tpm2b(qualifying) + u16(Alg.NULL) + selection(pcrs)
    _, answer = execute(t, Cc.QUOTE, handles=[ak], sessions=[PASSWORD], parameters=parameters)
    return answer.sized(_MAX_2B), answer.rest()


def start_policy_session(t: Transport) -> int:
    parameters = tpm2b(secrets.token_bytes(16)) + tpm2b(b"") + u8(SessionType.POLICY)
    handle, _ = execute(
        t,
        Cc.START_AUTH_SESSION,
        handles=[Rh.NULL, Rh.NULL],
        parameters=parameters + u16(Alg.NULL) + u16(Alg.SHA256),
    )
    return handle


def policy_secret(t: Transport, hierarchy: int, session: int) -> None:
    parameters = tpm2b(b"") * 3 + u32(0)
    execute(
        t,
        Cc.POLICY_SECRET,
        handles=[hierarchy, session],
        sessions=[PASSWORD],
        parameters=parameters,
    )


def activate_credential(
    t: Transport, ak: int, ek: int, policy: int, blob: bytes, secret: bytes
) -> bytes:
    """``blob`` is a TPM2B_ID_OBJECT, ``secret`` a TPM2B_ENCRYPTED_SECRET."""
    _, answer = execute(
        t,
        Cc.ACTIVATE_CREDENTIAL,
        handles=[ak, ek],
        sessions=[PASSWORD, Session(policy)],
        parameters=blob + secret,
    )
    credential = answer.sized(64)
    answer.done()
    return credential


def create_sealed(t: Transport, parent: int, template: bytes, data: bytes) -> bytes:
    """TPM2B_PRIVATE and TPM2B_PUBLIC of a new object that holds ``data``."""
    parameters = tpm2b(tpm2b(b"") + tpm2b(data)) + tpm2b(template) + tpm2b(b"") + u32(0)
    _, answer = execute(t, Cc.CREATE, handles=[parent], sessions=[PASSWORD], parameters=parameters)
    return tpm2b(answer.sized(_MAX_2B)) + tpm2b(answer.sized(_MAX_2B))


def load(t: Transport, parent: int, blob: bytes) -> int:
    """Load what :func:`create_sealed` answered."""
    handle, _ = execute(t, Cc.LOAD, handles=[parent], sessions=[PASSWORD], parameters=blob)
    return handle


def unseal(t: Transport, handle: int) -> bytes:
    _, answer = execute(t, Cc.UNSEAL, handles=[handle], sessions=[PASSWORD])
    data = answer.sized(_MAX_2B)
    answer.done()
    return data


def nv_define(t: Transport, index: int, attributes: NvAttr, size: int) -> None:
    public = u32(index) + u16(Alg.SHA256) + u32(attributes) + tpm2b(b"") + u16(size)
    parameters = tpm2b(b"") + tpm2b(public)
    _run(t, Cc.NV_DEFINE_SPACE, handles=[Rh.OWNER], sessions=[PASSWORD], parameters=parameters)


def nv_read_public(t: Transport, index: int) -> tuple[NvAttr, int]:
    """Attributes and size of an NV index."""
    _, answer = execute(t, Cc.NV_READ_PUBLIC, handles=[index])
    public = Reader(answer.sized(_MAX_2B))
    public.uint(4)
    public.uint(2)
    attributes = NvAttr(public.uint(4))
    public.sized(64)
    size = public.uint(2)
    public.done()
    return attributes, size


def nv_write(t: Transport, index: int, data: bytes) -> None:
    for at in range(0, len(data), NV_CHUNK):
        _run(
            t,
            Cc.NV_WRITE,
            handles=[Rh.OWNER, index],
            sessions=[PASSWORD],
            parameters=tpm2b(data[at : at + NV_CHUNK]) + u16(at),
        )


def nv_increment(t: Transport, index: int) -> None:
    _run(t, Cc.NV_INCREMENT, handles=[Rh.OWNER, index], sessions=[PASSWORD])


def nv_read(t: Transport, index: int, size: int) -> bytes:
    """The first ``size`` bytes, under the owner's authorization."""
    data = b""
    for at in range(0, size, NV_CHUNK):
        want = min(NV_CHUNK, size - at)
        _, answer = execute(
            t,
            Cc.NV_READ,
            handles=[Rh.OWNER, index],
            sessions=[PASSWORD],
            parameters=u16(want) + u16(at),
        )
        part = answer.sized(want)
        answer.done()
        data += part
    return data
