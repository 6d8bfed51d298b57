"""The table of a run as Markdown, beside paper A's Table 5, and what Table 5 asks of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sonodistill_training.bench.deploy.headline import STUDENT, TEACHER, best_rows
from sonodistill_training.bench.deploy.setup import LEFT_OUT
from sonodistill_training.bench.deploy.variants import EAGER
from sonodistill_training.evaluate.tables.papers import TABLE_5
from sonodistill_training.evaluate.tables.published import TEACHER as TEACHER_ROW
from sonodistill_training.evaluate.tables.published import US, published

DASH = "—"
NETWORKS = {TEACHER_ROW: TEACHER, US: STUDENT}
"""The networks of Table 5's rows."""


def measured(result: Mapping[str, Any], row: str) -> dict[str, float]:
    """What a run has for a row of Table 5, by the table's own quantities.

    Speed and memory are those of the eager network in float32, as the paper measured, on one image, at the fewest
    threads of the run.

    Args:
        result: of ``bench_deploy``, or its ``deploy.json`` read again.
        row: "DINOv3 ViT-B/16" or "R50-Distill-US".
    """
    network = NETWORKS.get(row, "")
    found: dict[str, float] = {}
    cost = result["costs"].get(network)
    if cost:
        gmacs = {int(size): value for size, value in cost["gmacs"].items()}
        found |= {"encoder_parameters_millions": cost["encoder_millions"], "parameters_millions": cost["millions"]}
        found |= {"gflops": gmacs[256]} if 256 in gmacs else {}
    rows = [one for one in result["rows"] if (one["network"], one["variant"]) == (network, EAGER)]
    timed = [one for one in rows if "latency_ms_p50" in one]
    if timed:
        first = min(timed, key=lambda one: one["threads"])
        kind = "gpu" if first["device"] == "cuda" else "cpu"
        found[f"{kind}_latency_ms"] = first["latency_ms_p50"]
        found[f"{kind}_images_per_second"] = first["images_per_second"]["1"]
        if kind == "gpu" and first["gpu_allocated_mb"] is not None:
            found["gpu_peak_mb"] = first["gpu_allocated_mb"]
    return found


