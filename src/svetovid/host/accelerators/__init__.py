"""Accelerators that a job lists: found, lent to one job at a time, cleared between jobs (T8)."""

from svetovid.host.accelerators.clearing import Accelerators, Cleared
from svetovid.host.accelerators.nodes import Gpu, require

__all__ = ["Accelerators", "Cleared", "Gpu", "require"]
