"""Svetovid: confidential multi-stakeholder machine learning.

Owners of data, code and models who do not trust each other, or the machine's operator, train and
serve models together. Each keeps a veto; keys are released only to hosts and code that have proven
themselves. Start with ``docs/guide`` or :mod:`svetovid.stakeholder`, :mod:`svetovid.host` and
:mod:`svetovid.manager`.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
