"""A job's code from start to end, and every way in which it does not get there."""

from __future__ import annotations

import json
import struct
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sandboxing import LIMITS, OUTPUTS, ask, job, run
from svetovid.assets import AssetReader, open_asset, seal_dataset, seal_stream
from svetovid.crypto import Identity
from svetovid.errors import (
    HostError,
    IntegrityError,
    ParseError,
    Reason,
    RefusalError,
    SvetovidError,
)
from svetovid.host import inbox as inbox_module
from svetovid.host import runner
from svetovid.host.runner import run_sandboxed
from svetovid.policy.outputs import MetricSpec, OutputSpec, TensorSpec


def refusal(script: str, **changes: Any) -> SvetovidError:
    with pytest.raises(SvetovidError) as e:
        run(script, **changes)
    assert e.value.reason.next_step
    assert "LEAK" not in json.dumps(e.value.to_dict())
    return e.value


def test_the_whole_way() -> None:
    events: list[Any] = []
    kept: list[bytes] = []
    script = """
    import svetovid.training as sv
    sv.log(n=3)
    sv.progress(1, 2)
    session.checkpoint(b"state")
    assert sys.argv == ["/code/main.py", "--fast", "x"], sys.argv
    assert sv.parameters() == {"lr": 0.5, "name": "y", "deep": True}
    answer(session.seed)
    """
    result = run_sandboxed(
        job(
            script,
            arguments=("--fast", "x"),
            parameters={"lr": 0.5, "name": "y", "deep": True},
            seed=42,
        ),
        on_event=events.append,
        on_checkpoint=kept.append,
    )
    assert result.outputs["answer"].endswith(struct.pack("<q", 42))
    assert result.metrics == {"n": [3]}
    assert events == [{"done": 1, "total": 2}]
    assert kept == [b"state"]
    assert result.nan == {"answer": 0}
    assert 0 < result.timings["start_s"] < result.timings["sandbox_s"]


def test_code_in_packages_and_folders() -> None:
    files = {
        "src/go.py": b"import helper, package.part\n"
        b"from svetovid.training import _session\n"
        b"import struct, json\n"
        b"t = json.dumps({'x': {'dtype': 'I64', 'shape': [1], 'data_offsets': [0, 8]}}).encode()\n"
        b"n = struct.pack('<q', helper.N + package.part.N)\n"
        b"_session.current().save('answer', struct.pack('<Q', len(t)) + t + n)\n",
        "src/helper.py": b"N = 1",
        "package/part.py": b"N = 2",
    }
    result = run_sandboxed(job("", code=files, entry="src/go.py"))
    assert result.outputs["answer"][-8] == 3


def sealed(alice: Identity, name: str, content: bytes) -> AssetReader:
    manifest, key = seal_stream(
        f"memory://{name}",
        [content],
        kind="model",
        name=name,
        owner=alice.key_id,
        manager=alice.key_id,
    )
    return open_asset(f"memory://{name}", manifest, key, expected=manifest.digest())


def test_assets_are_read_and_cannot_be_written(alice: Identity) -> None:
    """T8: neither through the mapping nor through the descriptor, sealed or opened anew."""
    setup = """
    import mmap
    content = session.content("m")
    content.wait(6)
    slot = session._slot("m")
    read = bytes(content.buffer)
    attempts = [
        lambda: os.write(slot["data"], b"x"),
        lambda: mmap.mmap(slot["data"], 6),
        lambda: os.ftruncate(slot["data"], 1),
        lambda: os.write(os.open(f"/proc/self/fd/{slot['data']}", os.O_RDWR), b"x"),
        lambda: os.write(slot["mark"], b"x"),
    ]
    """
    with sealed(alice, "runner-model", b"secret") as reader:
        got = ask("read == b'secret' and all(map(refused, attempts))", setup, models={"m": reader})
    assert got == 1


SCAN = """
mask = {mask!r}
start, rest = bytes(b ^ 0x55 for b in mask[:8]), mask[8:]
if session.resume() is not None:
    planted = session.resume()
found = 0
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as mem:
    for line in maps.readlines():
        span, rights = line.split()[:2]
        if rights[0] != "r" or "[v" in line:
            continue
        low, high = (int(x, 16) for x in span.split("-"))
        mem.seek(low)
        try:
            data = mem.read(high - low)
        except OSError:
            continue
        at = data.find(start)
        while at >= 0:
            found += bytes(b ^ 0x55 for b in data[at + 8:at + 32]) == rest
            at = data.find(start, at + 1)
        del data
"""
"""Counts a 32-byte key in all of a script's memory; only 8 bytes of it are the scan's own."""


