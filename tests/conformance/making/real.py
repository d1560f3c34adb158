"""A whole TPM: libtpms in this process. It signs nothing that is not so."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from conformance.making.keys import Maker
from conformance.making.story import BANKS, NONCE, QUOTED, Story, extension, recording
from firmware import NO_ACTION
from svetovid.evidence.tpm import Cc, parse_public, public_key
from svetovid.host.tpm import LibtpmsTransport, commands
from svetovid.host.tpm.templates import AK, EK
from svetovid.host.tpm.wire import PASSWORD, execute
from tpmbytes import AK_ATTRIBUTES, NULL, SHA256, b2, bitmap

MAKER = Maker("Conformance SIMULATED TPM maker, protects nothing")
_ENDORSEMENT = 0x4000000B
_GET_TIME = 0x0000014C  # TPM 2.0 Part 2, table 12; nothing in the product asks for it


def key_template(
    scheme: int, hash_alg: int, *, curve: int = 0, attributes: int = AK_ATTRIBUTES
) -> bytes:
    """A signing key: ECC on ``curve``, or RSA-2048 without one."""
    kind = 0x0023 if curve else 0x0001
    head = struct.pack(">HHI", kind, SHA256, attributes) + b2(b"")
    form = struct.pack(">HHH", NULL, scheme, hash_alg)
    if curve:
        return head + form + struct.pack(">HH", curve, NULL) + b2(b"") + b2(b"")
    return head + form + struct.pack(">HI", 2048, 0) + b2(b"")


class Real:
    """One TPM, whose state lies in a file; each ``booted`` is a power-on."""

    def __init__(self, state: Path) -> None:
        self._state = state
        with self._on():
            self.ek = self._made(EK["ecc"])
        self.certificate = MAKER.device(public_key(parse_public(self.ek)))

    def _made(self, template: bytes) -> bytes:
        handle, public = commands.create_primary(self._tpm, _ENDORSEMENT, template)
        commands.flush(self._tpm, handle)
        return public

    @contextmanager
    def _on(self) -> Iterator[None]:
        self._tpm = LibtpmsTransport(self._state)
        try:
            commands.startup(self._tpm)
            yield
            commands.shutdown(self._tpm)
        finally:
            self._tpm.close()

    def _measure(self, story: Story) -> None:
        banks = story.fw.banks
        for event in story.fw.events:
            if event.kind != NO_ACTION:
                values = {b: hashlib.new(b, event.measured).digest() for b in banks}
                self._extend(event.pcr, values)
        for line in story.measured():
            self._extend(10, {b: extension(line, b) for b in banks})

    def _extend(self, pcr: int, values: Mapping[str, bytes]) -> None:
        parameters = struct.pack(">I", len(values))
        for bank, value in values.items():
            parameters += struct.pack(">H", BANKS[bank]) + value
        execute(self._tpm, Cc.PCR_EXTEND, handles=[pcr], sessions=[PASSWORD], parameters=parameters)

    @contextmanager
    def booted(self, story: Story, template: bytes = AK) -> Iterator[Booted]:
        """Power on, measure ``story``, load the key of ``template``."""
        with self._on():
            self._measure(story)
            handle, public = commands.create_primary(self._tpm, _ENDORSEMENT, template)
            yield Booted(self, story, handle, public)
            commands.flush(self._tpm, handle)

    def recorded(
        self, story: Story | None = None, template: bytes = AK, **quoted: object
    ) -> dict[str, bytes]:
        with self.booted(story or Story(), template) as on:
            return on.recorded(**quoted)  # type: ignore[arg-type]


class Booted:
    """A TPM that was powered on and measured a story."""

    def __init__(self, tpm: Real, story: Story, handle: int, ak: bytes) -> None:
        self._tpm, self.story, self._handle, self.ak = tpm, story, handle, ak

    def quote(self, nonce: bytes = NONCE, *selections: bytes) -> tuple[bytes, bytes]:
        chosen = selections or (bitmap(QUOTED, BANKS[self.story.bank]),)
        parameters = b2(nonce) + struct.pack(">HI", NULL, len(chosen)) + b"".join(chosen)
        return self._signed(Cc.QUOTE, [self._handle], 1, parameters)

    def time(self, nonce: bytes = NONCE) -> tuple[bytes, bytes]:
        """TPM2_GetTime: the same key, the same nonce, and nothing about PCRs."""
        parameters = b2(nonce) + struct.pack(">H", NULL)
        return self._signed(_GET_TIME, [_ENDORSEMENT, self._handle], 2, parameters)

    def _signed(
        self, command: int, handles: list[int], sessions: int, parameters: bytes
    ) -> tuple[bytes, bytes]:
        _, answer = execute(
            self._tpm._tpm,
            command,  # type: ignore[arg-type]
            handles=handles,
            sessions=[PASSWORD] * sessions,
            parameters=parameters,
        )
        return answer.sized(2048), answer.rest()

    def recorded(
        self,
        nonce: bytes = NONCE,
        selections: tuple[bytes, ...] = (),
        pcrs: Mapping[int, bytes] | None = None,
    ) -> dict[str, bytes]:
        return recording(
            self.quote(nonce, *selections),
            self.story,
            ak=self.ak,
            ek=self._tpm.ek,
            certificate=self._tpm.certificate,
            pcrs=pcrs,
            nonce=nonce,
        )
