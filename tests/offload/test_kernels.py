"""The native kernels against numpy's integers and OpenSSL: every path, any number of threads."""

from __future__ import annotations

import ctypes
import math
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from offload import kernel_reference as reference
from svetovid.errors import HostError, InputError, IntegrityError, SvetovidError
from svetovid.offload import kernels

KEY, OTHER, ROUNDING = bytes(range(32)), bytes(range(1, 33)), b"\x80" * 32
M31 = 2**31 - 1
PRIMES = [3, 5, 251, 2**15 - 19, 2**16 + 1, 2**21 - 9, 2**24 - 3, M31]
SIZES = [0, 1, 2, 31, 1023, 1024, 1025, 3001]
PATHS = kernels.paths()
LARGEST = float(np.finfo(np.float32).max)
SMALLEST = 2.0**-149
CODED = [(2, -1), (3, -2), (4, -3)]
Array = np.ndarray[Any, np.dtype[Any]]

each_path = pytest.mark.parametrize("path", PATHS)
each_prime = pytest.mark.parametrize("p", PRIMES)


def residues(p: int, *shape: int, seed: int = 0) -> Array:
    drawn = np.random.default_rng(seed).integers(0, p, shape).astype(np.int32)
    edges = np.array([0, 1, (p - 1) // 2, (p + 1) // 2, p - 1], np.int32)
    drawn.reshape(-1)[: edges.size] = edges[: drawn.size]
    return drawn


def shared(
    x: Array, p: int, outs: list[tuple[int, int, int]], keys: list[bytes], **more: Any
) -> Any:
    shift = kernels.shift_of(kernels.absmax(x, **more))
    q = np.empty(x.size, np.int16)
    into = [np.empty(x.size, np.int32) for _ in outs]
    wanted = [(to, *out) for to, out in zip(into, outs, strict=True)]
    kernels.share(x, shift, ROUNDING, keys, p, q, wanted, **more)
    return shift, q, into


def check_shares(x: Array, p: int, **more: Any) -> None:
    outs = [(0, *coded) for coded in CODED] + [(1, -1, 1), (1, 0, -4), (0, -4, 0), (1, -2, 3)]
    shift, q, into = shared(x, p, outs, [KEY, OTHER], **more)
    expected = reference.quantised(x, shift, ROUNDING)
    assert np.array_equal(q, expected)
    masks = [reference.mask(key, p, x.size) for key in (KEY, OTHER)]
    for found, (which, alpha, beta) in zip(into, outs, strict=True):
        assert np.array_equal(found, (alpha * masks[which] + beta * expected) % p), (alpha, beta)


def test_the_paths_are_known() -> None:
    assert PATHS[-1] == "portable"
    assert set(PATHS) <= {"avx512", "avx2", "portable"}


@each_path
@each_prime
def test_a_mask_is_what_openssl_gives(path: str, p: int) -> None:
    for size in SIZES:
        out = np.empty(size, np.int32)
        kernels.expand(KEY, p, out, path=path)
        assert np.array_equal(out, reference.mask(KEY, p, size)), size


@each_path
def test_every_byte_of_the_key_matters(path: str) -> None:
    for i in range(32):
        key = bytes(1 << i % 8 if j == i else 0 for j in range(32))
        out = np.empty(8, np.int32)
        kernels.expand(key, M31, out, path=path)
        assert np.array_equal(out, reference.mask(key, M31, 8))


@each_path
def test_far_blocks_are_counted_right(path: str) -> None:
    size = 2**20 + 4096 + 5  # blocks whose number has more than two bytes
    out = np.empty(size, np.int32)
    if path == "portable":
        pytest.skip("seconds; it counts by the same lines")
    kernels.expand(KEY, 2**21 - 9, out, path=path, threads=2)
    assert np.array_equal(out, reference.mask(KEY, 2**21 - 9, size))


@each_path
@each_prime
def test_shares_are_what_the_integers_say(path: str, p: int) -> None:
    rng = np.random.default_rng(1)
    for size in SIZES:
        check_shares(rng.standard_normal(size).astype(np.float32), p, path=path)


EXTREMES = {
    "subnormal": [SMALLEST, -SMALLEST, 2.0**-130, -(2.0**-127)],
    "zeros": [0.0, -0.0, 0.0],
    "largest": [LARGEST, -LARGEST, LARGEST / 2, 1.0, -1.0, SMALLEST, -SMALLEST],
    "equal": [-0.3] * 2000,
    "powers": [2.0**i * s for i in range(-149, 128) for s in (1, -1)],
    "one huge, many tiny": [3e38, *[-SMALLEST, SMALLEST, -1e-30] * 1000],
    "tiny negatives, which the rounding number 0 leaves below 0": [3e38, *[-SMALLEST] * 200_000],
    "powers of two at the edge": [1.0, -1.0, np.nextafter(np.float32(1), np.float32(0))],
}


@each_path
@pytest.mark.parametrize("name", EXTREMES)
def test_extremes(path: str, name: str) -> None:
    check_shares(np.array(EXTREMES[name], np.float32), M31, path=path)


@given(
    x=hnp.arrays(np.float32, st.integers(0, 70), elements=st.floats(-LARGEST, LARGEST, width=32)),
    p=st.sampled_from(PRIMES),
    threads=st.integers(1, 3),
    path=st.sampled_from(PATHS),
)
@settings(max_examples=60, deadline=None)
def test_any_tensor(x: Array, p: int, threads: int, path: str) -> None:
    assert kernels.absmax(x, path=path) == np.abs(x).max(initial=0)
    check_shares(x, p, threads=threads, path=path)


@each_path
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_no_bit(path: str, threads: int) -> None:
    x = np.random.default_rng(2).standard_normal(5 * 1024 + 7).astype(np.float32)
    check_shares(x, 2**24 - 3, path=path, threads=threads)
    check_shares(x, 251, path=path, threads=threads)


@each_path
@pytest.mark.parametrize("greatest", [1e-45, 1e-38, 1e-30, 1.0, 2.0**23, 2.0**24, 1e30, 3e38])
@pytest.mark.parametrize("small", [-1e-45, -1e-38, 1e-45])
def test_numbers_beside_much_greater_ones_are_rounded_down(
    path: str, greatest: float, small: float
) -> None:
    """A product that a float would round to zero is below zero: one rounding number shows it."""
    x = np.full(1 << 16, small, np.float32)
    x[0] = greatest
    shift, q, _ = shared(x, M31, [], [KEY], path=path)
    assert np.array_equal(q, reference.quantised(x, shift, ROUNDING))


@each_path
@pytest.mark.parametrize("at", [0, 1, 1023, 1024, 4000])
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(path: str, at: int, bad: float) -> None:
    x = np.ones(4001, np.float32)
    x[at] = bad
    with pytest.raises(InputError) as said:
        shared(x, M31, [], [KEY], path=path, threads=2)
    assert said.value.code == "offload.nonfinite"


@each_path
@pytest.mark.parametrize("late", [math.nan, math.inf, -1.0000001, 1.0000001, -3e38])
def test_a_number_that_grew_after_its_shift_was_taken(path: str, late: float) -> None:
    """Nothing beyond [-128, 128] is shared: sums of it could wrap."""
    x = np.full(3000, -1.0, np.float32)
    x[2500] = late
    q, out = np.empty(x.size, np.int16), np.empty(x.size, np.int32)
    with pytest.raises(InputError) as said:
        kernels.share(x, 7, ROUNDING, [KEY], M31, q, [(out, 0, 2, -1)], path=path, threads=2)
    assert said.value.code == "offload.changed"
    assert np.abs(q).max() <= 128


@each_path
@each_prime
def test_packed_shares(path: str, p: int) -> None:
    rng = np.random.default_rng(3)
    for size in (0, 1, 1500):
        qs = [rng.integers(-32768, 32768, size).astype(np.int16) for _ in range(2)]
        outs = [(np.empty(size, np.int32), [c], [d, e]) for c, d, e in rng.integers(0, p, (5, 3))]
        outs += [(np.empty(size, np.int32), [-1], [-(2**70), 5])]
        kernels.mix(qs, [KEY], p, outs, path=path, threads=2)
        mask = reference.mask(KEY, p, size).astype(object)
        for out, (c,), (d, e) in outs:
            total = int(c) * mask + int(d) * qs[0].astype(object) + int(e) * qs[1].astype(object)
            assert np.array_equal(out, total % p)


COEFFICIENTS = [
    [3, -3, 1],
    [1],
    [-4, 4, -2, 2, -1],
    [1, 1, 1, -1],
    [0, 5, -7],
    [M31 // 2, -(10**12)],
]


@each_path
@each_prime
@pytest.mark.parametrize("coefficients", COEFFICIENTS)
def test_answers_are_put_together(path: str, p: int, coefficients: list[int]) -> None:
    for size in (0, 1, 2050):
        answers = [residues(p, size, seed=i) for i in range(len(coefficients))]
        out, integers = np.empty(size, np.float32), np.empty(size, np.int32)
        kernels.combine(answers, coefficients, p, 11, out, integers, path=path, threads=2)
        expected = reference.combined(answers, coefficients, p)
        assert np.array_equal(integers, expected)
        assert np.array_equal(out, reference.scaled(expected, 11))


@each_path
@pytest.mark.parametrize("shift", [-400, -242, -98, -97, 0, 12, 148, 160, 179, 180, 188, 400])
def test_floats_are_rounded_once(path: str, shift: int) -> None:
    """Subnormal results and infinite ones too."""
    answers = [residues(M31, 5000)]
    answers[0][5:70] = 2 ** np.arange(65) % M31 + 1
    out, again = np.empty(5000, np.float32), np.empty(5000, np.float32)
    kernels.combine(answers, [1], M31, shift, out, path=path)
    expected = reference.scaled(reference.combined(answers, [1], M31), shift)
    assert np.array_equal(out.view(np.int32), expected.view(np.int32))
    sums = np.empty(5000, np.int64)
    kernels.combine(answers, [1], M31, shift, again, sums, path=path)
    assert np.array_equal(again.view(np.int32), expected.view(np.int32))


@each_path
@pytest.mark.parametrize("threads", [1, 3])
def test_parts_are_added_as_integers(path: str, threads: int) -> None:
    size, parts, p = 2500, 5, M31
    answers = [residues(p, parts, size, seed=i) for i in range(3)]
    answers[0][:, 7], answers[1][:, 7], answers[2][:, 7] = 0, 0, p // 2
    out, sums = np.empty(size, np.float32), np.empty(size, np.int64)
    each = np.empty((parts, size), np.int32)
    expected = reference.combined(answers, [3, -3, 1], p)
    options: Any = {"path": path, "threads": threads}
    kernels.combine(answers, [3, -3, 1], p, 9, out, sums, **options)
    assert np.array_equal(sums, expected.sum(0))
    assert sums[7] == 5 * (p // 2)
    assert np.array_equal(out, reference.scaled(expected.sum(0), 9))
    kernels.combine(answers, [3, -3, 1], p, 9, out, each, **options)
    assert np.array_equal(each, expected)


@each_path
@pytest.mark.parametrize("bad", [-1, -(2**31), 2**21 - 9, 2**31 - 1])
@pytest.mark.parametrize("at", [0, 1023, 1024, 2999, 3000, 5999])
def test_t17_what_is_no_residue_is_refused_wherever_it_stands(path: str, bad: int, at: int) -> None:
    p = 2**21 - 9
    answers = [residues(p, 6000, seed=i) for i in range(4)]
    answers[1][at] = bad
    out = np.empty(3000, np.float32)
    with pytest.raises(IntegrityError) as said:
        kernels.combine(answers, [4, -6, 4, -1], p, 9, out, path=path, threads=2)
    assert said.value.code == "worker.residue"
    assert "answer 1," in said.value.reason.observed


SHAPES = [(0, 3, 4), (3, 0, 4), (3, 4, 0), (1, 1, 1), (3, 5, 7), (2, 1000, 1), (5, 300, 4)]
SHAPES += [(2, 257, 31), (3, 33, 32), (4, 9, 33), (1, 7, 2050), (2, 2, 4100)]


@each_path
@pytest.mark.parametrize("dtype", [np.int16, np.int32])
@pytest.mark.parametrize("p", [3, 2**21 - 9, M31])
@pytest.mark.parametrize("shape", SHAPES)
def test_contractions(path: str, dtype: type, p: int, shape: tuple[int, int, int]) -> None:
    bounds, rng = np.iinfo(dtype), np.random.default_rng(4)
    values = rng.integers(bounds.min, bounds.max, shape, dtype, endpoint=True)
    u, v = residues(p, shape[0]), residues(p, shape[1], seed=1)
    exact = values.astype(object)
    over_v = np.tensordot(exact, v.astype(object), (1, 0)) % p
    over_u = np.tensordot(u.astype(object), exact, (0, 0)) % p
    both = np.tensordot(u.astype(object), over_v, (0, 0)) % p
    for threads in (1, 3):
        options: Any = {"path": path, "threads": threads}
        for found, expected in (
            (kernels.contract(values, u, None, p, **options), over_u),
            (kernels.contract(values, None, v, p, **options), over_v),
            (kernels.contract(values, u, v, p, **options), both),
        ):
            assert found.dtype == np.int32
            assert found.shape == np.shape(expected)
            assert (found == expected).all()


@each_path
@pytest.mark.parametrize("dtype", [np.int16, np.int32])
@pytest.mark.parametrize("length", [1, 33])
@pytest.mark.parametrize("weight", [(M31 - 1) // 2, (M31 + 1) // 2])
@pytest.mark.parametrize("least", [True, False])
def test_long_sums_of_the_largest_do_not_wrap(
    path: str, dtype: type, length: int, weight: int, least: bool
) -> None:
    k, bounds = 2**18 + 11, np.iinfo(dtype)
    value = int(bounds.min if least else bounds.max)
    values = np.full((1, k, length), value, dtype)
    found = kernels.contract(values, None, np.full(k, weight, np.int32), path=path)
    assert (found == k * value * weight % M31).all()


@each_path
def test_t17_only_what_was_looked_at_is_used(path: str) -> None:
    """A worker that writes into its answer meanwhile is refused, or changes nothing."""
    size, part = 1 << 19, slice(500_000, 500_064)
    answer, first, done = np.full(size, 5, np.int32), np.zeros(size, np.int32), threading.Event()
    words = answer[part]

    def write() -> None:
        while not done.is_set():
            words[...] = -1
            words[...] = 5

    thread = threading.Thread(target=write)
    thread.start()
    out, integers = np.empty(size, np.float32), np.empty(size, np.int32)
    try:
        for _ in range(25 if path == "portable" else 200):
            try:
                kernels.combine([first, answer], [1, 1], M31, 0, out, integers, path=path)
                assert (integers[part] == 5).all()
            except IntegrityError as e:
                assert e.code == "worker.residue"  # noqa: PT017
    finally:
        done.set()
        thread.join()


_FLUSH_UP = 0x1F80 | 0x8040 | 0x4000
"""MXCSR: subnormals are 0 in and out, results are rounded up."""


@pytest.fixture
def odd_arithmetic() -> Iterator[None]:
    """This thread computes floats in another way, as a library may have set it."""
    machine = ctypes.CDLL(None)
    before = (ctypes.c_char * 64)()
    machine.fegetenv(before)
    other = (ctypes.c_char * 64).from_buffer_copy(before)
    ctypes.c_uint32.from_buffer(other, 28).value = _FLUSH_UP  # glibc's fenv_t on x86-64
    machine.fesetenv(other)
    yield
    after = (ctypes.c_char * 64)()
    machine.fegetenv(after)
    machine.fesetenv(before)
    assert ctypes.c_uint32.from_buffer(after, 28).value & ~0x3F == _FLUSH_UP


@pytest.mark.skipif(sys.platform != "linux" or "avx2" not in PATHS, reason="MXCSR is of x86-64")
@pytest.mark.usefixtures("odd_arithmetic")
@each_path
def test_the_thread_s_own_arithmetic_does_not_matter(path: str) -> None:
    x = np.array([SMALLEST, -SMALLEST, 2.0**-130, 3.3e-39] * 10, np.float32)
    big = np.array([LARGEST, *[-SMALLEST] * 200_000], np.float32)
    answers = [np.array([1, 3, 2**24 + 1, 2**24 + 3, M31 - 1], np.int32)]
    out = np.empty(5, np.float32)
    tiny = np.empty(5, np.float32)
    q, small = np.empty(x.size, np.int16), np.empty(big.size, np.int16)
    greatest = kernels.absmax(x, path=path)
    kernels.share(x, 94, ROUNDING, [KEY], M31, q, [], path=path)
    kernels.share(big, -121, ROUNDING, [KEY], M31, small, [], path=path)
    kernels.combine(answers, [1], M31, 0, out, path=path)
    kernels.combine(answers, [1], M31, 151, tiny, path=path)
    found = [out.tobytes(), tiny.tobytes()]
    machine = ctypes.CDLL(None)
    kept = (ctypes.c_char * 64)()
    machine.fegetenv(kept)
    machine.fesetenv(ctypes.c_void_p(-1))  # the default, for what is compared with
    try:
        assert greatest == np.abs(x).max()
        assert np.array_equal(q, reference.quantised(x, 94, ROUNDING))
        assert np.array_equal(small, reference.quantised(big, -121, ROUNDING))
        whole = reference.combined(answers, [1], M31)
        expected = [reference.scaled(whole, shift).tobytes() for shift in (0, 151)]
        assert found == expected
    finally:
        machine.fesetenv(kept)


def _unaligned(count: int, dtype: type) -> Array:
    size = np.dtype(dtype).itemsize
    return np.zeros(count * size + 1, np.uint8)[1:].view(dtype)


def _readonly(count: int, dtype: type) -> Array:
    array = np.zeros(count, dtype)
    array.flags.writeable = False
    return array


X, Q, OUT = np.zeros(10, np.float32), np.zeros(10, np.int16), np.zeros(10, np.int32)
WRONG = {
    "type of x": lambda: kernels.absmax(X.astype(np.float64)),
    "strided x": lambda: kernels.absmax(np.zeros(20, np.float32)[::2]),
    "unaligned x": lambda: kernels.absmax(_unaligned(10, np.float32)),
    "swapped bytes": lambda: kernels.absmax(X.astype(">f4")),
    "no thread": lambda: kernels.absmax(X, threads=0),
    "unknown path": lambda: kernels.absmax(X, path="mmx"),
    "short key": lambda: kernels.expand(KEY[1:], 5, OUT),
    "even p": lambda: kernels.expand(KEY, 2**20, OUT),
    "p of 0": lambda: kernels.expand(KEY, 0, OUT),
    "p too large": lambda: kernels.expand(KEY, 2**31 + 11, OUT),
    "out is read-only": lambda: kernels.expand(KEY, 5, _readonly(10, np.int32)),
    "unaligned out": lambda: kernels.expand(KEY, 5, _unaligned(10, np.int32)),
    "short q": lambda: kernels.share(X, 0, KEY, [KEY], 5, Q[1:], []),
    "short share": lambda: kernels.share(X, 0, KEY, [KEY], 5, Q, [(OUT[1:], 0, 1, 1)]),
    "no such mask": lambda: kernels.share(X, 0, KEY, [KEY], 5, Q, [(OUT, 1, 1, 1)]),
    "no mask from behind": lambda: kernels.share(X, 0, KEY, [KEY], 5, Q, [(OUT, -1, 1, 1)]),
    "shift too large": lambda: kernels.share(X, 95, KEY, [KEY], 5, Q, []),
    "shift too small": lambda: kernels.share(X, -122, KEY, [KEY], 5, Q, []),
    "no q": lambda: kernels.mix([], [KEY], 5, []),
    "q of two sizes": lambda: kernels.mix([Q, Q[1:]], [KEY], 5, []),
    "nine masks": lambda: kernels.mix([Q], [KEY] * 9, 5, []),
    "too few coefficients": lambda: kernels.mix([Q, Q], [KEY], 5, [(OUT, [1], [1])]),
    "no answer": lambda: kernels.combine([], [], 5, 0, X),
    "65 answers": lambda: kernels.combine([OUT] * 65, [1] * 65, 5, 0, X),
    "answers of two sizes": lambda: kernels.combine([OUT, OUT[1:]], [1, 1], 5, 0, X),
    "half an answer": lambda: kernels.combine([OUT[5:]], [1], 5, 0, X),
    "an answer and a half": lambda: kernels.combine([np.zeros(15, np.int32)], [1], 5, 0, X),
    "a scale too far": lambda: kernels.combine([OUT], [1], 5, 401, X),
    "integers of another type": lambda: kernels.combine([OUT], [1], 5, 0, X, Q),  # type: ignore[arg-type]
    "two axes": lambda: kernels.contract(Q.reshape(2, 5), None, OUT, 5),
    "no weights": lambda: kernels.contract(Q.reshape(1, 2, 5), None, None, 5),
    "too few weights": lambda: kernels.contract(Q.reshape(1, 2, 5), None, OUT[:1], 5),
    "a weight of p": lambda: kernels.contract(Q.reshape(1, 2, 5), None, OUT[:2] + 5, 5),
    "a weight below 0": lambda: kernels.contract(Q.reshape(1, 2, 5), OUT[:1] - 1, None, 5),
    "values of another type": lambda: kernels.contract(X.reshape(1, 2, 5), None, OUT[:2], 5),  # type: ignore[arg-type]
    "too few integers": lambda: kernels.combine([OUT], [1], 5, 0, X, OUT[1:]),
}


@pytest.mark.parametrize("name", WRONG)
def test_arrays_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(InputError) as said:
        WRONG[name]()
    assert said.value.code == "offload.arrays"
    assert said.value.reason.next_step


def test_without_the_compiled_module_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import svetovid.offload

    monkeypatch.delattr(svetovid.offload, "_native", raising=False)
    monkeypatch.setitem(sys.modules, "svetovid.offload._native", None)
    kernels._native.cache_clear()
    kernels.paths.cache_clear()
    try:
        with pytest.raises(HostError) as said:
            kernels.absmax(X)
    finally:
        kernels._native.cache_clear()
        kernels.paths.cache_clear()
    assert said.value.code == "offload.kernels"
    assert "g++" in said.value.reason.next_step
    assert isinstance(said.value, SvetovidError)
