"""A kernel measures whenever it likes: evidence must explain what its quote covers."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from svetovid.crypto import Identity, b64decode, b64encode, sign
from svetovid.errors import LimitError, RefusalError
from svetovid.evidence import documents
from svetovid.evidence.documents import NO_SUBJECT, Challenge, JobKeys
from svetovid.evidence.ima import build_entry
from svetovid.host.attester import TpmAttester
from svetovid.host.measure import KernelLog
from svetovid.host.tpm import Quote, Tpm

NAMED = "sha256:" + "11" * 32


class Kernel:
    """A TPM whose quote takes a while, in which the kernel measures another file."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.measure("boot")

    def measure(self, name: str) -> None:
        with self._log.open("ab") as f:
            f.write(build_entry(f"/{name}", NAMED))

    def quote(self, _: bytes) -> Quote:
        self.measure("late")
        return Quote(b"attest", b"signature", {10: bytes(32)})

    def close(self) -> None: ...


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path / "ima")


@pytest.fixture
def attester(tmp_path: Path, kernel: Kernel) -> TpmAttester:
    return TpmAttester(cast(Tpm, kernel), KernelLog(tmp_path / "ima"), NAMED)


def test_evidence_holds_what_was_measured_until_the_quote(
    attester: TpmAttester, kernel: Kernel, tmp_path: Path, alice: Identity
) -> None:
    challenge = Challenge(
        nonce=b64encode(bytes(32)), manager=alice.key_id, host=NAMED, job=NAMED, role="finish",
        issued_at=0, expires_at=60, log_offset=1,
    )  # fmt: skip
    keys = JobKeys(receiving=b64encode(bytes(32)), signing=alice.key_id)
    kernel.measure("early")
    evidence = attester.evidence(sign(challenge, alice), keys, NAMED, NO_SUBJECT)
    whole = (tmp_path / "ima").read_bytes()
    assert evidence.log_offset == 1
    assert b64decode(evidence.log) == whole[len(build_entry("/boot", NAMED)) :]


def test_a_log_that_foreign_code_wrote_to_is_not_sent(
    kernel: Kernel, tmp_path: Path, alice: Identity
) -> None:
    """T9: neither as evidence nor with a receipt; ``late`` is a name of no file here."""
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    tpm = TpmAttester(cast(Tpm, kernel), KernelLog(tmp_path / "ima", runtime), NAMED)
    tpm.measure()
    challenge = Challenge(
        nonce=b64encode(bytes(32)), manager=alice.key_id, host=NAMED, job=NAMED, role="finish",
        issued_at=0, expires_at=60, log_offset=1,
    )  # fmt: skip
    keys = JobKeys(receiving=b64encode(bytes(32)), signing=alice.key_id)
    for act in (
        lambda: tpm.evidence(sign(challenge, alice), keys, NAMED, NO_SUBJECT),
        tpm.look_back,
        tpm.log,
        tpm.measure,
    ):
        with pytest.raises(RefusalError) as e:
            act()
        assert e.value.code == "measure.grew"
    tpm.close()


def test_a_log_that_no_manager_could_read_is_not_sent(
    monkeypatch: pytest.MonkeyPatch, attester: TpmAttester, kernel: Kernel, alice: Identity
) -> None:
    """T13: said before a release, with what to do about it; what is new is all that counts."""
    kernel.measure("early")
    challenge = Challenge(
        nonce=b64encode(bytes(32)), manager=alice.key_id, host=NAMED, job=NAMED, role="release",
        issued_at=0, expires_at=60,
    )  # fmt: skip
    keys = JobKeys(receiving=b64encode(bytes(32)), signing=alice.key_id)
    monkeypatch.setattr(documents, "MAX_EVIDENCE_LOG_BYTES", 250)
    with pytest.raises(LimitError, match=r"evidence\.log_size") as e:
        attester.evidence(sign(challenge, alice), keys, NAMED, NO_SUBJECT)
    assert "restart the host" in e.value.reason.next_step
    later = challenge.model_copy(update={"log_offset": 2})
    assert attester.evidence(sign(later, alice), keys, NAMED, NO_SUBJECT).log_offset == 2


def test_the_whole_log_is_the_kernel_s_own(
    attester: TpmAttester, kernel: Kernel, tmp_path: Path
) -> None:
    attester.measure()
    kernel.measure("late")
    assert attester.log() == (tmp_path / "ima").read_bytes()
    attester.close()