def test_no_key_is_in_the_sandbox(alice: Identity) -> None:
    """T8. The same scan does find a key that was planted there."""
    manifest, key = seal_stream(
        "memory://runner-key",
        [b"secret"],
        kind="model",
        name="k",
        owner=alice.key_id,
        manager=alice.key_id,
    )
    scan = SCAN.format(mask=bytes(b ^ 0x55 for b in key.reveal()))
    setup = "session.content('m').wait(6)\n" + scan
    with open_asset("memory://runner-key", manifest, key, expected=manifest.digest()) as reader:
        assert ask("found", setup, models={"m": reader}) == 0
        assert ask("found > 0", setup, models={"m": reader}, resume=key.reveal()) == 1


def test_an_altered_asset_ends_the_job(alice: Identity, tmp_path: Path) -> None:
    path = tmp_path / "m"
    url = path.as_uri()
    manifest, key = seal_stream(
        url,
        [bytes(100_000)],
        kind="model",
        name="m",
        owner=alice.key_id,
        manager=alice.key_id,
    )
    with open_asset(url, manifest, key, expected=manifest.digest()) as reader:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(IntegrityError) as e:
            run_sandboxed(
                job("session.content('m').wait(100_000)\nanswer(1)", models={"m": reader})
            )
    assert e.value.code == "asset.altered"


def test_t12_nothing_is_decrypted_for_a_lease_that_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("decrypts")

    monkeypatch.setattr(runner, "Feed", never)
    stop = threading.Event()
    stop.set()
    with pytest.raises(RefusalError) as e:
        run_sandboxed(job("answer(1)"), stop=stop)
    assert e.value.code == "sandbox.stopped"


def test_stop_kills_within_a_second() -> None:
    """T12, with a script that ignores every signal it can and a child that does so too."""
    script = """
    import signal, time
    for s in range(1, 65):
        try:
            signal.signal(s, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    os.fork()
    os.setsid() if os.getpid() != os.getsid(0) else None
    wire.send("progress", done=1, total=1) if os.getpid() == wire._pid else None
    time.sleep(60)
    """
    stop = threading.Event()
    at: list[float] = []

    def on_event(_: object) -> None:
        at.append(time.monotonic())
        stop.set()

    with pytest.raises(SvetovidError) as e:
        run_sandboxed(job(script), on_event=on_event, stop=stop)
    assert e.value.code == "sandbox.stopped"
    assert time.monotonic() - at[0] < 1


def test_stop_does_not_wait_for_a_slow_callback() -> None:
    stop = threading.Event()
    killed: list[float] = []
    original = runner.Sandbox.kill

    def kill(self: runner.Sandbox) -> None:
        killed.append(time.monotonic())
        original(self)

    begun: list[float] = []

    def slow(_: object) -> None:
        begun.append(time.monotonic())
        stop.set()
        time.sleep(0.8)

    with pytest.MonkeyPatch.context() as m:
        m.setattr(runner.Sandbox, "kill", kill)
        with pytest.raises(SvetovidError) as e:
            run_sandboxed(job("session.checkpoint(b'x')"), on_checkpoint=slow, stop=stop)
    assert e.value.code == "sandbox.stopped"
    assert killed[0] - begun[0] < 0.5


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("pass", "output.missing"),
        ("session.save('LEAK', b'')", "output.unknown"),
        ("answer(1); answer(2)", "output.repeated"),
        ("session.save('answer', b'x')", "output.malformed"),
        (
            "session.save('answer', file({'x': ('I64', [1], bytes(8))}, "
            "{'__metadata__': {'LEAK': 'LEAK'}}))",
            "output.metadata",
        ),
        ("session.save('answer', file({'LEAK': ('I64', [1], bytes(8))}))", "output.schema"),
        ("session.save('answer', file({'x': ('F64', [1], bytes(8))}))", "output.schema"),
        ("session.save('answer', bytes(100_000))", "output.limit"),
        ("session.checkpoint(bytes(2000))", "checkpoint.limit"),
        ("wire.send('metric', name='LEAK', value=1)", "metric.unknown"),
        ("wire.send('metric', name='n', value=1.5)", "metric.type"),
        ("[wire.send('metric', name='n', value=1) for _ in range(101)]", "metric.limit"),
        ("wire.send('ready')", "sandbox.protocol"),
        ("wire.send('LEAK')", "sandbox.protocol"),
        ("wire._sock.sendall(b'LEAK' * 1000)", "sandbox.protocol"),
        ("wire._sock.close(); import time; time.sleep(20)", "sandbox.died"),
        ("os._exit(7)", "sandbox.died"),
        ("os.kill(os.getpid(), 9)", "sandbox.died"),
        ("raise KeyError('LEAK')", "sandbox.script"),
        ("import LEAK", "sandbox.script"),
        ("this is not Python", "sandbox.script"),
    ],
)
def test_scripts_that_misbehave(script: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_DONE_S", 0.2)
    limits = LIMITS.model_copy(update={"checkpoint_bytes": 1000})
    assert refusal(script, limits=limits).code == code


def test_a_flood_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "_MAX_PROGRESS", 10)
    script = "for i in range(20): wire.send('progress', done=i, total=20)"
    assert refusal(script).code == "sandbox.flood"


