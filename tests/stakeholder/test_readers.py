"""Data files as owners have them: held against NumPy, and hostile ones refused with our errors."""

from __future__ import annotations

import contextlib
import gzip
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svetovid.errors import InputError, SvetovidError
from svetovid.stakeholder.readers import MAX_DATA_BYTES, read_columns

DTYPES = ["bool", "u1", "i1", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8"]


def _code(path: Path) -> str:
    with pytest.raises(SvetovidError) as e:
        read_columns(path)
    assert e.value.exit_code == 2
    assert e.value.reason.next_step
    return e.value.code


def _npy(header: str, data: bytes = b"", version: int = 1) -> bytes:
    raw = header.encode("latin-1")
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(raw)) + raw + data


@settings(max_examples=30)
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
    compressed=st.booleans(),
)
def test_npz_reads_what_numpy_wrote(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, shape: tuple[int, ...], compressed: bool
) -> None:
    array = np.random.default_rng(1).integers(0, 2, shape).astype(dtype)
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    (np.savez_compressed if compressed else np.savez)(path, x=array, y=array[:, ...])
    columns = read_columns(path)
    assert list(columns) == ["x", "y"]
    assert columns["x"].dtype == array.dtype.name
    assert columns["x"].shape == shape
    assert bytes(columns["x"].data) == array.tobytes()


def test_npy_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6, dtype="<i4").reshape(3, 2))
    assert read_columns(tmp_path / "a.npy")["x"].shape == (3, 2)


@pytest.mark.parametrize(
    ("array", "code"),
    [
        (np.array([{"a": 1}], dtype=object), "data.dtype"),
        (np.array(["text"]), "data.dtype"),
        (np.arange(4, dtype=">i4"), "data.dtype"),
        (np.zeros(3, dtype=[("a", "<i4")]), "data.dtype"),
        (np.asfortranarray(np.zeros((2, 3))), "data.shape"),
        (np.zeros((0, 3)), "data.shape"),
        (np.float64(1.0), "data.shape"),
    ],
)
def test_arrays_that_are_no_records(tmp_path: Path, array: np.ndarray, code: str) -> None:
    np.savez(tmp_path / "a.npz", allow_pickle=True, x=array)
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as z, zipfile.ZipFile(tmp_path / "a.npz") as a:
        z.writestr("x.npy", a.read("x.npy"))
    assert _code(tmp_path / "b.npz") == code


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "data.malformed"),
        (b"\x93NUMPY\x01\x00", "data.malformed"),
        (b"\x93NUMPY\x09\x00\x00\x00", "data.malformed"),
        (_npy("__import__('os').system('true')"), "data.malformed"),
        (_npy("(" * 5000), "data.malformed"),
        (_npy("{'descr': '<f4'}"), "data.malformed"),
        (
            _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", b"\0" * 7),
            "data.malformed",
        ),
        (
            _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", b"\0" * 9),
            "data.malformed",
        ),
        (_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"), "data.shape"),
        (_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}"), "data.shape"),
        (_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)*9}"), "data.malformed"),
        (
            _npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({MAX_DATA_BYTES},)}}"),
            "data.size",
        ),
    ],
)
def test_hostile_npy(tmp_path: Path, data: bytes, code: str) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    assert _code(tmp_path / "a.npy") == code


def test_npz_bomb_ends_at_what_its_header_says(tmp_path: Path) -> None:
    header = _npy("{'descr': '|u1', 'fortran_order': False, 'shape': (10,)}")
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("x.npy", header + b"\0" * (64 << 20))
    assert _code(tmp_path / "a.npz") == "data.malformed"


def test_npz_with_one_name_twice_or_too_many(tmp_path: Path) -> None:
    member = io.BytesIO()
    np.save(member, np.zeros(2))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as z:
        z.writestr("x.npy", member.getvalue())
        with pytest.warns(UserWarning, match="Duplicate name"):
            z.writestr("x.npy", member.getvalue())
    assert _code(tmp_path / "a.npz") == "data.malformed"
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as z:
        for i in range(300):
            z.writestr(f"x{i}.npy", b"")
    assert _code(tmp_path / "b.npz") == "data.size"
    np.savez(tmp_path / "c.npz", Größe=np.zeros(2))
    assert _code(tmp_path / "c.npz") == "data.malformed"
    np.savez(tmp_path / "d.npz", a=np.zeros(2), b=np.zeros(3))
    assert _code(tmp_path / "d.npz") == "data.shape"


