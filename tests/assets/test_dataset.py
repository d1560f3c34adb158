"""Datasets: typed records in, the same bytes out at random."""

from __future__ import annotations

import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.sealed import WHO, code_of, fresh_url
from svetovid.assets import FieldSpec, RecordSchema, open_asset, seal_dataset, seal_stream

np = pytest.importorskip("numpy")


def test_rows_of_columns_become_records() -> None:
    x = np.arange(50 * 6, dtype=np.float32).reshape(50, 2, 3)
    y = np.arange(50, dtype=np.int64) * -3
    ok = (np.arange(50) % 3 == 0).astype(np.bool_)
    url = fresh_url()
    manifest, key = seal_dataset(url, {"x": x, "y": y, "ok": ok}, name="d", **WHO)
    schema = manifest.record_schema
    assert schema is not None
    assert schema.fields == (
        FieldSpec(name="x", dtype="float32", shape=(2, 3)),
        FieldSpec(name="y", dtype="int64"),
        FieldSpec(name="ok", dtype="bool"),
    )
    assert schema.offsets == {"x": (0, 24), "y": (24, 32), "ok": (32, 33)}
    rows = np.empty(50, dtype=[("x", "<f4", (2, 3)), ("y", "<i8"), ("ok", "?")])
    rows["x"], rows["y"], rows["ok"] = x, y, ok
    with open_asset(url, manifest, key, expected=manifest.digest()) as reader:
        assert reader.read_at(0, reader.size) == rows.tobytes()
        two = bytearray(2 * schema.record_bytes)
        reader.read_into(7 * schema.record_bytes, two)
        assert two == rows[7:9].tobytes()


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 40),
    st.lists(st.sampled_from(["?", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]), min_size=1),
)
def test_every_dtype_and_count(records: int, dtypes: list[str]) -> None:
    rng = np.random.default_rng(records)
    columns = {
        f"c{i}": rng.integers(0, 2, (records, i % 3 + 1)).astype(d) for i, d in enumerate(dtypes)
    }
    rows = np.empty(records, [(k, c.dtype, c.shape[1:]) for k, c in columns.items()])
    for k, c in columns.items():
        rows[k] = c
    url = fresh_url()
    manifest, key = seal_dataset(url, columns, name="d", chunk_bytes=64, **WHO)
    with open_asset(url, manifest, key, expected=manifest.digest()) as reader:
        assert reader.read_at(0, reader.size) == rows.tobytes()


def test_one_column_needs_no_numpy() -> None:
    url = fresh_url()
    manifest, key = seal_dataset(url, {"x": array.array("i", range(9))}, name="d", **WHO)
    with open_asset(url, manifest, key, expected=manifest.digest()) as reader:
        assert reader.read_at(3 * 4, 4) == (3).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({}, "dataset.columns"),
        ({"a": np.zeros(3), "b": np.zeros(4)}, "dataset.columns"),
        ({"a": np.zeros((4, 4)).T[:, :2]}, "dataset.layout"),
        ({"a": np.zeros((4, 0))}, "dataset.layout"),
        ({"a": np.float32(1)}, "dataset.layout"),
        ({"a": [1, 2, 3]}, "dataset.layout"),
        ({"a": np.zeros(3, ">f4")}, "dataset.dtype"),
        ({"a": np.zeros(3, "u2")}, "dataset.dtype"),
        ({"a": np.zeros(3, "c8")}, "dataset.dtype"),
        ({"a": np.zeros(3, [("x", "i4")])}, "dataset.dtype"),
        ({"Not a name": np.zeros(3)}, "document.invalid"),
        ({"а": np.zeros(3)}, "document.invalid"),
        ({f"c{i}": np.zeros(1) for i in range(257)}, "document.invalid"),
    ],
)
def test_columns_that_cannot_be_records(columns: dict[str, object], code: str) -> None:
    assert code_of(lambda: seal_dataset(fresh_url(), columns, name="d", **WHO)) == code


@pytest.mark.parametrize(
    "change",
    [
        {"fields": [{"name": "x", "dtype": "uint8"}, {"name": "x", "dtype": "uint8"}]},
        {"fields": [{"name": "x", "dtype": "uint8", "shape": [1 << 31]}]},
        {"fields": [{"name": "x", "dtype": "uint8", "shape": [0]}]},
        {"fields": [{"name": "x", "dtype": "float128"}]},
        {"records": -1},
    ],
)
def test_schemas_that_cannot_be(change: dict[str, object]) -> None:
    value = {"fields": [{"name": "x", "dtype": "uint8"}], "records": 1} | change
    assert code_of(lambda: RecordSchema.from_json(value)) == "document.invalid"


def test_schema_that_does_not_fit_the_content_stores_nothing() -> None:
    schema = RecordSchema(fields=(FieldSpec(name="x", dtype="uint8"),), records=4)
    url = fresh_url()

    def act() -> object:
        return seal_stream(url, [b"abc"], kind="dataset", name="d", record_schema=schema, **WHO)

    assert code_of(act) == "document.invalid"
    manifest, _ = seal_stream(url, [b"abcd"], kind="dataset", name="d", record_schema=schema, **WHO)
    assert manifest.record_schema == schema