def markdown(result: Mapping[str, Any]) -> str:
    """The whole run as a page."""
    machine = result["hardware"]
    about = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    parts = [
        "# Deployment",
        f"{machine['processor']}, {machine['cores']} cores{', ' + machine['gpu'] if 'gpu' in machine else ''}; "
        f"{about}. Input {result['input_size']} x {result['input_size']} pixels, gray. Latency of one image: median "
        "and 95th percentile by the clock of the wall; processor time beside it leaves out what other processes took.",
        "## Beside Table 5 of paper A",
        _table_5(result),
        "## Costs",
        _costs(result["costs"]),
        "## Headline figures",
        _headline(result),
        "## Every row",
        _rows(result["rows"], result["batches"]),
        _like(result["ratios"]["like_for_like"]),
        _best(result["ratios"]["best_against_eager"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table_5(result: Mapping[str, Any]) -> str:
    printed = {(value.row, value.metric): value.value for value in published() if value.table == "5"}
    ours = {row: measured(result, row) for row in NETWORKS}
    threads = min(result["threads"])
    lines = []
    for metric, title in TABLE_5.items():
        cells = []
        for row in NETWORKS:
            value = ours[row].get(metric)
            shown = _shown(value, 2) if value is not None else "not measured here"
            cells += [shown, _shown(printed.get((row, metric)), 2)]
        lines.append([title, *cells])
    for row, network in NETWORKS.items():
        best = best_rows(result["rows"], network, threads)
        if best and best[0]["variant"] != EAGER:
            title = f"CPU latency, fastest here: {best[0]['variant']} (ms)"
            ours_best = [_shown(best[0]["latency_ms_p50"], 2), DASH]
            lines.append([title, *([*ours_best, "", ""] if row == TEACHER_ROW else ["", "", *ours_best])])
    heads = ["", f"{TEACHER}, here", "paper", f"{STUDENT}, here", "paper"]
    with_classifier = result["costs"].get(STUDENT, {}).get("with_classifier_millions")
    note = "Latency, throughput and memory here: eager float32, as the paper's; its machines are other ones."
    if with_classifier:
        note += f" The paper's 25 is a ResNet-50 with its classifier: {with_classifier:.2f}, cut to a whole number."
    return f"{_markdown(heads, lines)}\n\n{note}"


def _costs(costs: Mapping[str, Any]) -> str:
    if not costs:
        return ""
    sizes = list(next(iter(costs.values()))["gmacs"])
    heads = ["", "Encoder (10^6)", "All (10^6)", *(f"GMAC at {s}" for s in sizes), *(f"GFLOP at {s}" for s in sizes)]
    lines = [
        [
            name,
            *(f"{cost[key]:.2f}" for key in ("encoder_millions", "millions")),
            *(f"{cost[unit][size]:.2f}" for unit in ("gmacs", "gflops") for size in sizes),
        ]
        for name, cost in costs.items()
    ]
    note = (
        "MAC: multiply-accumulates of convolutions and linear layers with normalisation and interpolation, without "
        "attention's products; what the paper prints as GFLOPs. FLOP: two for each of them, and attention's."
    )
    return f"{_markdown(heads, lines)}\n\n{note}"


def _headline(result: Mapping[str, Any]) -> str:
    figures = {
        "ResNet-50 U-Net, eager float32 over its fastest runtime": result["student_best_vs_eager"],
        "Teacher with its head in eager float32 over the deployed ResNet-50 U-Net": result[
            "teacher_eager_vs_student_best"
        ],
        "ResNet-18 U-Net, fastest runtime (ms)": result["resnet18_unet_ms"],
        "Predictor over the bare runtime, less 1": result["predictor_overhead"],
        "End to end over the larger of decoding and inference": result["end_to_end_overlap"],
        "Points of Dice that int8 costs": result["int8_dice_cost_points"],
    }
    about = result["headline"]
    note = f"Ratios and ms: {about['threads']} thread(s), {about['clock']}, workers that took turns."
    return f"{_markdown(['', 'here'], [[name, _shown(value, 3)] for name, value in figures.items()])}\n\n{note}"


def _rows(rows: Sequence[Mapping[str, Any]], batches: Sequence[int]) -> str:
    judged = any("dice" in row for row in rows)
    heads = ["Network", "Runtime", "Threads", "p50 (ms)", "p95 (ms)", "processor p50 (ms)"]
    heads += [f"images/s, {batch}" for batch in batches]
    heads += ["Peak RSS (MB)", "above idle", "J/image", *(["Dice", "Dice points lost"] if judged else []), ""]
    lines = []
    for row in (one for one in rows if one["reason"] != LEFT_OUT):
        speeds = row.get("images_per_second", {})
        cells = [row["network"], row["variant"], str(row["threads"])]
        cells += [_shown(row.get(key), 1) for key in ("latency_ms_p50", "latency_ms_p95", "cpu_ms_p50")]
        cells += [_shown(speeds.get(str(batch)), 1) for batch in batches]
        cells += [_shown(row.get("peak_rss_mb"), 0), _shown(row.get("rss_above_idle_mb"), 0)]
        cells.append(_shown(row.get("joules_per_image"), 3))
        if judged:
            cells += [_shown(row.get("dice"), 4), _cost_of(row)]
        lines.append([*cells, row["reason"]])
    left_out = sum(row["reason"] == LEFT_OUT for row in rows)
    note = f"\n\nNot here: {left_out} rows that are {LEFT_OUT}." if left_out else ""
    return _markdown(heads, lines) + note


def _cost_of(row: Mapping[str, Any]) -> str:
    cost = row.get("dice_cost_points")
    low, high = row.get("dice_cost_interval") or (None, None)
    return _shown(cost, 2) + ("" if low is None or high is None else f" [{low:.2f}, {high:.2f}]")


def _like(groups: Mapping[str, Any]) -> str:
    lines = [
        [pair, threads, name, f"{ratio:.2f}"]
        for pair, by_threads in groups.items()
        for threads, found in by_threads.items()
        for name, ratio in found.items()
    ]
    heading = "## Ratios of latency, both in the same runtime and precision"
    return f"{heading}\n\n{_markdown(['', 'Threads', 'Both in', 'Ratio'], lines)}" if lines else ""


def _best(groups: Mapping[str, Any]) -> str:
    lines = [
        [network, threads, found["best"], f"{found['own_eager_over_best']:.1f}", _of_teacher(found)]
        for threads, by_network in groups.items()
        for network, found in by_network.items()
    ]
    heads = ["Network", "Threads", "Fastest", "Its own eager over it", f"Eager {TEACHER} over it"]
    heading = "## Ratios of latency, eager float32 over the fastest runtime"
    note = "These mix runtimes: they say what deployment gains, not how the networks compare."
    return f"{heading}\n\n{note}\n\n{_markdown(heads, lines)}" if lines else ""


def _of_teacher(found: Mapping[str, Any]) -> str:
    return f"{found['teacher_eager_over_best']:.1f}" if "teacher_eager_over_best" in found else ""


def _markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in heads[1:])]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (heads, rule, *lines)
    )


def _shown(value: float | None, decimals: int) -> str:
    return DASH if value is None else f"{value:,.{decimals}f}"
