"""Where the files of one job go, so that no job writes over what belongs to another (T9).

Jobs and outputs are named by whoever proposes them, and an operator may have all outputs, and the
sealed assets as well, in one folder.

1. Names do not run into each other: both may hold dots, so an output's are written ``=`` in its
   file's name, which no name holds. What comes before the output's name is then the job's.
2. Two jobs may have one name. Before the first file that lasts, a job leaves a claim on its name;
   another job of that name is refused there.
3. A job without a claim has nothing there yet: whatever bears a name that it would write is
   somebody else's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from svetovid.assets.store import create, read_small
from svetovid.crypto import Digest, Document
from svetovid.errors import InputError, SvetovidError
from svetovid.host.deliver import present
from svetovid.policy.documents import Job
from svetovid.transparency import METRICS

__all__ = ["Places"]

_MAX_CLAIM = 1 << 10


class _Claim(Document):
    TYPE: ClassVar[str] = "output-claim"
    job: Digest


class Places:
    """The URLs of everything that a job leaves.

    Args:
        prefix: fsspec URL prefix, for example ``file:///srv/out/``.
        job: as agreed.

    Attributes:
        progress: of the newest progress note.
        checkpoint: prefix of the checkpoints.
        claim: of the claim on the job's name.
    """

    def __init__(self, prefix: str, job: Job) -> None:
        self._job = job
        self._base = f"{prefix}{job.name}"
        self._claimed = False
        self.progress = f"{self._base}.progress.json"
        self.checkpoint = f"{self._base}.checkpoint"
        self.claim = f"{self._base}.claim.json"

    def output(self, name: str) -> str:
        """The container of the output ``name``, or of the metrics."""
        return f"{self._base}.{name.replace('.', '=')}.sealed"

    def receipt(self, manager: str) -> str:
        """The receipt of one manager of the job; that of its code's manager has the plain name."""
        other = "" if manager == self._job.code.manager else f".{manager[8:24]}"
        return f"{self._base}.receipt{other}.json"

    def check(self) -> None:
        """Refuse a place where something of somebody else's would be written over.

        Raises:
            InputError: ``output.exists`` where another job of this name has a claim;
                ``output.taken`` where a file lies that is nobody's of this job.
            HostError: ``output.storage``.
        """
        holder = self._holder()
        self._claimed = holder == self._job.digest()
        if self._claimed:
            return
        if holder is not None:
            raise InputError(
                "output.exists",
                expected="a place without the outputs of another job",
                observed=f"{self.claim}, of {holder or 'no job'}",
                next_step="choose another folder with --outputs, or move that job's files away",
            )
        for url in self._lasting():
            if present(url):
                raise InputError(
                    "output.taken",
                    expected="no file yet under the names of this job's outputs",
                    observed=url,
                    next_step="choose another folder with --outputs, or move that file away",
                )

    def take(self) -> None:
        """Leave the claim, unless it is there; to be called before the first file that lasts.

        Raises:
            InputError: ``output.exists``, ``output.taken``: somebody was quicker.
                ``asset.exists`` at the same moment.
            HostError: ``output.storage``, ``asset.*``.
        """
        if self._claimed:
            return
        self.check()
        if not self._claimed:
            with create(self.claim) as sink:
                sink.write(_Claim(job=self._job.digest()).canonical())
            self._claimed = True

    def _holder(self) -> str | None:
        """The job that has the claim; None where there is none, "" where it is unreadable."""
        if not present(self.claim):
            return None
        try:
            return _Claim.parse(read_small(self.claim, _MAX_CLAIM), max_bytes=_MAX_CLAIM).job
        except SvetovidError:
            return ""

    def _lasting(self) -> Iterator[str]:
        for name in (*self._job.outputs, METRICS):
            url = self.output(name)
            yield from (url, f"{url}.manifest.json", f"{url}.package.json")
        for manager in self._job.managers:
            yield self.receipt(manager)
