"""A limit of trusted memory that is kept, and bytes outside that nobody can change or put back."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from svetovid.errors import HostError, IntegrityError, LimitError
from svetovid.offload.store import Kept, TensorStore

MIB = 2**20
SEALED = re.escape("offload.sealed")


def filled(store: TensorStore, count: int = 6) -> list[Kept]:
    """So many tensors of a quarter of a MiB."""
    return [store.put(torch.full((65536,), float(i))) for i in range(count)]


def test_what_does_not_fit_is_sealed_and_comes_back(tmp_path: Path) -> None:
    store = TensorStore(1, tmp_path)
    kept = filled(store)
    for _ in range(2):
        for i, k in enumerate(kept):
            assert (store.take(k) == i).all()
            assert store.plain_bytes <= MIB
    assert store.sealed_bytes > 0
    for value in (torch.tensor(7.0), torch.zeros(0, 3), torch.tensor([True, False])):
        assert torch.equal(store.take(store.put(value)), value)
    store.put(torch.randn(8, 4).T)
    store.close()
    assert store.plain_bytes == 0
    assert list(tmp_path.iterdir()) == []


def test_nothing_readable_lies_outside(tmp_path: Path) -> None:
    store = TensorStore(0.25, tmp_path)
    marks = [store.put(torch.full((65536,), 0x5A5A5A5A, dtype=torch.int32)) for _ in range(3)]
    outside = os.pread(store._file, 1 << 22, 0)
    assert len(outside) >= 2 * MIB // 4
    assert b"ZZZZ" not in outside
    assert marks


@pytest.mark.parametrize("what", ["changed", "swapped", "put back", "cut off"])
def test_bytes_that_are_not_what_was_put_there_are_refused(tmp_path: Path, what: str) -> None:
    store = TensorStore(0.25, tmp_path)
    one, other = filled(store, 2)
    store.put(torch.zeros(65536))  # both are outside now
    length = 12 + one.size + 16
    if what == "changed":
        for at in (one.place, one.place + 12, one.place + length - 1):
            held = os.pread(store._file, 1, at)
            os.pwrite(store._file, bytes([held[0] ^ 1]), at)
            with pytest.raises(IntegrityError, match=SEALED):
                store.take(one)
            os.pwrite(store._file, held, at)
        assert (store.take(one) == 0).all()
    elif what == "swapped":
        os.pwrite(store._file, os.pread(store._file, length, other.place), one.place)
        with pytest.raises(IntegrityError, match=SEALED):
            store.take(one)
    elif what == "put back":
        old = os.pread(store._file, length, one.place)
        store.change(one, torch.ones(65536))
        store.put(torch.zeros(65536))
        assert (store.take(one) == 1).all()
        store.put(torch.zeros(65536))
        os.pwrite(store._file, old, one.place)
        with pytest.raises(IntegrityError, match=SEALED):
            store.take(one)
    else:
        os.ftruncate(store._file, one.place + 20)
        with pytest.raises(IntegrityError, match=SEALED):
            store.take(one)


def test_places_are_used_again_and_never_a_nonce(tmp_path: Path) -> None:
    store = TensorStore(0.25, tmp_path)
    nonces = set()
    for i in range(20):
        one, other = filled(store, 2)
        nonces.add(os.pread(store._file, 12, one.place))
        assert len(nonces) == i + 1
        store.drop(one)
        store.drop(other)
    assert store._end <= 4 * (12 + 65536 * 4 + 16)


def test_a_tensor_beyond_the_limit_and_a_folder_that_takes_none(tmp_path: Path) -> None:
    store = TensorStore(0.25, tmp_path)
    with pytest.raises(LimitError, match=re.escape("offload.memory")):
        store.put(torch.zeros(65537))
    kept = store.put(torch.zeros(3))
    with pytest.raises(ValueError, match="was put"):
        store.change(kept, torch.zeros(4))
    with pytest.raises(HostError, match=re.escape("offload.outside")):
        TensorStore(1, tmp_path / "none")


def test_training_under_a_limit_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    """Several times the limit is saved for the backward pass."""

    def trained(store: TensorStore | None) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(1936, 5)),
        )
        x, y = torch.randn(8, 1, 28, 28), torch.arange(8) % 5
        optimiser = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(3):
            optimiser.zero_grad()
            if store is None:
                loss = nn.functional.cross_entropy(model(x), y)
            else:
                with store.saving():
                    loss = nn.functional.cross_entropy(model(x), y)
                assert store.plain_bytes <= MIB
            loss.backward()
            optimiser.step()
        return [p.detach() for p in model.parameters()]

    store = TensorStore(1, tmp_path)
    for one, other in zip(trained(None), trained(store), strict=True):
        assert torch.equal(one, other)
    assert store.sealed_bytes > MIB
    assert store.plain_bytes == 0  # forgotten with the graph


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TensorStore(0.25, tmp_path)
    kept = store.put(torch.ones(65536))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(os, "pwrite", full)
        with pytest.raises(HostError, match=re.escape("offload.outside")):
            store.put(torch.zeros(65536))
    assert (store.take(kept) == 1).all()
    other = store.put(torch.zeros(65536))
    assert (store.take(kept) == 1).all()
    assert (store.take(other) == 0).all()


def test_a_forked_process_seals_nothing_under_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TensorStore(0.25, tmp_path)
    store.put(torch.ones(65536))
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="forked"):
        store.put(torch.zeros(65536))
