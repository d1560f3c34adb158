"""What outlives a crash, and what it refuses."""

from __future__ import annotations

import hmac
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from svetovid.crypto import Secret, canonical
from svetovid.errors import HostError, IntegrityError, RefusalError
from svetovid.offload.address import Mask, Rounding
from svetovid.offload.ledger import Ledger

MASTER = Secret(bytes(range(32)))
REUSE = re.escape("offload.reuse")


def begun(folder: Path, run: str = "run") -> Ledger:
    ledger = Ledger(folder / "ledger", run)
    ledger.begin()
    return ledger


def mask(ledger: Ledger, step: int = 0, tensor: str = "conv/x", role: str = "1") -> Mask:
    return Mask("run", ledger.attempt, step, tensor, role, 2**31 - 1)


def test_a_mask_is_used_once(tmp_path: Path) -> None:
    ledger = begun(tmp_path)
    ledger.use(mask(ledger))
    with pytest.raises(RefusalError, match=REUSE):
        ledger.use(mask(ledger))
    ledger.use(mask(ledger, role="u"))
    ledger.use(mask(ledger, tensor="conv/w"))
    ledger.use(mask(ledger, step=1))
    with pytest.raises(RefusalError, match=REUSE):
        ledger.use(mask(ledger, step=0, tensor="another"))


def test_what_is_done_again_has_other_masks(tmp_path: Path) -> None:
    ledger = begun(tmp_path)
    first = mask(ledger)
    ledger.use(first)
    ledger.begin()
    with pytest.raises(RefusalError, match=REUSE):
        ledger.use(first)
    again = ledger.use(mask(ledger))
    assert again.key(MASTER) != first.key(MASTER)


def test_nothing_is_masked_before_an_attempt_or_for_another_run(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger", "run")
    with pytest.raises(RefusalError, match=REUSE):
        ledger.use(mask(ledger))
    ledger.begin()
    with pytest.raises(RefusalError, match=REUSE):
        ledger.use(replace(mask(ledger), run="another"))


def test_attempts_and_places_outlive_a_crash(tmp_path: Path) -> None:
    ledger = begun(tmp_path)
    ledger.bind("worker a", 0)
    ledger.bind("worker b", 1)
    later = Ledger(tmp_path / "ledger", "run")
    assert later.begin() == ledger.attempt + 1
    later.bind("worker a", 0)
    with pytest.raises(RefusalError, match=re.escape("offload.point")):
        later.bind("worker a", 1)
    with pytest.raises(RefusalError, match=re.escape("offload.point")):
        ledger.bind("worker b", 2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[]",
        json.dumps({"run": "run", "attempt": "1", "points": {}}),
        json.dumps({"run": "run", "attempt": 1}),
        json.dumps({"run": "run", "attempt": 1, "points": {"a": "0"}}),
        json.dumps({"run": "run", "attempt": True, "points": {}}),
        json.dumps({"run": "run", "attempt": -5, "points": {}}),
        json.dumps({"run": "run", "attempt": 2**53 - 1, "points": {}}),
        json.dumps({"run": "run", "attempt": 1, "points": {"a": -1}}),
        json.dumps({"run": "run", "attempt": 1, "points": {}, "more": 1}),
        json.dumps({"run": "another", "attempt": 1, "points": {}}),
        " " * (1 << 17),
    ],
)
def test_a_ledger_that_is_none_of_this_run_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "ledger").write_text(text)
    with pytest.raises(IntegrityError, match=re.escape("offload.ledger")):
        Ledger(tmp_path / "ledger", "run")


def test_a_folder_is_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    with pytest.raises(IntegrityError, match=re.escape("offload.ledger")):
        Ledger(tmp_path / "ledger", "run")


def test_every_part_of_an_address_makes_another_key() -> None:
    one = Mask("run", 1, 2, "conv/x", "1", 7)
    others = [
        replace(one, run="nur"),
        replace(one, attempt=2),
        replace(one, step=3),
        replace(one, tensor="conv/w"),
        replace(one, role="u"),
        replace(one, p=11),
    ]
    keys = {a.key(MASTER) for a in (one, *others)}
    assert len(keys) == 7
    assert one.key(Secret(bytes(32))) not in keys
    rounding = Rounding("run", 2, "conv/x")
    assert len({r.key(MASTER) for r in (rounding, replace(rounding, step=1))} | keys) == 9


def test_a_key_is_that_of_the_specification() -> None:
    """HMAC-SHA-256 of the canonical form (RFC 8785), whatever the names."""
    for tensor in ("conv/x", 'ä\u2028\x1f\x7f"\\/', "𝄞"):
        mask = Mask("run", 1, 2, tensor, "1", 2**31 - 1)
        said = canonical(["mask", "run", 1, 2, tensor, "1", 2**31 - 1])
        assert mask.key(MASTER) == hmac.digest(MASTER.reveal(), said, "sha256")
        said = canonical(["rounding", "run", 2, tensor])
        expected = hmac.digest(MASTER.reveal(), said, "sha256")
        assert Rounding("run", 2, tensor).key(MASTER) == expected


def test_without_room_for_the_ledger_no_mask_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    ledger = begun(tmp_path)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(HostError, match=re.escape("offload.ledger")):
        ledger.begin()
