"""The TPM as the host uses it, against a real TPM 2.0 implementation."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from svetovid.crypto import Secret
from svetovid.errors import HostError, InputError, ParseError
from svetovid.evidence.tpm import NvAttr
from svetovid.evidence.tpm.attributes import check_ak, check_ek
from svetovid.evidence.tpm.credential import RANDOMNESS_BYTES, make_credential
from svetovid.evidence.tpm.names import endorsement_signers
from svetovid.evidence.tpm.quote import verify_quote
from svetovid.evidence.tpm.structures import Attest, parse_public
from svetovid.host.tpm import DEFAULT_PCRS, Quote, Tpm, commands, open_transport
from svetovid.host.tpm.templates import EkKind

COUNTER = 0x01800123
NONCE = bytes(range(32))


def _verify(tpm: Tpm, quote: Quote, nonce: bytes = NONCE) -> Attest:
    ek, ak = parse_public(tpm.ek()), parse_public(tpm.ak())
    return verify_quote(
        quote.attest,
        quote.signature,
        ak=ak,
        signers=endorsement_signers(ek, ak),
        extra_data=nonce,
        pcrs=quote.pcrs,
        needed=frozenset(quote.pcrs),
    )


def test_a_quote_verifies_and_follows_the_pcrs(tpm: Tpm) -> None:
    """T6."""
    first = tpm.quote(NONCE)
    assert tuple(first.pcrs) == DEFAULT_PCRS
    _verify(tpm, first)
    tpm.extend(10, b"\x01" * 32)
    second = tpm.quote(NONCE)
    assert second.pcrs[10] == hashlib.sha256(bytes(32) + b"\x01" * 32).digest()
    assert second.pcrs == tpm.read_pcrs()
    _verify(tpm, second)


def test_keys_are_what_enrolment_asks_for(tpm: Tpm) -> None:
    """T3, I1."""
    check_ak(parse_public(tpm.ak()))
    check_ek(parse_public(tpm.ek()))
    check_ek(parse_public(tpm.ek("rsa")))


@pytest.mark.parametrize("kind", ["ecc", "rsa"])
def test_credential_activation(tpm: Tpm, kind: EkKind) -> None:
    """T3."""
    secret = os.urandom(32)
    blob, seed = make_credential(
        tpm.ek(kind), tpm.ak(), secret, randomness=os.urandom(RANDOMNESS_BYTES)
    )
    assert tpm.activate_credential(blob, seed, kind).reveal() == secret


def test_a_credential_for_another_ak_is_not_activated(tpm: Tpm) -> None:
    """I3."""
    other = bytearray(tpm.ak())
    other[-1] ^= 1  # another name; whether the point is on the curve does not matter here
    blob, seed = make_credential(
        tpm.ek(), bytes(other), bytes(32), randomness=os.urandom(RANDOMNESS_BYTES)
    )
    with pytest.raises(HostError) as e:
        tpm.activate_credential(blob, seed)
    assert e.value.code == "tpm.rc"
    assert "INTEGRITY" in e.value.reason.observed


@pytest.mark.parametrize(
    ("blob", "seed"), [(b"", b"\0\1x"), (b"\0\2x", b"\0\1x"), (b"\0\1x", b"\0\1xy"), (b"\0\0",) * 2]
)
def test_a_malformed_credential_does_not_reach_the_tpm(tpm: Tpm, blob: bytes, seed: bytes) -> None:
    with pytest.raises(ParseError) as e:
        tpm.activate_credential(blob, seed)
    assert e.value.code == "tpm.credential"


def test_a_restart_keeps_the_keys_and_clears_the_pcrs(tmp_path: Path) -> None:
    spec = f"libtpms:{tmp_path / 'state'}"
    seen = []
    for _ in range(2):
        with Tpm(open_transport(spec)) as tpm:
            assert tpm.startup() is True
            assert tpm.startup() is False
            assert tpm.read_pcrs([10])[10] == bytes(32)
            tpm.extend(10, b"\x02" * 32)
            seen.append((tpm.ek(), tpm.ak(), _verify(tpm, tpm.quote(NONCE)).clock.reset_count))
    assert seen[0][:2] == seen[1][:2]
    assert seen[1][2] > seen[0][2]  # T12: a verifier sees the reset
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o600


_KILLED = """
import os, sys
from pathlib import Path
from svetovid.crypto import Secret
from svetovid.host.tpm import Tpm, open_transport
folder = Path(sys.argv[1])
tpm = Tpm(open_transport(f"libtpms:{folder / 'state'}"))
tpm.startup()
if not (folder / "sealed").exists():
    (folder / "sealed").write_bytes(tpm.seal_to_srk(Secret(b"root key")))
