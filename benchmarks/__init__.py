"""One file a benchmark, each with ``run(quick: bool) -> dict``; run by ``svetovid bench NAME``."""
