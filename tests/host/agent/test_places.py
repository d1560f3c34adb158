"""No job writes over what belongs to another, whatever it and its outputs are called (T9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import httpx
import pytest

from agentworld import TRAIN, World, trained
from svetovid.errors import InputError, SvetovidError
from svetovid.host.deliver import deliver, present, put
from svetovid.host.places import Places
from svetovid.host.progress import ProgressNotes
from svetovid.policy.documents import Job
from svetovid.protocol.output import OutputPackage
from svetovid.transparency import METRICS

Make = Callable[..., World]


@pytest.fixture
def world(make: Make) -> World:
    return make()


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(SvetovidError) as e:
        act()
    return e.value.code


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def renamed(job: Job, name: str, *outputs: str) -> Job:
    spec = job.outputs["answer"]
    return job.model_copy(update={"name": name, "outputs": dict.fromkeys(outputs, spec)})


# -- names


def files(places: Places, outputs: list[str], managers: list[str]) -> Iterator[str]:
    """All that a job may leave at any time."""
    yield from (places.progress, places.claim, *(places.receipt(m) for m in managers))
    for n in (1, 2, 10):
        yield from (f"{places.checkpoint}.{n}", f"{places.checkpoint}.{n}.manifest.json")
    for name in outputs:
        url = places.output(name)
        yield from (url, f"{url}.manifest.json", f"{url}.package.json")


def test_t9_no_two_jobs_have_a_file_name_in_common(world: World) -> None:
    """T9: however their names and their outputs' names are put together out of dots."""
    other = "ed25519:" + "1" * 64
    managers = [world.job.code.manager, other]
    words = ["x", "model", "sealed", "checkpoint", "receipt", "progress", "claim", "json", "1"]
    words += ["manifest", "package", METRICS, "1" * 16]
    names = [*words, *(f"{a}.{b}" for a, b in product(words, words)), "x.", "x..1", "x.sealed.json"]
    seen: dict[str, str] = {}
    for job in names:
        for url in files(Places("memory://", renamed(world.job, job)), names, managers):
            assert seen.setdefault(url, job) == job
    assert len(seen) == len(names) * (10 + 3 * len(names))  # nor one job two files


def test_t9_a_job_does_not_replace_an_output_of_another(world: World) -> None:
    """T9: output ``model`` of job ``x.model``, and ``model.model`` of job ``x``."""
    theirs, mine = renamed(world.job, "x.model", "model"), renamed(world.job, "x", "model.model")
    for job, name in ((theirs, "model"), (mine, "model.model")):
        places = Places(f"file://{world.out}/", job)
        places.check()
        places.take()
        deliver(job, name, b"weights", places.output(name))
    packages = [OutputPackage.parse(p.read_bytes()) for p in world.out.glob("*.package.json")]
    assert {p.job: p.output for p in packages} == {
        theirs.digest(): "model",
        mine.digest(): "model.model",
    }


# -- two jobs of one name


def test_the_outputs_of_another_job_are_not_overwritten(world: World) -> None:
    world.run()
    before = contents(world.out)
    other = world.propose()
    with pytest.raises(InputError) as e:
        world.run(other)
    assert (e.value.code, e.value.exit_code) == ("output.exists", 2)
    assert world.job.digest() in e.value.reason.observed
    assert contents(world.out) == before
    assert world.data_house.client(world.carol).job(other.digest()).releases == 0


@pytest.mark.parametrize(
    ("script", "at", "left", "answer"),
    [
        (TRAIN, "/v1/heads", "train.checkpoint.1", trained()),
        ("answer(7)", "/v1/finishes", "train.answer.sealed", 7),
    ],
)
def test_t11_what_another_unfinished_job_left_is_not_overwritten(
    make: Make, monkeypatch: pytest.MonkeyPatch, script: str, at: str, left: str, answer: int
) -> None:
    world = make(script=script)

    class CrashError(BaseException):
        pass

    def fall(request: httpx.Request) -> None:
        if request.url.path == at:
            raise CrashError

    with monkeypatch.context() as m:
        m.setattr("svetovid.host.agent._Run._give_back", lambda *_: None)
        m.setattr(world.data_house.gate, "tap", fall)
        with pytest.raises(CrashError):
            world.run()
    world.data_house.ahead += world.lease_s + 1
    before = contents(world.out)
    assert left in before
    other = world.propose()
    assert refused(lambda: world.run(other)) == "output.exists"
    assert contents(world.out) == before
    assert world.answer(world.run()) == answer


