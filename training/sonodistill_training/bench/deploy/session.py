"""One run: networks exported, measured and judged one after the other, and the figures that follow."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from sonodistill.errors import SonoDistillError, WeightsError
from sonodistill_training.bench.deploy import headline, quality
from sonodistill_training.bench.deploy.measure import Bench, Row, empty_row, measure, outputs
from sonodistill_training.bench.deploy.setup import LEFT_OUT, Bar, Setup
from sonodistill_training.bench.deploy.subjects import Subject
from sonodistill_training.bench.deploy.variants import COMPILED, EAGER, VARIANTS, Variant

_COMPILED = (headline.TEACHER, headline.STUDENT)
_LONG = ("onnxruntime-int8",)
_LONG_ALONE = ("eager-channels-last", "torchscript")
"""What is left out of every network with random weights, and of encoders alone, unless it is asked for."""
_CALIBRATION, _OF_TRAINED = 8, 100
_EXPORTS_AT_ONCE = 2
_JUDGE_SECONDS = 1800.0


class Session:
    """One run: its subjects, its rows so far, and where it keeps files."""

    def __init__(self, setup: Setup, variants: Sequence[Variant], scratch: Path, bar: Bar) -> None:
        self._setup, self._variants, self._scratch, self._bar = setup, variants, scratch, bar
        self._subjects: dict[str, Subject] = {}
        self.rows: list[Row] = []
        self.calibration: dict[str, Any] = {}
        self.judged_on: dict[str, Any] | None = None
        self._sizes: dict[str, int] = {}
        self._labelled: dict[int, quality.Labelled] = {}

    def prepare(self) -> None:
        """Read what is given, so that what cannot be used is refused before anything is measured.

        Raises:
            SonoDistillError: a weights file or the labelled set cannot be used.
        """
        setup = self._setup
        self._sizes = {name: _trained_size(path, setup.input_size) for name, path in setup.trained.items()}
        if setup.labelled is None:
            return
        key, folder = setup.labelled
        for size in sorted(set(self._sizes.values())):
            labelled = quality.read_labelled(key, folder, size, setup.most_test_images)
            self._labelled[size] = labelled
            self.judged_on = {"name": key, "division": labelled.way, "test_images": len(labelled.test)}

    def measure_named(self) -> None:
        """The networks with random weights."""
        if not self._setup.networks:
            return
        frames, self.calibration = self._calibration_frames(self._setup.input_size, _CALIBRATION)
        subjects = [Subject(name, name, None, self._setup.input_size) for name in self._setup.networks]
        for start in range(0, len(subjects), _EXPORTS_AT_ONCE):
            some = subjects[start : start + _EXPORTS_AT_ONCE]
            with ThreadPoolExecutor(_EXPORTS_AT_ONCE) as pool:
                list(pool.map(lambda subject: self._export(subject, frames), some))
            for subject in some:
                self._measure(subject)
                if subject.name not in (headline.STUDENT, headline.SMALL):
                    subject.remove_files()  # of all networks together they take gigabytes

    def measure_trained(self) -> None:
        """The trained networks, with their Dice where a labelled set is given."""
        for name, path in self._setup.trained.items():
            subject = Subject(name, "", path, self._sizes[name])
            labelled = self._labelled.get(subject.size)
            frames, self.calibration[name] = self._frames_of(subject, labelled)
            self._export(subject, frames)
            if labelled is None:
                self._measure(subject)
            else:
                self._judge(subject, labelled)

    def figures(self) -> dict[str, Any]:
        """The headline figures."""
        self._bar.say("headline figures")
        effort = dataclasses.replace(self._setup.effort, rounds=self._setup.effort.rounds + 2)
        named = [row for row in self.rows if row["network"] in self._setup.networks]
        found = headline.headline(self._subjects, named, self._setup.device, effort)
        self._bar.advance()
        threads = min(self._setup.threads)
        best = headline.best_rows(named, headline.STUDENT, threads) or headline.best_rows(
            named, headline.SMALL, threads
        )
        exported = [row for row in best if VARIANTS[row["variant"]].target]
        if not exported or self._setup.device != "cpu":
            reason = "no exported U-Net was measured on the processor"
            return {**found, headline.KEYS[3]: None, "end_to_end_overlap": None, "cine": {"reason": reason}}
        self._bar.say("a cine through the Predictor")
        cine = self._scratch / "cine.dcm"
        _write_cine(cine, self._setup.cine_frames)
        subject = self._subjects[exported[0]["network"]]
        found |= headline.cine_figures(subject, exported[0], cine, 2 * self._setup.effort.rounds + 1)
        self._bar.advance()
        return found

    def _is_left_out(self, subject: Subject, variant: Variant, threads: int) -> bool:
        first = threads == min(self._setup.threads)
        if self._setup.everything:
            return False
        if variant.name == COMPILED and not (self._setup.runtimes and first):
            return subject.name not in _COMPILED or not first
        if variant.name in _LONG and subject.network and not self._setup.runtimes:
            return True
        alone = bool(subject.network) and "+" not in subject.network
        return alone and (not first or (variant.name in _LONG_ALONE and not self._setup.runtimes))

    def _goes_on(self, subject: Subject) -> bool:
        """Whether it is measured at more threads than the first number of them."""
        return not all(self._is_left_out(subject, one, max(self._setup.threads)) for one in self._variants)

    def _export(self, subject: Subject, frames: Any) -> None:
        """Write its files, int8 calibrated with frames (n, 1, S, S)."""
        self._bar.say(f"{subject.name}: exporting")
        self._subjects[subject.name] = subject
        folder = Path(tempfile.mkdtemp(dir=self._scratch))
        np.save(folder / "calibration.npy", frames)
        threads = self._setup.threads
        variants = [one for one in self._variants if not all(self._is_left_out(subject, one, n) for n in threads)]
        subject.export(variants, folder, folder / "calibration.npy")
        self._bar.advance()

    def _measure(self, subject: Subject, visit: Callable[[Bench], None] | None = None) -> None:
        """The rows of each number of threads; ``visit`` is for the workers of the largest."""
        setup = self._setup
        for threads in setup.threads:
            self._bar.say(f"{subject.name}, {threads} thread{'s' * (threads > 1)}")
            left_out = [one for one in self._variants if self._is_left_out(subject, one, threads)]
            last = threads == max(setup.threads) or not self._goes_on(subject)
            with self._bar.steps(len(self._variants)):
                self.rows += measure(
                    subject,
                    [one for one in self._variants if one not in left_out],
                    threads,
                    setup.device,
                    setup.effort,
                    batches=last,
                    scratch=self._scratch,
                    advance=lambda: self._bar.advance(1 / setup.effort.rounds),
                    visit=visit if last else None,
                )
            rows = [empty_row(subject, one, threads, setup.device) for one in left_out]
            self.rows += [row | {"reason": LEFT_OUT} for row in rows]

    def _judge(self, subject: Subject, labelled: quality.Labelled) -> None:
        """Measure it, and put the Dice of each variant into its rows."""
        images = self._scratch / "images.npy"
        np.save(images, labelled.images(labelled.test))

        def visit(bench: Bench) -> None:
            self._bar.say(f"{subject.name}: Dice in {bench.row['variant']}")
            outputs(bench, self._scratch / f"logits-{bench.row['variant']}.npy", images, _JUDGE_SECONDS)

        self._measure(subject, visit)
        eager = None
        for variant in self._variants:  # eager is the first
            found = self._scratch / f"logits-{variant.name}.npy"
            if not found.is_file():
                continue
            own = [row for row in self.rows if (row["network"], row["variant"]) == (subject.name, variant.name)]
            try:
                dice = quality.dice_of(labelled, np.load(found))
            except SonoDistillError as error:
                for row in own:
                    row["reason"] = f"no Dice: {error.message}"
                continue
            finally:
                found.unlink()
            eager = dice if variant.name == EAGER else eager
            for row in own:
                row |= quality.judge(labelled, dice, eager)

    def _frames_of(self, subject: Subject, labelled: quality.Labelled | None) -> tuple[Any, dict[str, Any]]:
        """Frames that int8 of a trained network is calibrated with, none of them a test image."""
        if labelled is None:
            return self._calibration_frames(subject.size, _OF_TRAINED)
        if not self._setup.frames:
            places = np.linspace(0, len(labelled.train) - 1, min(_OF_TRAINED, len(labelled.train))).astype(int)
            return labelled.images(labelled.train[places]), {"origin": "training split", "frames": len(places)}
        frames, account = self._calibration_frames(subject.size, _OF_TRAINED)
        test = {image.tobytes() for image in labelled.data.images[labelled.test]}
        apart = [frame for frame in frames if np.rint(255 * frame).astype(np.uint8).tobytes() not in test]
        if not apart:
            remedy = "give --frames others, or leave them out: the training split is taken"
            raise SonoDistillError("all frames for calibration are test images", remedy=remedy)
        return np.stack(apart), {**account, "frames": len(apart), "test_images_left_out": len(frames) - len(apart)}

    def _calibration_frames(self, size: int, most: int) -> tuple[Any, dict[str, Any]]:
        from sonodistill_training.export.frames import LEAST_CALIBRATION, LEAST_CHECK, default_frames, given_frames

        if self._setup.frames:
            found = given_frames(
                self._setup.frames,
                (size, size),
                calibrate=True,
                limit=max(most * 3 // 2, LEAST_CALIBRATION + LEAST_CHECK),
            )
            return np.stack(found.calibration), {"origin": "given", **found.account()}
        found = default_frames((size, size))
        chosen = found.check[:most]
        note = "for speed alone: with so few frames, and for random weights, the accuracy of int8 has no meaning"
        return np.stack(chosen), {"origin": found.origin, "frames": len(chosen), "note": note}


def _trained_size(path: Path, default: int) -> int:
    """Side of the images that a weights file was trained on.

    Raises:
        WeightsError: it is no weights file of ours, or of another kind than a segmenter.
    """
    from sonodistill.weights import read_info

    info = read_info(path)
    if info is None or info.kind != "segmenter":
        found = "has no header of SonoDistill" if info is None else f"holds a {info.kind}"
        raise WeightsError(
            f"{found}, and is no segmenter", path=path, remedy="give the model.safetensors of a training"
        )
    return info.input_size[0] if info.input_size else default


def _write_cine(path: Path, frames: int) -> None:
    from sonodistill_training.bench.cine import encoded_loop, write_cine

    write_cine(path, encoded_loop(0, distinct=min(frames, 24)), frames)
