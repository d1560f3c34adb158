"""The demo: a play with many parties, each a process of its own (T18)."""