def test_a_job_that_left_nothing_holds_no_name(make: Make) -> None:
    world = make(script="raise ValueError")
    assert refused(world.run) == "sandbox.script"
    other = world.propose()
    assert refused(lambda: world.run(other)) == "sandbox.script"


def test_of_two_jobs_at_once_the_first_to_write_has_the_name(world: World) -> None:
    prefix = f"file://{world.out}/"
    first, second = Places(prefix, world.job), Places(prefix, world.propose())
    for places in (first, second):
        places.check()
    first.take()
    first.take()
    assert refused(second.take) == "output.exists"
    assert refused(second.check) == "output.exists"
    again = Places(prefix, world.job)
    (world.out / "train.answer.sealed").write_bytes(b"my own, from before a crash")
    again.check()
    again.take()


def test_an_unreadable_claim_is_somebodys(world: World) -> None:
    places = Places(f"file://{world.out}/", world.job)
    for junk in (b"", b"[]", b'{"job":1}', b"\xff", b'{"job":"sha256:0"}', b" " * 2000):
        (world.out / "train.claim.json").write_bytes(junk)
        assert refused(places.check) == "output.exists"
        assert refused(places.take) == "output.exists"
        assert contents(world.out) == {"train.claim.json": junk}


# -- files that are no job's


def test_t9_a_file_that_is_no_output_is_not_overwritten(world: World) -> None:
    """T9: an owner's sealed asset, say, in the folder that the outputs go to."""
    for name in (
        "train.answer.sealed",
        "train.answer.sealed.manifest.json",
        "train.answer.sealed.package.json",
        "train.metrics.sealed",
        "train.receipt.json",
    ):
        (world.out / name).write_bytes(b"an owner's")
        assert refused(world.run) == "output.taken"
        assert contents(world.out) == {name: b"an owner's"}
        (world.out / name).unlink()
    assert world.data_house.client(world.carol).job(world.job.digest()).releases == 0


def test_t9_nor_one_that_came_after_the_job_began(world: World) -> None:
    places = Places(f"file://{world.out}/", world.job)
    places.check()
    (world.out / "train.answer.sealed").symlink_to("nowhere")
    assert refused(places.take) == "output.taken"
    assert not (world.out / "train.claim.json").exists()


def test_t9_a_second_managers_receipt_is_looked_for_as_well(make: Make) -> None:
    world = make(houses=2)
    places = Places(f"file://{world.out}/", world.job)
    assert places.receipt(world.code_house.key).endswith("/train.receipt.json")
    put(places.receipt(world.data_house.key), b"another's")
    assert refused(places.check) == "output.taken"


# -- folders


def test_a_folder_with_a_space_is_the_same_for_all(world: World, tmp_path: Path) -> None:
    """What is looked for, removed and written is one file, also where a URL has escapes."""
    folder = tmp_path / "my óutputs"
    folder.mkdir()
    prefix = f"{folder.as_uri()}/"
    assert "%20" in prefix
    places = Places(prefix, world.job)
    with ProgressNotes(world.job, places.progress):
        pass
    places.take()
    for _ in range(2):  # the second replaces what an earlier run left
        deliver(world.job, "answer", b"weights", places.output("answer"))
    assert {p.name for p in folder.iterdir()} >= {"train.progress.json", "train.answer.sealed"}
    assert refused(Places(prefix, world.propose()).check) == "output.exists"


def test_an_object_store_is_a_place_as_well(world: World) -> None:
    first, second = (Places("memory://places/", j) for j in (world.job, world.propose()))
    put("memory://places/train.receipt.json", b"another's")
    assert refused(first.check) == "output.taken"
    assert present("memory://places/train.receipt.json")
    third = Places("memory://places/more-", world.job)
    third.take()
    assert refused(Places("memory://places/more-", world.propose()).check) == "output.exists"
    assert not present(second.claim)


def test_a_place_nobody_can_reach(world: World) -> None:
    assert refused(Places("http://example.com/", world.job).check) == "asset.url"
    assert refused(Places(f"file://{world.out}/no/such/folder/", world.job).take) == "asset.missing"
