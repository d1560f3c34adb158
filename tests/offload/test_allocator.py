"""Memory that a step frees stays with the process, until the end."""

from __future__ import annotations

import resource

import torch

from svetovid.offload.allocator import kept_memory


def faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_pages_are_used_again() -> None:
    before = faults()
    with kept_memory(), kept_memory():
        kept = min(faults() for _ in range(8))  # the heap grows until every hole fits
    assert kept < before / 4
    assert kept < faults() / 4