tpm.define_counter(0x01800123)
assert tpm.unseal((folder / "sealed").read_bytes()).reveal() == b"root key"
tpm.ak()
print(tpm.increment_counter(0x01800123), flush=True)
os.kill(os.getpid(), 9)
"""


def test_kill_9_locks_nothing_and_turns_no_counter_back(tmp_path: Path) -> None:
    """T15."""
    values = []
    for _ in range(5):
        run = subprocess.run(
            [sys.executable, "-c", _KILLED, str(tmp_path)], capture_output=True, text=True
        )
        assert run.returncode == -signal.SIGKILL, run.stderr
        values.append(int(run.stdout))
    assert values == sorted(set(values))


def test_seal_and_unseal(tpm: Tpm) -> None:
    blob = tpm.seal_to_srk(Secret(b"s" * 128))
    assert tpm.unseal(blob).reveal() == b"s" * 128
    altered = bytearray(blob)
    altered[20] ^= 1
    with pytest.raises(HostError, match=r"tpm.rc.*INTEGRITY") as e:
        tpm.unseal(bytes(altered))
    assert e.value.code == "tpm.rc"


def test_another_tpm_does_not_unseal(tmp_path: Path) -> None:
    with Tpm(open_transport(f"libtpms:{tmp_path / 'a'}")) as tpm:
        tpm.startup()
        blob = tpm.seal_to_srk(Secret(b"x"))
    with Tpm(open_transport(f"libtpms:{tmp_path / 'b'}")) as tpm:
        tpm.startup()
        with pytest.raises(HostError) as e:
            tpm.unseal(blob)
        assert e.value.code == "tpm.rc"


@pytest.mark.parametrize("size", [0, 129])
def test_seal_size(tpm: Tpm, size: int) -> None:
    with pytest.raises(InputError) as e:
        tpm.seal_to_srk(Secret(bytes(size)))
    assert e.value.code == "tpm.seal_size"


@pytest.mark.parametrize("cut", [0, 1, 2, 50, -1])
def test_what_is_no_sealed_object_is_refused(tpm: Tpm, cut: int) -> None:
    blob = tpm.seal_to_srk(Secret(b"x"))
    for bad in (blob[:cut], blob + b"x"):
        with pytest.raises(ParseError) as e:
            tpm.unseal(bad)
        assert e.value.code == "tpm.sealed"


def test_the_counter_only_rises(tpm: Tpm) -> None:
    """T15."""
    tpm.define_counter(COUNTER)
    start = tpm.read_counter(COUNTER)
    assert tpm.increment_counter(COUNTER) == start + 1
    tpm.define_counter(COUNTER)
    assert tpm.read_counter(COUNTER) == start + 1


def test_a_counter_that_was_never_counted_gets_a_value(tpm: Tpm) -> None:
    attributes = NvAttr.COUNTER | NvAttr.OWNERWRITE | NvAttr.OWNERREAD | NvAttr.NO_DA
    commands.nv_define(tpm._transport, COUNTER, attributes, 8)
    with pytest.raises(HostError, match="NV_UNINITIALIZED"):
        tpm.read_counter(COUNTER)
    tpm.define_counter(COUNTER)
    assert tpm.read_counter(COUNTER) > 0


def test_an_index_that_is_no_counter_is_refused(tpm: Tpm) -> None:
    commands.nv_define(tpm._transport, COUNTER, NvAttr.OWNERWRITE | NvAttr.OWNERREAD, 8)
    with pytest.raises(HostError) as e:
        tpm.define_counter(COUNTER)
    assert e.value.code == "tpm.nv"


def test_a_certificate_in_nv(tpm: Tpm) -> None:
    assert tpm.ek_certificate() is None
    der = b"\x30\x82" + (1200).to_bytes(2, "big") + os.urandom(1200)
    tpm.store_ek_certificate(der + b"\xff" * 40)
    assert tpm.ek_certificate() == der
    tpm.store_ek_certificate(b"\x30\x03abc", "rsa")
    assert tpm.ek_certificate("rsa") == b"\x30\x03abc"


def test_only_the_ak_stays_loaded(tpm: Tpm) -> None:
    for _ in range(4):
        tpm.quote(NONCE)
        tpm.unseal(tpm.seal_to_srk(Secret(b"x")))
        tpm.ek()
    assert len(commands.handles(tpm._transport, 0x80000000)) == 1
    assert commands.handles(tpm._transport, 0x02000000) == []


@pytest.mark.parametrize("pcrs", [(), (24,), (-1,)])
def test_pcr_numbers(tpm: Tpm, pcrs: tuple[int, ...]) -> None:
    with pytest.raises(InputError) as e:
        Tpm(tpm._transport, pcrs=pcrs)
    assert e.value.code == "tpm.pcrs"


@pytest.mark.parametrize(("pcr", "value"), [(24, bytes(32)), (10, bytes(20)), (-1, bytes(32))])
def test_extend_takes_a_pcr_and_32_bytes(tpm: Tpm, pcr: int, value: bytes) -> None:
    with pytest.raises(InputError) as e:
        tpm.extend(pcr, value)
    assert e.value.code == "tpm.pcrs"


@pytest.mark.parametrize("way", ["unix", "tcp"])
def test_swtpm(swtpm: Callable[[str], str], way: str) -> None:
    spec = swtpm(way)
    with Tpm(open_transport(spec)) as tpm:
        assert tpm.startup() is True
        tpm.extend(10, b"\x03" * 32)
        _verify(tpm, tpm.quote(NONCE))


def test_what_a_killed_client_left_in_swtpm_is_flushed(swtpm: Callable[[str], str]) -> None:
    spec = swtpm("unix")
    transport = open_transport(spec)
    first = Tpm(transport)
    first.startup()
    first.ak()
    for _ in range(2):
        commands.start_policy_session(transport)
    transport.close()  # without flushing: as if it had been killed
    path = Path(spec.removeprefix("swtpm:unix:"))
    if not path.exists():
        pytest.skip("this swtpm stops with its first client")
    with Tpm(open_transport(spec)) as tpm:
        assert tpm.startup() is False
        assert commands.handles(tpm._transport, 0x80000000) == []
        _verify(tpm, tpm.quote(NONCE))
