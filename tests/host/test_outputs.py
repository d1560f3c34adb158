"""What may leave a sandbox (T9): the schema and nothing else."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svetovid.errors import LimitError, ParseError, PolicyError, RefusalError, SvetovidError
from svetovid.host import outputs
from svetovid.host.outputs import MAX_HEADER_BYTES, Metrics, count_nan, rebuild, size_of
from svetovid.policy.outputs import MetricSpec, OutputSpec, TensorSpec

SPEC = OutputSpec(
    tensors={
        "a": TensorSpec(dtype="uint8", shape=(3,)),
        "w": TensorSpec(dtype="float32", shape=(2, 2)),
    }
)
A, W = b"abc", struct.pack("<4f", 1, 2, 3, 4)
HEADER = {
    "w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "a": {"dtype": "U8", "shape": [3], "data_offsets": [16, 19]},
}


def file(header: Any = HEADER, body: bytes = W + A, pad: bytes = b"") -> bytes:
    text = (header if isinstance(header, bytes) else json.dumps(header).encode()) + pad
    return struct.pack("<Q", len(text)) + text + body


def changed(name: str, **fields: Any) -> dict[str, Any]:
    return {**HEADER, name: {**HEADER[name], **fields}}


def refusal(data: bytes, spec: OutputSpec = SPEC) -> SvetovidError:
    with pytest.raises(SvetovidError) as e:
        rebuild(data, spec)
    return e.value


def test_rebuilt_bytes_are_read_by_the_formats_own_library() -> None:
    st_numpy = pytest.importorskip("safetensors.numpy")
    data, nan = rebuild(file(), SPEC)
    tensors = st_numpy.load(data)
    assert tensors["w"].tolist() == [[1, 2], [3, 4]]
    assert bytes(tensors["a"]) == A
    assert nan == 0


def test_one_header_for_one_set_of_tensors() -> None:
    """Order, spaces, escapes and padding of what the script wrote do not survive."""
    swapped = {
        "a": {"data_offsets": [0, 3], "shape": [3], "dtype": "U8"},
        "w": {"dtype": "F32", "data_offsets": [3, 19], "shape": [2, 2]},
    }
    variants = [
        file(),
        file(pad=b" " * 4000),
        file(json.dumps(HEADER, indent=7).encode()),
        file(json.dumps(HEADER).replace('"w"', '"\\u0077"').encode()),
        file(swapped, A + W),
    ]
    assert len({rebuild(v, SPEC) for v in variants}) == 1


def test_rebuilding_again_changes_nothing() -> None:
    data, _ = rebuild(file(), SPEC)
    assert rebuild(data, SPEC)[0] == data


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({**HEADER, "__metadata__": {"leak": "x"}}, "output.metadata"),
        ({**HEADER, "__metadata__": {}}, "output.metadata"),
        ({"w": HEADER["w"]}, "output.schema"),
        ({**HEADER, "more": HEADER["a"]}, "output.schema"),
        (changed("w", dtype="F64"), "output.schema"),
        (changed("w", dtype="I32"), "output.schema"),
        (changed("w", dtype=["F32"]), "output.schema"),
        (changed("w", shape=[4]), "output.schema"),
        (changed("w", shape=[2, 2, 1]), "output.schema"),
        (changed("w", shape=[2, 2.0]), "output.schema"),
        (changed("w", shape=[2, True]), "output.schema"),
        (changed("w", shape="22"), "output.schema"),
        (changed("w", free="text"), "output.malformed"),
        ({**HEADER, "w": 1}, "output.malformed"),
        ({**HEADER, "w": {"dtype": "F32", "shape": [2, 2]}}, "output.malformed"),
        (changed("a", data_offsets=[17, 20]), "output.malformed"),  # a gap
        (changed("a", data_offsets=[13, 16]), "output.malformed"),  # an overlap
        (changed("a", data_offsets=[16, 18]), "output.malformed"),
        (changed("a", data_offsets=[16, 19, 19]), "output.malformed"),
        (changed("a", data_offsets=[16.0, 19]), "output.malformed"),
        (changed("a", data_offsets=[-3, 0]), "output.malformed"),
        (changed("a", data_offsets=16), "output.malformed"),
        ([1], "output.malformed"),
        (b'{"w": 1, "w": 2}', "json.duplicate_key"),
        (b"{" * 64, "json.depth"),
        (b"\xff", "json.syntax"),
        (b"", "json.syntax"),
    ],
)
def test_what_is_not_in_the_schema_is_refused(header: Any, code: str) -> None:
    assert refusal(file(header)).code == code


def test_bytes_beside_the_tensors_are_refused() -> None:
    assert refusal(file(body=W + A + b"hidden")).code == "output.malformed"
    assert refusal(file(body=W)).code == "output.malformed"


def test_truncated_at_every_byte() -> None:
    data = file()
    for end in range(len(data)):
        assert refusal(data[:end]).code in ("output.malformed", "json.syntax")


def test_header_length_beyond_the_file_and_beyond_the_bound() -> None:
    assert refusal(struct.pack("<Q", 2**63) + b"{}").code == "output.malformed"
    big = OutputSpec(tensors={"w": TensorSpec(dtype="uint8", shape=(2 * MAX_HEADER_BYTES,))})
    length = MAX_HEADER_BYTES + 1
    error = refusal(struct.pack("<Q", length) + bytes(length), big)
    assert isinstance(error, LimitError)
    assert error.code == "output.limit"


def test_huge_output_is_refused_before_it_is_looked_at() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 1 << 40

    assert refusal(Huge()).code == "output.limit"


def test_names_that_were_not_agreed_are_not_repeated() -> None:
    """They are free text from the sandbox; the error may be seen by the operator."""
    error = refusal(file({**HEADER, "LEAK": HEADER["a"]}))
    assert "LEAK" not in str(error)


def test_a_bool_is_zero_or_one() -> None:
    """Else seven bits of each would be free."""
    spec = OutputSpec(tensors={"b": TensorSpec(dtype="bool", shape=(2,))})
    header = {"b": {"dtype": "BOOL", "shape": [2], "data_offsets": [0, 2]}}
    assert rebuild(file(header, b"\0\1"), spec)
    assert refusal(file(header, b"\0\2"), spec).code == "output.malformed"


def test_changed_while_it_is_read_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """T8: memory that another process rewrites after the header was parsed. Fails without the
    copy: the rebuilt bytes would then hold what was never validated."""
    shared = bytearray(file())
    original = outputs.load_json

    def racing(data: bytes, **bounds: int) -> Any:
        header = original(data, **bounds)
        shared[:] = bytes(len(shared))
        shared[-3:] = b"\xffBD"
        return header

    monkeypatch.setattr(outputs, "load_json", racing)
    data, _ = rebuild(memoryview(shared), SPEC)
    assert data.endswith(W + A)


def test_empty_and_scalar_tensors() -> None:
    spec = OutputSpec(
        tensors={
            "none": TensorSpec(dtype="float32", shape=(0, 5)),
            "one": TensorSpec(dtype="int64", shape=()),
        }
    )
    header = {
        "none": {"dtype": "F32", "shape": [0, 5], "data_offsets": [0, 0]},
        "one": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]},
    }
    assert rebuild(file(header, bytes(8)), spec)[0].endswith(bytes(8))
    assert size_of(spec) == 8


@given(data=st.binary(max_size=200), prefix=st.booleans())
def test_any_bytes_give_our_errors_only(data: bytes, prefix: bool) -> None:
    """L1, T9."""
    if prefix:
        data = struct.pack("<Q", max(len(data) - 4, 0)) + data
    with pytest.raises(SvetovidError):
        rebuild(data, SPEC)


@given(
    values=st.lists(st.floats(width=64) | st.just(math.nan) | st.just(math.inf), max_size=40),
    dtype=st.sampled_from(["float64", "float32", "float16"]),
)
def test_nan_counts_agree_with_python(values: list[float], dtype: str) -> None:
    code = {"float64": "d", "float32": "f", "float16": "e"}[dtype]
    packed = b""
    for v in values:
        try:
            packed += struct.pack(f"<{code}", v)
        except OverflowError:
            packed += struct.pack(f"<{code}", math.inf)
    back = struct.unpack(f"<{len(values)}{code}", packed)
    assert count_nan(memoryview(packed), dtype) == sum(map(math.isnan, back))


@given(bits=st.lists(st.integers(0, 2**16 - 1), max_size=40))
def test_nan_counts_of_bfloat16(bits: list[int]) -> None:
    packed = b"".join(struct.pack("<H", b) for b in bits)
    wide = struct.unpack(f"<{len(bits)}f", b"".join(b"\0\0" + struct.pack("<H", b) for b in bits))
    assert count_nan(memoryview(packed), "bfloat16") == sum(map(math.isnan, wide))
    assert count_nan(memoryview(packed), "int16") == 0


def test_nan_is_allowed_and_counted() -> None:
    body = struct.pack("<4f", 1, math.nan, math.inf, math.nan) + A
    assert rebuild(file(body=body), SPEC)[1] == 2


AGREED = {
    "loss": MetricSpec(type="float", max_count=2),
    "hits": MetricSpec(type="int", max_count=1),
}


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("LEAK", 1.0, "metric.unknown"),
        ("loss", 1, "metric.type"),
        ("loss", True, "metric.type"),
        ("loss", "1", "metric.type"),
        ("loss", math.nan, "metric.type"),
        ("loss", math.inf, "metric.type"),
        ("hits", 1.0, "metric.type"),
        ("hits", True, "metric.type"),
    ],
)
def test_metrics_that_were_not_agreed(name: str, value: object, code: str) -> None:
    with pytest.raises(PolicyError) as e:
        Metrics(AGREED).add(name, value)
    assert e.value.code == code
    assert "LEAK" not in str(e.value)


def test_metrics_are_counted() -> None:
    metrics = Metrics(AGREED)
    metrics.add("loss", 0.5)
    metrics.add("loss", 0.25)
    metrics.add("hits", 3)
    assert metrics.values == {"loss": [0.5, 0.25], "hits": [3]}
    with pytest.raises(LimitError) as e:
        metrics.add("loss", 0.1)
    assert e.value.code == "metric.limit"


def test_errors_say_what_to_do() -> None:
    for error in (refusal(file(b"")), refusal(b""), refusal(file({"w": HEADER["w"]}))):
        assert isinstance(error, ParseError | RefusalError)
    assert refusal(file({"w": HEADER["w"]})).reason.next_step
