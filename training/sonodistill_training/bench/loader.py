"""How many augmented views a second one core makes from shards, beside MONAI's dictionary transforms on PNG files."""

from __future__ import annotations

import itertools
import math
import statistics
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    RandFlipd,
    RandGaussianSmoothd,
    RandScaleCropd,
    Resized,
    ScaleIntensityRanged,
)
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sonodistill import frames
from sonodistill_training.bench.formats import write_corpus
from sonodistill_training.bench.report import alternate, one_core
from sonodistill_training.corpus.pack import find_sources, is_corpus, shrink
from sonodistill_training.corpus.shards import Corpus
from sonodistill_training.corpus.simulator import simulate_frame
from sonodistill_training.distill.augment import UltrasoundAugmentation, finish
from sonodistill_training.distill.data import CorpusViews
from sonodistill_training.hardware import hardware
from sonodistill_training.sampling import StepBatches

SIZE = 224
_SIMULATED = 768, 1024
_FEWEST_VIEWS = 2048  # of ours in a round, and frames of a corpus that is made for the purpose: 180 MB


def bench_loader(
    corpus: Path | None = None, *, rounds: int = 5, batch_size: int = 256, images: int = 12, seed: int = 0
) -> dict[str, Any]:
    """Both loaders single-threaded on one core, taking turns; frames a second of processor time.

    Both crop half to all of the area, mirror half of the views, blur half of them and make 224 x 224 pixels. Ours
    leaves blur and scaling to the device; ``frames_per_second_all_on_core`` is with them done on the same core.

    Args:
        corpus: a built corpus, or any ultrasound files to make one of; None simulates frames of 1024 x 768.
        rounds: of which the median counts.
        images: PNG files that MONAI reads in a round; of a built corpus they are its stored frames.
    """
    with tempfile.TemporaryDirectory() as folder, one_core():
        pngs, data = _prepare(Path(folder), corpus, images, seed)
        sizes = {
            "png_size": _typical([Image.open(png).size[::-1] for png in pngs]),
            "stored_size": _typical([image.shape for image in data.take(range(min(len(data), 64)))]),
        }
        views = CorpusViews(data, SIZE, UltrasoundAugmentation(), seed)
        chain = monai_chain(SIZE, UltrasoundAugmentation()).set_random_state(seed)
        works = {
            "ours": _ours(views, batch_size, seed, max(2, _FEWEST_VIEWS // batch_size)),
            "ours_all": _ours(views, batch_size, seed, 1, also=finish),
            "monai": lambda: len([chain({"image": png}) for png in pngs]),
        }
        for work in works.values():
            work()  # opens files, fills caches
        rates = alternate(works, rounds)
    frames_from = {"frames": corpus.name if corpus else "simulated", "corpus_frames": len(data)}
    return {
        "benchmark": "loader",
        "frames_per_second_per_core": round(rates["ours"], 1),
        "ratio_vs_monai": round(rates["ours"] / rates["monai"], 1),
        "frames_per_second_all_on_core": round(rates["ours_all"], 1),
        "ratio_vs_monai_all_on_core": round(rates["ours_all"] / rates["monai"], 1),
        "monai_frames_per_second": round(rates["monai"], 2),
        "settings": {"view": SIZE, "batch_size": batch_size, "rounds": rounds, "seed": seed, **frames_from, **sizes},
        "hardware": hardware(),
    }


def monai_chain(size: int, augmentation: UltrasoundAugmentation) -> Compose:
    """The same views by MONAI's dictionary transforms, cheapest first: the blur comes after the resizing.

    MONAI reads PNG as (x, y), so that its first spatial axis is the horizontal one.
    """
    side = augmentation.scale[0] ** 0.5
    return Compose(
        [
            LoadImaged("image", reader="PILReader", converter=lambda image: image.convert("L"), image_only=True),
            EnsureChannelFirstd("image"),
            RandScaleCropd("image", roi_scale=side, max_roi_scale=1.0, random_size=True),
            Resized("image", spatial_size=(size, size), mode="bilinear"),
            RandFlipd("image", prob=augmentation.flip, spatial_axis=0),
            RandGaussianSmoothd(
                "image", prob=augmentation.blur, sigma_x=augmentation.blur_sigma, sigma_y=augmentation.blur_sigma
            ),
            ScaleIntensityRanged("image", a_min=0, a_max=255, b_min=0, b_max=1),
        ]
    )


def _ours(
    views: CorpusViews, batch_size: int, seed: int, steps: int, also: Callable[[dict[str, Tensor]], Any] | None = None
) -> Callable[[], int]:
    batches = iter(StepBatches(views.order(seed), batch_size, 0, 1 << 30))

    def work() -> int:
        for positions in itertools.islice(batches, steps):
            batch = views.__getitems__(positions)
            if also:
                also(batch)
        return steps * batch_size

    return work


def _prepare(place: Path, corpus: Path | None, images: int, seed: int) -> tuple[list[Path], Corpus]:
    """PNG files of single frames, and a corpus of the same frames (or the corpus that was given)."""
    if corpus and is_corpus(corpus):
        data = Corpus(corpus)
        chosen = np.linspace(0, len(data) - 1, images).astype(int).tolist()
        return _write(place / "png", data.take(chosen)), data
    if corpus:
        found = (frame.image for file in find_sources([corpus]) for frame in frames.read(file))
        shown = list(itertools.islice(found, images))
    else:
        shown = [simulate_frame(seed * 100_000 + number, size=_SIMULATED).image for number in range(images)]
    # Each frame many times: a corpus does not fit into a processor's cache.
    stored = [shrink(image, 256) for image in shown]
    write_corpus(place / "corpus", stored * math.ceil(_FEWEST_VIEWS / len(stored)))
    return _write(place / "png", shown), Corpus(place / "corpus")


def _write(folder: Path, images: Iterable[NDArray[np.uint8]]) -> list[Path]:
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:04d}.png")
    return sorted(folder.iterdir())


def _typical(sizes: list[tuple[int, ...]]) -> list[int]:
    return [int(statistics.median(values)) for values in zip(*sizes, strict=True)]
