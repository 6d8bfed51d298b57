"""The few figures that a run is known by, each from workers that took turns, and the ratios of the whole table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sonodistill_training.bench.deploy.measure import Bench, Effort, Row, clock_ms, open_benches, take_turns
from sonodistill_training.bench.deploy.process import Child, ChildError
from sonodistill_training.bench.deploy.subjects import Subject
from sonodistill_training.bench.deploy.variants import EAGER, VARIANTS

TEACHER, STUDENT, SMALL = "teacher+light", "resnet50+unet", "resnet18+unet"
KEYS = ("student_best_vs_eager", "teacher_eager_vs_student_best", "resnet18_unet_ms", "predictor_overhead")
_CANDIDATES = 2
_PARTS = ("bare", "predictor", "decode", "end_to_end")


def best_rows(rows: Sequence[Row], network: str, threads: int, count: int = 1) -> list[Row]:
    """The fastest rows of a network on one image, by the clock of :func:`clock_ms`."""
    timed = [row for row in rows if row["network"] == network and row["threads"] == threads and clock_ms(row)]
    return sorted(timed, key=lambda row: clock_ms(row) or 0.0)[:count]


def ratios(rows: Sequence[Row], teacher: str = TEACHER, student: str = STUDENT) -> dict[str, Any]:
    """Ratios of latency in two groups that are not to be mixed.

    Returns:
        ``like_for_like``: by number of threads and variant, the teacher's time over the student's, both in the same
            runtime and precision.
        ``best_against_eager``: by number of threads and network, its own eager float32 time over that of its fastest
            runtime, which is named; for the student also the teacher's eager time over it, which mixes runtimes.
    """
    threads = sorted({row["threads"] for row in rows})
    times = {(row["network"], row["variant"], row["threads"]): clock_ms(row) for row in rows if clock_ms(row)}
    like: dict[str, dict[str, float]] = {}
    best: dict[str, dict[str, Any]] = {}
    for count in threads:
        pairs = ((name, times.get((teacher, name, count)), times.get((student, name, count))) for name in VARIANTS)
        like[str(count)] = {name: ours / theirs for name, ours, theirs in pairs if ours and theirs}
        best[str(count)] = {}
        for network in dict.fromkeys(row["network"] for row in rows):
            eager, fastest = times.get((network, EAGER, count)), best_rows(rows, network, count)
            if eager and fastest:
                fastest_ms = clock_ms(fastest[0]) or 1.0
                found: dict[str, Any] = {"best": fastest[0]["variant"], "own_eager_over_best": eager / fastest_ms}
                of_teacher = times.get((teacher, EAGER, count))
                if network == student and of_teacher:
                    found["teacher_eager_over_best"] = of_teacher / fastest_ms
                best[str(count)][network] = found
    return {"like_for_like": {f"{teacher} over {student}": like}, "best_against_eager": best}


def headline(subjects: Mapping[str, Subject], rows: Sequence[Row], device: str, effort: Effort) -> dict[str, Any]:
    """:data:`KEYS` but the last, from one group of workers that were open at once; None where a network was not
    measured, which ``missing`` tells.

    The candidates for "best" are the fastest rows of the table.
    """
    threads = min((row["threads"] for row in rows), default=1)
    benches: dict[tuple[str, str], Bench] = {}
    try:
        for network, names in _members(rows, threads).items():
            variants = [VARIANTS[name] for name in names]
            opened = open_benches(subjects[network], variants, threads, device)
            benches |= {(network, variant.name): bench for variant, bench in zip(variants, opened, strict=True)}
        take_turns(list(benches.values()), effort)
    finally:
        for bench in benches.values():
            bench.close()
    found = {key: bench for key, bench in benches.items() if bench.by_round and not bench.row["reason"]}
    student, small = _fastest(found, STUDENT), _fastest(found, SMALL)
    eager, teacher = found.get((STUDENT, EAGER)), found.get((TEACHER, EAGER))
    figures: dict[str, Any] = {
        KEYS[0]: _ratio(eager, student, "by_round"),
        KEYS[1]: _ratio(teacher, student, "by_round"),
        KEYS[2]: None if small is None else statistics.median(small.by_round),
    }
    details = {
        "threads": threads,
        "clock": "processor time" if threads == 1 and device == "cpu" else "wall clock",
        "by_wall_clock": {
            KEYS[0]: _ratio(eager, student, "wall"),
            KEYS[1]: _ratio(teacher, student, "wall"),
            KEYS[2]: None if small is None else statistics.median(small.wall),
        },
        "rounds": effort.rounds,
        "student_best": None if student is None else student.row["variant"],
        "resnet18_unet_best": None if small is None else small.row["variant"],
        "milliseconds": {
            f"{network} {variant}": {
                "median": statistics.median(bench.by_round),
                "wall_p50": bench.row["latency_ms_p50"],
                "wall_p95": bench.row["latency_ms_p95"],
            }
            for (network, variant), bench in found.items()
        },
        "missing": [key for key, value in figures.items() if value is None],
    }
    return {**figures, "headline": details}


def cine_figures(subject: Subject, row: Row, cine: Path, rounds: int) -> dict[str, Any]:
    """``predictor_overhead`` and ``end_to_end_overlap`` on a cine, by the clock of the wall, medians of rounds.

    The inference has one thread and the process all cores, so that decoding has somewhere to go.

    Args:
        row: of the table, which says the runtime and precision.
        cine: a file of frames.
    """
    variant = VARIANTS[row["variant"]]
    times: dict[str, list[tuple[float, float]]] = {part: [] for part in _PARTS}
    try:
        job = {**subject.job(variant, 1, "cpu"), "cine": str(cine)}
        with Child("cine_worker", job) as child:
            frames = child.ready()["frames"]
            for number in range(rounds + 1):
                parts = list(_PARTS if number % 2 else reversed(_PARTS))  # who comes first has the cold cache
                answer = child.ask({"parts": parts})
                for part in _PARTS if number else ():  # the first round warms up
                    times[part].append(answer[part])
    except ChildError as error:
        return {KEYS[3]: None, "end_to_end_overlap": None, "cine": {"reason": error.message}}
    wall = {part: [one[0] for one in found] for part, found in times.items()}
    processor = {part: [one[1] for one in found] for part, found in times.items()}
    overlaps = [
        whole / max(decode, infer)
        for whole, decode, infer in zip(wall["end_to_end"], wall["decode"], wall["bare"], strict=True)
    ]
    return {
        KEYS[3]: _overhead(wall),
        "end_to_end_overlap": statistics.median(overlaps),
        "cine": {
            "frames": frames,
            "network": subject.name,
            "variant": variant.name,
            "rounds": rounds,
            "predictor_overhead_processor_time": _overhead(processor),
            "seconds": {part: statistics.median(found) for part, found in wall.items()},
            "processor_seconds": {part: statistics.median(found) for part, found in processor.items()},
        },
    }


def _overhead(times: Mapping[str, Sequence[float]]) -> float:
    pairs = zip(times["predictor"], times["bare"], strict=True)
    return statistics.median(with_it / bare for with_it, bare in pairs) - 1


def _members(rows: Sequence[Row], threads: int) -> dict[str, list[str]]:
    """The variants of each network in the group: eager where it is compared with, and the fastest ones."""
    members: dict[str, list[str]] = {}
    for network, with_eager, candidates in (
        (STUDENT, True, _CANDIDATES),
        (TEACHER, True, 0),
        (SMALL, False, _CANDIDATES),
    ):
        fastest = [row["variant"] for row in best_rows(rows, network, threads, candidates)]
        measured = any(row["network"] == network and row["variant"] == EAGER for row in rows)
        names = list(dict.fromkeys([EAGER] * (with_eager and measured) + fastest))
        if names:
            members[network] = names
    return members


def _fastest(found: Mapping[tuple[str, str], Bench], network: str) -> Bench | None:
    own = [bench for (name, _), bench in found.items() if name == network]
    return min(own, key=lambda bench: statistics.median(bench.by_round), default=None)


def _ratio(slow: Bench | None, fast: Bench | None, times: str) -> float | None:
    """Median of the rounds' ratios; of all calls' medians for the clock of the wall."""
    if slow is None or fast is None:
        return None
    ours, theirs = getattr(slow, times), getattr(fast, times)
    if times == "by_round":
        return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
    return statistics.median(ours) / statistics.median(theirs)
