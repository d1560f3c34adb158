"""The image, built twice, and the main job in a guest that boots it.

Building needs the locked packages (from the cache or the network) and booting needs QEMU; without
them these tests are skipped and say why, or fail in continuous integration.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from attested_host.build import HERE, Image, build, is_current, load, lock
from attested_host.demo import enforce
from attested_host.lock import BuildError, cache_folder
from attested_host.machine import missing_tools
from attested_host.play.story import Story
from attested_host.play.trial import try_programs

Build = Callable[[Path], Image]
_UNFETCHED = ("cannot be fetched", "pip ")


@pytest.fixture(scope="module")
def build_in(
    tool: Callable[[str], str],
    lacking: Callable[[str], NoReturn],
    tmp_path_factory: pytest.TempPathFactory,
) -> Build:
    """Builds the image in a folder.

    Debian's archive drops a package when its successor comes, and its snapshot may be out of reach.
    Then today's packages will do here: a renewed lock gives another image, not another test.
    """
    for name in ("mksquashfs", "bwrap"):
        tool(name)
    locks = [HERE]

    def built(folder: Path) -> Image:
        try:
            return build(folder, "numpy", lambda _: None, locks=locks[-1])
        except BuildError as e:
            if not any(words in str(e) for words in _UNFETCHED):
                raise
            if len(locks) > 1:
                lacking(f"the packages are not at hand: {e}")
            locks.append(tmp_path_factory.mktemp("locks"))
            try:
                lock(locks[-1])
            except (BuildError, OSError) as no_lock:
                lacking(f"the locked packages are not at hand, nor today's: {no_lock}")
            return built(folder)

    return built


@pytest.fixture(scope="module")
def image(build_in: Build) -> Image:
    folder = cache_folder() / "images" / "numpy"
    return load(folder) if is_current(folder, "numpy") else build_in(folder)


@pytest.mark.timeout(600)
def test_the_same_inputs_give_the_same_bytes(image: Image, build_in: Build, tmp_path: Path) -> None:
    again = build_in(tmp_path / "somewhere" / "else")
    papers = ("references.json", "references.corim", "manifest.json")
    for name in ("attested-host.efi", "attested-host.img", *papers):
        assert (again.folder / name).read_bytes() == (image.folder / name).read_bytes(), name


@pytest.fixture(scope="module")
def story(
    image: Image, tmp_path_factory: pytest.TempPathFactory, lacking: Callable[[str], NoReturn]
) -> Iterator[Story]:
    if missing := missing_tools():
        lacking(f"a virtual machine needs {', '.join(missing)}")
    story = Story(tmp_path_factory.mktemp("vm"), image, lambda _: None)
    try:
        story.main_job()
        yield story
    finally:
        story.close()


@pytest.mark.timeout(600)
def test_t4_the_main_job_on_a_kernel_s_own_measurement(story: Story) -> None:
    """The owners accept a software TPM here, and no launcher; the model is that of plain data."""
    assert story.verdict[0] == "measurement: kernel"
    assert story.result.reasons("main") == []


@pytest.mark.timeout(600)
def test_f1_a_quote_is_good_once(story: Story) -> None:
    assert story.stale_quote() == {"challenge.used"}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "step",
    ["unapproved_file", "changed_module", "violation", "changed_command_line", "changed_block"],
)
def test_one_bad_step_is_refused(story: Story, step: str) -> None:
    """M4, M11, U9, T16: each from a world in which the job would run."""
    assert getattr(story, step)()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(os.geteuid() != 0, reason="signing programs takes root")
def test_the_enforcing_kernel_refuses_what_nobody_signed(
    image: Image, tmp_path: Path, lacking: Callable[[str], NoReturn]
) -> None:
    if missing := missing_tools():
        lacking(f"a virtual machine needs {', '.join(missing)}")
    enforce(tmp_path, lambda _: None)
    (tmp_path / "plain").mkdir()
    assert set(try_programs(image, tmp_path / "plain").values()) == {"done"}