def test_a_link_in_place_of_an_output_leads_nowhere() -> None:
    """Outputs are bytes on a channel, never files: a link in the sandbox's own /tmp is its own."""
    script = """
    os.symlink("/etc/shadow", "/tmp/answer")
    os.symlink("/proc/1/root/etc/shadow", "/tmp/answer.safetensors")
    got = [refused(lambda: open(p)) for p in ("/tmp/answer", "/tmp/answer.safetensors")]
    answer(all(got))
    """
    assert run(script).outputs["answer"][-8] == 1


def test_outputs_count_against_one_limit() -> None:
    limits = LIMITS.model_copy(update={"output_bytes": 10})
    assert refusal("answer(1)", limits=limits).code == "output.limit"


def test_what_is_written_anew_counts() -> None:
    """Our own form of an output may be a little longer than what the script sent."""
    script = """
    body = json.dumps({"x": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}},
                      separators=(",", ":")).encode()
    sent = struct.pack("<Q", len(body)) + body + bytes(8)
    assert len(sent) == 70
    session.save("answer", sent)
    """
    limits = LIMITS.model_copy(update={"output_bytes": 72})
    assert len(run(script, limits=limits).outputs["answer"]) == 72
    for less in (70, 71):
        limits = LIMITS.model_copy(update={"output_bytes": less})
        assert refusal(script, limits=limits).code == "output.limit"


def test_resume_hands_the_checkpoint_in() -> None:
    script = "answer(int(bytes(session.resume())) if session.resume() is not None else 0)"
    assert run(script).outputs["answer"][-8] == 0
    assert run(script, resume=b"23").outputs["answer"][-8] == 23


def test_records_reach_the_script_by_schema(alice: Identity) -> None:
    numpy = pytest.importorskip("numpy")
    columns = {
        "x": numpy.arange(6, dtype="<i2").reshape(3, 2),
        "y": numpy.array([7, 8, 9], dtype="uint8"),
    }
    manifest, key = seal_dataset(
        "memory://runner-rows", columns, name="rows", owner=alice.key_id, manager=alice.key_id
    )
    setup = """
    schema = session.schema("rows")
    content = session.content("rows")
    content.wait(15)
    rows = list(struct.iter_unpack("<hhB", content.buffer))
    """
    with open_asset("memory://runner-rows", manifest, key, expected=manifest.digest()) as reader:
        datasets = {"rows": reader}
        assert ask("rows == [(0, 1, 7), (2, 3, 8), (4, 5, 9)]", setup, datasets=datasets) == 1
        assert ask("schema['records'] * 10 + len(schema['fields'])", setup, datasets=datasets) == 32


def test_metrics_of_both_types() -> None:
    agreed = {
        "n": MetricSpec(type="int", max_count=2),
        "loss": MetricSpec(type="float", max_count=2),
    }
    script = "import svetovid.training as sv\nsv.log(n=2.0, loss=1)\nanswer(0)"
    assert run(script, metrics=agreed).metrics == {"n": [2], "loss": [1.0]}


