"""Write the README's figures from the committed results of the benchmarks; type none by hand.

Usage: ``python scripts/figures.py [--check | --stale]``

``--stale`` says which results measured code that has changed since; its exit status is 1 where one
is 30 days behind the commit.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._stamp import MEASURES, changed, long_unmeasured

ROOT = Path(__file__).resolve().parents[1]
MUTANTS = ROOT / "tests" / "mutants.json"
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- figures: made by scripts/figures.py -->", "<!-- end of figures -->"


class Row(NamedTuple):
    """One figure.

    Attributes:
        name, key: of the result.
        goal: what it must reach, a sign and a number; empty where it only must be told.
        spread: where in the result its range lies, dotted.
    """

    name: str
    key: str
    what: str
    goal: str = ""
    unit: str = ""
    spread: str = ""


def _stage(key: str, what: str) -> Row:
    return Row("train", key, what, "", " s", f"stages_s.{key}")


def _ratio(key: str, what: str, goal: str = "") -> Row:
    return Row("seal", key, what, goal, "", f"ratios.{key}")


ROWS = [
    Row(
        *("train", "ratio", "training step, sealed + attested + sandboxed over plain"),
        *("<= 1.05", "", "ratio_range"),
    ),
    _stage("startup_s", "what a job takes beside its steps, together"),
    _stage("measure_s", "— measuring the host's files"),
    _stage("attest_s", "— the quote"),
    _stage("release_s", "— the release"),
    _stage("open_s", "— opening the assets"),
    _stage("start_s", "— starting the sandbox, up to the script's first line"),
    _stage("decrypt_s", "— decrypting all records, while the script goes on"),
    _stage("command_s", "`svetovid host run`, one epoch, from the prompt to the prompt"),
    _stage("plain_s", "the same script run plainly, the same way"),
    _ratio("open_ratio", "opening verified chunks over bare AES-GCM ¹", ">= 0.7"),
    _ratio("first_open_ratio", "first opening, with the hash, over bare AES-GCM ¹", ">= 0.25"),
    _ratio("open_ratio_hot", "opening verified chunks over one hot buffer ²"),
    _ratio("first_open_ratio_hot", "first opening, with the hash, over one hot buffer ²"),
    Row("seal", "seal_gb_per_s", "sealing into a file, hashed and flushed", "", " GB/s"),
    Row("seal", "vs_age", "opening with the hash over `age -d`, start-up left out", ">= 2"),
    Row("seal", "random_1k_p50_us", "random 1 KiB record, median", "<= 60", " us"),
    Row("seal", "rss_mb_4gib", "resident memory for 4 GiB", "< 200", " MB"),
    Row(
        *("release", "p50_ms", "an agent that keeps its attester: challenge to keys, median ³"),
        *("<= 15", " ms", "block_ms"),
    ),
    Row("release", "p99_ms", "— 99th percentile ³", "", " ms"),
    Row("release", "manager_cpu_ms", "— the manager's processor time", "", " ms"),
    Row(
        *("release", "first_ms", "a new agent, as each `svetovid host run` starts one, median ³"),
        *("", " ms", "first_range_ms"),
    ),
    Row("release", "log_entries", "— entries of the whole log that it sends"),
    Row("release", "cold_ms", "— where it is the first that a manager hears, once ³", "", " ms"),
    Row("release", "errors", "errors with 64 hosts at once", "0"),
    Row(
        *("appraise", "incremental_per_s"),
        "appraisals a second, on one core: a quote and 50 new lines of the log",
        ">= 3000",
    ),
    Row("appraise", "incremental_p99_ms", "— 99th percentile", "<= 5", " ms"),
    Row(
        *("appraise", "ima_entries_per_s"),
        "entries a second of a whole log, on one core",
    ),
    Row(
        "appraise", "full_s", "a log of 100,000 entries, looked up", "<= 0.5", " s", "full.svetovid"
    ),
    Row("appraise", "vs_keylime", "— over Keylime's reader in the same run", ">= 2"),
    Row("appraise", "million_ratio", "— with 1,000,000 values over with 1,000", "<= 1.1"),
    Row("fleet", "hosts", "simulated hosts that attest every 10 s to one manager", ">= 2000"),
    Row("fleet", "p99_ms", "their pushes, 99th percentile", "<= 100", " ms"),
    Row("fleet", "lost", "hosts lost over a `kill -9` of the manager", "0"),
    Row("fleet", "patience_s", "— a host is lost that is not heard after", "", " s"),
    Row("fleet", "retried", "— pushes that failed over it, and were tried again"),
    Row("fleet", "recovered_s", "— until every host was heard again", "", " s"),
    Row("fleet", "drained_s", "— until no push took a second any more", "", " s"),
    *(
        Row("masked", key, what, goal, "", spread)
        for key, what, goal, spread in (
            (
                *("trusted_speedup", "masked mode, VGG11-BN, batch 512: inside over masked ⁴"),
                *(">= 2", "nets.vgg11_bn.speedup.masked"),
            ),
            (
                *("trusted_speedup_tls", "— workers behind TLS, on the loopback", ""),
                "nets.vgg11_bn.speedup.tls",
            ),
            (
                *("vs_bf16", "— against bfloat16 inside, on a processor without AMX", ""),
                "nets.vgg11_bn.speedup.bf16",
            ),
            ("conv512_speedup", "— convolutions to 512 channels, the worst of three", ">= 8", ""),
            (
                *("block_8x512_speedup", "— a transformer block, d = 2048, 8 x 512 tokens"),
                *(">= 4", "nets.block_8x512.speedup.masked"),
            ),
            (
                *("block_1x4096_speedup", "— and 1 x 4096", ">= 2.3"),
                "nets.block_1x4096.speedup.masked",
            ),
            (
                *("vs_crypten", "a training step of LeNet: CrypTen's seconds over ours ⁵"),
                *(">= 20", "crypten.ratio"),
            ),
            ("accuracy_points", "Fashion-MNIST ⁶, points behind fp32, worst of three", "<= 1", ""),
            ("products_ratio", "coded over improved Goten: products of workers", "<= 0.6", ""),
            ("operand_bytes_ratio", "— bytes of operands", "<= 0.75", ""),
            ("share_ratio", "— masking and sharing", "<= 0.97", "ratios.share_ratio"),
            (
                *("published_share_ratio", "— and over Goten as published", "<= 0.6"),
                "ratios.published_share_ratio",
            ),
            (
                *("kernel_gelem_s", "masking kernel, 10^9 numbers a second of one core", ">= 0.7"),
                "kernels.share",
            ),
            (
                *("kernel_ratio", "— over separate torch operations ⁷", ">= 15"),
                "ratios.kernel_ratio",
            ),
            ("kernel_in_place_ratio", "— and in place ⁷", ">= 15", "ratios.kernel_in_place_ratio"),
            ("combine_gelem_s", "combining kernel", ">= 0.8", "kernels.combine"),
            (
                *("combine_checked_gelem_s", "— with integers for the check", ""),
                "kernels.combine_integers",
            ),
            (
                *("combine_ratio", "— over separate torch operations ⁷", ">= 15"),
                "ratios.combine_ratio",
            ),
            (
                "combine_in_place_ratio",
                "— and in place ⁷",
                ">= 15",
                "ratios.combine_in_place_ratio",
            ),
        )
    ),
    Row("demo", "setup_s", "`make setup` in a clean clone, nothing cached", "< 600", " s"),
    Row("demo", "demo_s", "`make demo` after it", "< 120", " s", "demo_range_s"),
]

NOTES = (
    "¹ Over as many distinct ciphertexts as the container has chunks: the same bytes from memory.",
    "² Over one 256 KiB ciphertext again and again, which never leaves the processor's cache.",
    "³ The TPM's own time left out; over HTTPS, the decision on the disk.",
    "⁴ Processor seconds of one step in fp32, computed inside, over those of the trusted process "
    "while workers compute: transport, ledger, checks and optimiser included, waiting not. In a "
    "job a tensor is copied once each way beside it.",
    "⁵ By the clock, every layer sent. CrypTen trusts no machine; masked mode trusts one.",
    "⁶ The CNN of the main job, 12,000 images, two epochs, tried on 10,000 others.",
    "⁷ The same bits: each operation making its result, as PyTorch is written, its memory new each "
    "time; and in place, in buffers that are made once.",
)


def met(value: float, goal: str) -> str:
    if not goal:
        return ""
    sign, _, bound = goal.rpartition(" ")
    limit = float(bound)
    good = {"<=": value <= limit, ">=": value >= limit, "<": value < limit, "": value == limit}
    return "yes" if good[sign] else "**no**"


def shown(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _interval(result: dict[str, Any], spread: str) -> str:
    found: Any = result
    for part in spread.split(".") if spread else ():
        found = found.get(part, {})
    if not spread or "low" not in found:
        return ""
    return f" ({shown(found['low'])} to {shown(found['high'])})"


def results() -> dict[str, dict[str, Any]]:
    """The committed results by name."""
    paths = {name: RESULTS / f"{name}.json" for name in sorted(MEASURES)}
    return {name: json.loads(p.read_text()) for name, p in paths.items() if p.exists()}


def table() -> str:
    lines = ["| what | measured | must reach | reached |", "|---|---|---|---|"]
    held = results()
    for row in ROWS:
        result = held.get(row.name, {})
        value = result.get(row.key)
        if value is None:
            verdict = "**no**" if row.goal else ""
            lines.append(f"| {row.what} | not measured | {row.goal} | {verdict} |")
            continue
        told = f"{shown(float(value))}{row.unit}{_interval(result, row.spread)}"
        lines.append(f"| {row.what} | {told} | {row.goal} | {met(float(value), row.goal)} |")
    machines = {f"{r['machine']['cpu']}, {r['machine']['cores']} cores" for r in held.values()}
    taken = (f"{name} {result['date'][:10]} {_code(result)}" for name, result in held.items())
    lines += ["", *(f"{note}  " for note in NOTES), ""]
    lines.append(
        f"On {' and '.join(sorted(machines))}. In brackets the 95 % interval of the median. Taken: "
        f"{', '.join(taken)}. How: [docs/guide/benchmarks.md](docs/guide/benchmarks.md)."
    )
    return "\n".join([*lines, "", mutation()])


def mutation() -> str:
    """Of how many security checks a test notices the absence."""
    rooms = json.loads(MUTANTS.read_text())
    told = (f"{name} {r['killed']} of {r['sites']}" for name, r in sorted(rooms.items()))
    return (
        "Security checks whose absence a test notices, each taken away in turn (`make mutate`): "
        f"{', '.join(told)}."
    )


def _code(result: dict[str, Any]) -> str:
    commit = result.get("commit")
    return f"at `{commit[:12]}`" if commit else "before results named their code"


def stale() -> int:
    late = False
    for name, result in results().items():
        if paths := changed(result):
            overdue = long_unmeasured(result)
            late |= overdue
            print(f"{name}: changed since{', for long' * overdue}: {', '.join(paths)}")
    return int(late)


def main() -> int:
    if "--stale" in sys.argv:
        return stale()
    page = ROOT / "README.md"
    text = page.read_text()
    start, stop = text.index(BEGIN) + len(BEGIN), text.index(END)
    new = f"{text[:start]}\n{table()}\n{text[stop:]}"
    if "--check" in sys.argv:
        return int(new != text)
    page.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
