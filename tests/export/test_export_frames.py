"""Frames for calibration and check are real, different, and never in both parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sonodistill.errors import UnreadableFileError
from sonodistill_training.corpus.pack import build_pack
from sonodistill_training.corpus.simulator import write_simulated
from sonodistill_training.export.frames import CalibrationError, FrameSet, default_frames, given_frames

SIZE = (64, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 stills with masks beside them and an index."""
    return write_simulated(tmp_path_factory.mktemp("simulated") / "frames", 24, progress=False)


def keys(frames: tuple[np.ndarray, ...]) -> set[bytes]:
    return {frame.tobytes() for frame in frames}


def require_apart(frames: FrameSet) -> None:
    both = (*frames.calibration, *frames.check)
    assert len(keys(both)) == len(both)
    assert all(frame.shape == (1, *SIZE) and frame.dtype == np.float32 for frame in both)
    assert all(frame.min() >= 0 and frame.std() > 0.01 and frame.max() <= 1 for frame in both)


def test_a_cine_alone_is_shared_between_calibration_and_check(cine: Path) -> None:
    frames = given_frames([cine], SIZE, calibrate=True)
    require_apart(frames)
    assert len(frames.calibration) >= 16  # of 30, of which some are the same at this size
    assert len(frames.check) >= 8
    assert (frames.origin, frames.files) == ("given", 1)


def test_files_are_kept_apart_and_masks_are_no_frames(folder: Path, cine: Path) -> None:
    frames = given_frames([folder, cine], SIZE, calibrate=True)
    require_apart(frames)
    assert frames.files == 25  # 24 images and the cine, not the 24 masks
    of_cine = keys(given_frames([cine], SIZE, calibrate=False).check)
    assert not of_cine & keys(frames.calibration) or not of_cine & keys(frames.check)


def test_the_draw_is_limited_spread_and_repeatable(folder: Path, cine: Path) -> None:
    first, again, other = (
        given_frames([folder, cine], SIZE, calibrate=True, limit=12, seed=seed) for seed in (1, 1, 2)
    )
    assert len(first.calibration) + len(first.check) == 12
    assert first.files >= 11
    assert first.account() == again.account() != other.account()
    assert first.account()["frames"] == len(first.calibration)


def test_a_corpus_gives_its_frames(folder: Path, cine: Path, tmp_path: Path) -> None:
    build_pack([folder, cine], tmp_path / "pack", short_side=64)
    frames = given_frames([tmp_path / "pack"], SIZE, calibrate=True)
    require_apart(frames)
    assert frames.files == 25


def test_the_account_counts_the_files_of_the_calibration_alone(folder: Path) -> None:
    frames = given_frames([folder], SIZE, calibrate=True)
    assert frames.account()["files"] == len(frames.calibration) < frames.files == 24


def test_real_frames_of_a_labelled_folder(shared: Path) -> None:
    frames = given_frames([shared / "data" / "frames" / "busi"], SIZE, calibrate=True, limit=45)
    require_apart(frames)
    assert (len(frames.calibration), len(frames.check), frames.files) == (30, 15, 45)


@pytest.mark.parametrize(
    ("value", "copies", "said"), [(0, 1, "1 blank"), (137, 20, "20 blank"), (None, 20, "19 repeated")]
)
def test_blank_and_repeated_frames_do_not_count(tmp_path: Path, value: int | None, copies: int, said: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (90, 120), np.uint8)
    image = noise if value is None else np.full_like(noise, value)
    for number in range(copies):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    with pytest.raises(
        CalibrationError, match=rf"usable frames? in {copies} files? \({said}\); 12 are needed"
    ) as refused:
        given_frames([tmp_path], SIZE, calibrate=True)
    assert refused.value.path == tmp_path
    assert "--frames" in refused.value.remedy


def test_files_that_cannot_be_read_are_passed_over_and_counted(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert given_frames([tmp_path, folder], SIZE, calibrate=True).files == 24
    with pytest.raises(CalibrationError, match="0 usable frames in 1 file .1 unreadable"):
        given_frames([tmp_path], SIZE, calibrate=True)
    with pytest.raises(UnreadableFileError):
        given_frames([tmp_path / "missing"], SIZE, calibrate=True)


def test_without_frames_those_that_pydicom_brings_are_used() -> None:
    frames = default_frames(SIZE)
    assert frames.origin == "pydicom examples"
    assert not frames.calibration
    assert len(frames.check) >= 25