def test_t9_a_refusal_repeats_nothing_that_the_sandbox_wrote() -> None:
    """A dtype, a duplicate key or a length in a bad output could spell out a record; so could which
    tensor is wrong, or how many are."""
    said = ParseError.from_reasons(
        [Reason("output.malformed", "PATIENT", "PATIENT", "PATIENT")] * 3
    )
    quiet = runner._without_words(said)
    assert type(quiet) is ParseError
    assert "PATIENT" not in str(quiet)
    assert [r.code for r in quiet.reasons] == ["output.malformed"]
    script = RefusalError("sandbox.script", observed="ValueError")
    assert runner._without_words(script).reason.observed == "ValueError"


def _said(script: str, **changes: Any) -> tuple[str, ...]:
    with pytest.raises(SvetovidError) as e:
        run(script, **changes)
    return tuple(map(str, e.value.reasons))


def test_t9_which_output_or_tensor_is_wrong_is_not_told() -> None:
    """Sixteen outputs to leave out are sixteen bits; so are the names in a refusal."""
    spec = OutputSpec(tensors={f"t{n}": TensorSpec(dtype="int64", shape=(1,)) for n in range(4)})
    two = {"answer": OUTPUTS["answer"], "other": OUTPUTS["answer"]}
    save = "session.save({!r}, file({{'x': ('I64', [1], bytes(8))}}))".format
    assert _said(save("answer"), outputs=two) == _said(save("other"), outputs=two)
    wrong = "session.save('answer', file({{'t{}': ('F64', [1], bytes(8))}}))".format
    assert _said(wrong(1), outputs={"answer": spec}) == _said(wrong(2), outputs={"answer": spec})
    tight = LIMITS.model_copy(update={"output_bytes": 300})
    huge = "answer(1) if {} else None; session.save('other', bytes(100_000))".format
    assert _said(huge(0), outputs=two, limits=tight) == _said(huge(1), outputs=two, limits=tight)


def test_a_checkpoint_that_cannot_be_kept_says_why() -> None:
    def full(_: bytes) -> None:
        raise HostError("storage.full", observed="no space", next_step="make room")

    with pytest.raises(HostError) as e:
        run_sandboxed(job("session.checkpoint(b'x')"), on_checkpoint=full)
    assert (e.value.code, e.value.reason.next_step) == ("storage.full", "make room")


def test_t12_nothing_is_taken_after_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the sandbox could not be killed at once, what it goes on to send is not heard."""
    stop = threading.Event()
    heard: list[float] = []
    kill = runner.Sandbox.kill

    def late(self: runner.Sandbox) -> None:
        time.sleep(1.0)
        kill(self)

    def on_event(_: object) -> None:
        heard.append(time.monotonic())
        stop.set()

    monkeypatch.setattr(runner.Sandbox, "kill", late)
    script = "import time\nwhile True: wire.send('progress', done=1, total=1); time.sleep(0.01)"
    with pytest.raises(SvetovidError) as e:
        run_sandboxed(job(script), on_event=on_event, stop=stop)
    assert e.value.code == "sandbox.stopped"
    assert heard[-1] - heard[0] < 0.5


@pytest.mark.parametrize("code", ["sandbox.stopped", "sandbox.wall", "feed.failed"])
def test_t12_who_says_done_after_the_end_hands_nothing_out(
    code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease, the time or the feed was lost while the last message was taken: no outputs."""
    stop, killed = threading.Event(), threading.Event()
    feeds: list[runner.Feed] = []
    kill, finish = runner.Sandbox.kill, runner.Inbox.finish

    class Feed(runner.Feed):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            feeds.append(self)

    def seen(self: runner.Sandbox) -> None:
        killed.set()
        kill(self)

    def late(self: runner.Inbox) -> None:
        finish(self)
        if code == "sandbox.stopped":
            stop.set()
        elif code == "feed.failed":
            feeds[0].failed = HostError("feed.failed", expected="a feed", next_step="look")
        assert killed.wait(20)

    monkeypatch.setattr(runner, "Feed", Feed)
    monkeypatch.setattr(runner.Sandbox, "kill", seen)
    monkeypatch.setattr(runner.Inbox, "finish", late)
    wall_s = 2 if code == "sandbox.wall" else LIMITS.wall_s
    limits = LIMITS.model_copy(update={"wall_s": wall_s})
    with pytest.raises(SvetovidError) as e:
        run_sandboxed(job("answer(1)", limits=limits), stop=stop)
    assert e.value.code == code
