"""Which protection modes this release can keep the promise of.

A document may name every mode of the format. A key is released only for those that are built: a
mode that hides or checks data on untrusted workers must never fall back to one that does not.
"""

from __future__ import annotations

from svetovid.errors import PolicyError
from svetovid.policy.documents import Job

__all__ = ["BUILT", "NEXT_STEP", "NOT_BUILT", "require_available"]

NOT_BUILT = frozenset({"permuted", "verified"})
BUILT = "attested, enclave or masked"
NEXT_STEP = f"propose the job in {BUILT} mode, or wait for a release that has this one"


def require_available(job: Job) -> None:
    """Refuse a job in a mode that is not built (T17), before anybody is asked to consent.

    Raises:
        PolicyError: ``mode.unavailable``.
    """
    if job.mode in NOT_BUILT:
        raise PolicyError(
            "mode.unavailable",
            expected=BUILT,
            observed=job.mode,
            next_step=NEXT_STEP,
            clause=f"job {job.name} mode",
        )
