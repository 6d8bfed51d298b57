"""One instance through its model: the results as DICOM files in a folder, each read back before it counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sonodistill.dicom.errors import ResultError, UnfamiliarError
from sonodistill.dicom.findings import Findings, Masks, Structure
from sonodistill.dicom.model import Model, load_model
from sonodistill.dicom.routing import route
from sonodistill.dicom.settings import Outputs, RouteSettings
from sonodistill.dicom.source import Source, read_source
from sonodistill.dicom.write.check import check_references, check_segmentation
from sonodistill.dicom.write.common import write_file
from sonodistill.dicom.write.measure import structures_of
from sonodistill.frames import Frame
from sonodistill.frames.isolated import IsolatedReader

_DISPLAY_RATE = "RecommendedDisplayFrameRate"  # how fast to show a clip, which is not how fast it was taken


@dataclass(frozen=True, slots=True)
class Result:
    """A file that was made.

    Attributes:
        kind: "seg", "sr", "gsps" or "sc".
        uid: SOP Instance UID.
        path: where it is.
    """

    kind: str
    uid: str
    path: Path


@dataclass(frozen=True, slots=True)
class Analysis:
    """What was made of an instance.

    Attributes:
        rule: the route it took.
        findings: what was found.
        results: what was written, in the order in which it has to be sent: a report follows what it refers to.
        note: the model's warning, and why there is no preview although one was asked for; empty otherwise.
    """

    rule: RouteSettings
    findings: Findings
    results: tuple[Result, ...]
    note: str = ""


class Analyst:
    """Computes instances one after the other; its models are loaded when they are needed first.

    Args:
        rules: the routes, in their order.
        threads: of the inference; 0 lets the runtime choose.
        decode_memory_mb, decode_seconds: limits of the process that decodes.
    """

    def __init__(
        self,
        rules: Sequence[RouteSettings],
        *,
        threads: int = 0,
        decode_memory_mb: int = 2048,
        decode_seconds: int = 300,
    ) -> None:
        self._rules, self._threads = tuple(rules), threads
        self._models: dict[str, Model] = {}
        self._reader = IsolatedReader(memory_mb=decode_memory_mb, seconds=decode_seconds)

    def __enter__(self) -> Analyst:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process that decodes."""
        self._reader.close()

    def load(self) -> None:
        """Load every model now, so that the first instance does not wait, and a bad one is known at the start."""
        for rule in self._rules:
            self.model(rule)

    def model(self, rule: RouteSettings) -> Model:
        """The loaded model of a rule."""
        if rule.name not in self._models:
            self._models[rule.name] = load_model(rule, threads=self._threads)
        return self._models[rule.name]

    def analyse(self, path: str | Path, out: Path, *, prefix: str = "") -> Analysis:
        """Predict an instance and write its results into ``out`` as ``<prefix><kind>.dcm``.

        A result of an earlier run is replaced; after an error there is none. A preview that cannot be drawn is left
        out.

        Errors: UnreadableFileError, UnsupportedFormatError, NoRouteError, UnfamiliarError (this instance is refused
            for good); ResultError (a result could not be written so that it reads back as it was); OSError of the disk.
        """
        source = read_source(path)
        model = self.model(route(source, self._rules))
        findings = self._findings(source, model)
        outputs = model.rule.outputs
        results: list[Result] = []
        note = findings.warning
        if note and model.rule.unfamiliar == "refuse":
            raise UnfamiliarError(note, path=source.path, remedy="see whether the route is right for it")
        try:
            results.extend(self._written(findings, outputs, out, prefix))
            try:
                results.extend(self._preview(findings, outputs, out, prefix))
            except ResultError as error:
                note = "; ".join(filter(None, (note, error.message)))
        except BaseException:
            for kind in ("seg", "sr", outputs.preview):
                (out / f"{prefix}{kind}.dcm").unlink(missing_ok=True)
            raise
        return Analysis(model.rule, findings, tuple(results), note)

    def frames(self, source: Source) -> Iterator[Frame]:
        """The frames of an instance, decoded by the limited process."""
        return self._reader.read(source.path)

    def _findings(self, source: Source, model: Model) -> Findings:
        outputs = model.rule.outputs
        masks = Masks(
            len(model.algorithm.segments),
            source.rows,
            source.columns,
            keep_probabilities=outputs.segmentation == "fractional",
        )
        structures: list[Structure] = []
        times: list[float | None] = []
        scores: list[float] = []
        for prediction in model.predictor(self.frames(source)):
            index = prediction.frame.index
            if index != len(masks):
                raise ResultError(f"frame {index + 1} came after {len(masks)} frames", path=source.path)
            masks.append(prediction.masks, prediction.probabilities)
            shown = prediction.frame.provenance.details.get("time_source") == _DISPLAY_RATE
            times.append(None if shown else prediction.frame.time_ms)
            scores.append(prediction.unfamiliarity)
            structures += structures_of(prediction.masks, index, source.ds)
        if len(masks) != source.frames:
            raise ResultError(f"{len(masks)} of {source.frames} frames were computed", path=source.path)
        known = tuple(time for time in times if time is not None)
        return Findings(
            source,
            model.algorithm,
            masks,
            known if len(known) == len(times) else None,
            tuple(structures),
            scores=tuple(scores) if model.predictor.runtime.scored else (),
        )

    def _written(self, findings: Findings, outputs: Outputs, out: Path, prefix: str) -> Iterator[Result]:
        out.mkdir(parents=True, exist_ok=True)
        segmentation = None
        if outputs.segmentation != "none":
            from sonodistill.dicom.write.seg import segmentation as make

            segmentation = make(findings, outputs.segmentation)
            yield _saved(segmentation, "seg", findings, out, prefix)
            check_segmentation(out / f"{prefix}seg.dcm", findings)
        if outputs.report:
            from sonodistill.dicom.write.report import report

            yield _saved(report(findings, segmentation), "sr", findings, out, prefix)

    def _preview(self, findings: Findings, outputs: Outputs, out: Path, prefix: str) -> Iterator[Result]:
        if outputs.preview != "none":
            from sonodistill.dicom.write.preview import preview, preview_frame

            image = None
            if outputs.preview == "sc":
                image = self._image(findings.source, preview_frame(findings))
            yield _saved(preview(findings, outputs.preview, image), outputs.preview, findings, out, prefix)

    def _image(self, source: Source, index: int):  # type: ignore[no-untyped-def]
        """(H, W) uint8 of one frame."""
        return next(self._reader.read(source.path, only={index})).image


def _saved(ds, kind: str, findings: Findings, out: Path, prefix: str) -> Result:  # type: ignore[no-untyped-def]
    path = out / f"{prefix}{kind}.dcm"
    write_file(ds, path)
    check_references(path, findings)
    return Result(kind, str(ds.SOPInstanceUID), path)
