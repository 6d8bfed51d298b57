"""What analysing a cine costs beside its bare inference, and where the rest goes."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from sonodistill.dicom.findings import Findings
from sonodistill.dicom.predict import Analyst
from sonodistill.dicom.settings import RouteSettings
from sonodistill.dicom.write.check import check_references, check_segmentation
from sonodistill.dicom.write.common import write_file
from sonodistill.dicom.write.measure import structures_of
from sonodistill.frames.isolated import IsolatedReader
from sonodistill.transforms.geometry import to_input
from sonodistill_training.bench.dicom.setup import Setup


def analyse_beside_bare(model: Path, cine: Path, folder: Path, setup: Setup) -> dict[str, Any]:
    """Frames a second of ``Analyst.analyse`` over those of the runtime on prepared inputs, one after the other.

    Both have the same threads and a batch of one. They take turns; ``ratio`` is the median of the rounds.
    """
    rule = RouteSettings("bench", model, everything=True, runtime=setup.runtime, precision=setup.precision)
    bare, whole = [], []
    with Analyst([rule], threads=setup.threads) as analyst:
        analyst.load()
        runtime = analyst.model(rule).predictor.runtime
        with IsolatedReader() as reader:
            images = [to_input(frame.image, runtime.input_size)[None] for frame in reader.read(cine)]
        analysis = analyst.analyse(cine, folder)  # starts its processes, imports its libraries
        for _ in range(setup.rounds):
            start = time.perf_counter()
            for image in images:
                runtime(image)
            bare.append(time.perf_counter() - start)
            start = time.perf_counter()
            analysis = analyst.analyse(cine, folder)
            whole.append(time.perf_counter() - start)
    return {
        "ratio": statistics.median(one / other for one, other in zip(bare, whole, strict=True)),
        "bare_fps": len(images) / statistics.median(bare),
        "end_to_end_fps": len(images) / statistics.median(whole),
        "inference_seconds": statistics.median(bare),
        "analyse_seconds": statistics.median(whole),
        "structures": len(analysis.findings.structures),
        **_parts(analysis.findings, folder, setup.rounds),
    }


def decode_ms(cine: Path, rounds: int) -> float:
    """Milliseconds a frame of the limited process that decodes, until the frame is here: median of the rounds."""
    seconds, count = [], 0
    with IsolatedReader() as reader:
        for number in range(rounds + 1):
            start = time.perf_counter()
            count = sum(1 for _ in reader.read(cine))
            if number:  # the first one waits for the process
                seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds) / count


def _parts(findings: Findings, folder: Path, rounds: int) -> dict[str, float]:
    """Seconds of what follows the inference, each by itself."""
    from sonodistill.dicom.write.report import report
    from sonodistill.dicom.write.seg import segmentation

    measure, write = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        for frame, masks in enumerate(findings.masks):
            structures_of(masks, frame, findings.source.ds)
        measure.append(time.perf_counter() - start)
        start = time.perf_counter()
        made = segmentation(findings)
        for ds, name in ((made, "part.seg.dcm"), (report(findings, made), "part.sr.dcm")):
            write_file(ds, folder / name)
            check_references(folder / name, findings)
        check_segmentation(folder / "part.seg.dcm", findings)
        write.append(time.perf_counter() - start)
    return {"measure_seconds": statistics.median(measure), "write_seconds": statistics.median(write)}