def test_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("age, size\n1,0.5\n2,1\n")
    columns = read_columns(tmp_path / "a.csv")
    assert columns["age"].dtype == "int64"
    assert np.frombuffer(columns["age"].data, "<i8").tolist() == [1, 2]
    assert columns["size"].dtype == "float64"
    assert np.frombuffer(columns["size"].data, "<f8").tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", "data.shape"),
        (b"a\n", "data.shape"),
        (b"a,a\n1,2\n", "data.malformed"),
        (b"a,b\n1\n", "data.malformed"),
        (b"a\nnan\n", "data.malformed"),
        (b"a\n1e999\n", "data.malformed"),
        (b"a\nhello\n", "data.malformed"),
        (b"a\n\xff\n", "data.malformed"),
        (b'a\n"1\n', "data.malformed"),
        (b"a\n\x00\n", "data.malformed"),
        (",".join(f"c{i}" for i in range(300)).encode() + b"\n", "data.malformed"),
    ],
)
def test_hostile_csv(tmp_path: Path, text: bytes, code: str) -> None:
    (tmp_path / "a.csv").write_bytes(text)
    assert _code(tmp_path / "a.csv") == code


def _idx(kind: int, shape: tuple[int, ...], data: bytes) -> bytes:
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + data


def test_idx(tmp_path: Path) -> None:
    images = np.arange(12, dtype="u1").reshape(3, 2, 2)
    raw = _idx(8, images.shape, images.tobytes())
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(raw)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(raw))
    for name in ("t10k-images-idx3-ubyte", "t10k-images-idx3-ubyte.gz"):
        columns = read_columns(tmp_path / name)
        assert columns["x"].shape == (3, 2, 2)
        assert bytes(columns["x"].data) == images.tobytes()


@pytest.mark.parametrize(("kind", "dtype"), [(11, "i2"), (12, "i4"), (13, "f4"), (14, "f8")])
def test_idx_is_big_endian(tmp_path: Path, kind: int, dtype: str) -> None:
    values = np.array([1, 2, 300], dtype=dtype)
    raw = _idx(kind, (3,), values.astype(">" + dtype).tobytes())
    (tmp_path / "a.idx").write_bytes(raw)
    column = read_columns(tmp_path / "a.idx")["label"]
    assert bytes(column.data) == values.astype("<" + dtype).tobytes()


def test_cifar10_in_its_binary_version(tmp_path: Path) -> None:
    """A label, then 1,024 bytes each of red, green and blue, row by row."""
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), np.uint8)
    labels = np.array([0, 9, 3, 3, 1], np.uint8)
    raw = b"".join(bytes([k]) + i.tobytes() for k, i in zip(labels, images, strict=True))
    for name in ("data_batch_1.bin", "test_batch.bin"):
        (tmp_path / name).write_bytes(raw)
        columns = read_columns(tmp_path / name)
        np.testing.assert_array_equal(np.asarray(columns["image"].view()), images)
        np.testing.assert_array_equal(np.asarray(columns["label"].view()), labels)
    for bad in (raw[:-1], raw + b"\0", b"\x0a" + raw[1:]):
        (tmp_path / "data_batch_1.bin").write_bytes(bad)
        assert _code(tmp_path / "data_batch_1.bin") == "data.malformed"
    (tmp_path / "data_batch_1.bin").write_bytes(b"")
    assert _code(tmp_path / "data_batch_1.bin") == "data.shape"
    (tmp_path / "firmware.bin").write_bytes(raw)
    assert _code(tmp_path / "firmware.bin") == "data.kind"


@given(
    data=st.binary(max_size=64),
    ending=st.sampled_from([".npz", ".npy", ".csv", ".idx", ".idx.gz", "data_batch_1.bin"]),
)
@settings(max_examples=60)
def test_any_bytes_give_columns_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, ending: str
) -> None:
    name = ending if ending.endswith(".bin") else f"a{ending}"
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(data)
    with contextlib.suppress(InputError):
        read_columns(path)


@pytest.mark.parametrize("cut", range(0, 40, 3))
def test_truncated(tmp_path: Path, cut: int) -> None:
    raw = _idx(8, (3, 2, 2), bytes(12))
    (tmp_path / "a.idx").write_bytes(raw[: min(cut, len(raw) - 1)])
    assert _code(tmp_path / "a.idx") == "data.malformed"
    packed = gzip.compress(raw)
    (tmp_path / "a.idx.gz").write_bytes(packed[: min(cut, len(packed) - 1)])
    assert _code(tmp_path / "a.idx.gz") == "data.malformed"


def test_other_endings_and_other_things(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"x")
    assert _code(tmp_path / "a.pkl") == "data.kind"
    assert _code(tmp_path / "missing.npz") == "file.unreadable"
    (tmp_path / "folder.npz").mkdir()
    assert _code(tmp_path / "folder.npz") == "file.unreadable"
