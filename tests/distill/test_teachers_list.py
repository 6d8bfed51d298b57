"""Several teachers at once: each entry's own settings, and an input size that suits all of them or an error."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from sonodistill.errors import BundleConfigError
from sonodistill_training.distill.teacher import Teacher, check_grids, combined_notice, load_teacher, load_teachers

TINY, DINOV2 = "vit_tiny_patch16_224", "vit_small_patch14_dinov2.lvd142m"


@pytest.fixture(scope="module")
def both() -> list[Teacher]:
    return load_teachers([TINY, DINOV2], random=True, input_size=112)


def test_one_spec_is_a_list_of_one() -> None:
    for spec in (TINY, {"spec": TINY}, [TINY]):
        (teacher,) = load_teachers(spec, random=True, input_size=64)
        assert (teacher.name, teacher.dim) == (TINY, 384)


def test_entries_have_settings_of_their_own_and_share_the_rest(tmp_path: Path) -> None:
    save_file(timm.create_model(TINY).state_dict(), tmp_path / "mine.safetensors")
    mine = {"spec": tmp_path / "mine.safetensors", "architecture": TINY, "blocks": 1, "mean": 0.2, "std": [0.3]}
    first, second = load_teachers([mine, {"spec": "resnet18", "mean": None}], blocks=3, random=True, input_size=64)
    assert (first.name, first.dim, first.input.normalisation) == ("mine", 192, ((0.2,), (0.3,)))
    assert second.dim == 128 + 256 + 512
    assert second.input.normalisation[0] == (0.485, 0.456, 0.406)


def test_teachers_of_one_name_are_told_apart() -> None:
    found = load_teachers([TINY, {"spec": TINY, "blocks": 1}], random=True, input_size=32)
    assert [teacher.name for teacher in found] == [TINY, f"{TINY} (2)"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ([], "list of teachers is empty"),
        ([TINY, TINY], "listed twice"),
        ([{"architecture": TINY}], "does not name a teacher"),
        ([{"spec": TINY, "block": 1}], "does not name a teacher"),
        ([3], "does not name a teacher"),
    ],
)
def test_a_list_that_says_nothing_clear_is_refused(spec: list, words: str) -> None:
    with pytest.raises(BundleConfigError, match=words):
        load_teachers(spec, random=True, input_size=64)


def test_the_grids_are_those_of_the_targets(both: list[Teacher]) -> None:
    grids = check_grids(both, 112, student_stride=32)
    assert grids == [tuple(teacher(torch.rand(1, 1, 112, 112)).shape[-2:]) for teacher in both] == [(7, 7), (8, 8)]


def test_an_input_that_no_common_grid_fits_is_refused_with_the_sizes_near_it(both: list[Teacher]) -> None:
    with pytest.raises(BundleConfigError, match=r"patch size of vit_small_patch14_dinov2\.lvd142m \(14\)") as caught:
        check_grids(both, 240)
    assert "224 or 336: a multiple of 112 suits all teachers" in caught.value.remedy
    with pytest.raises(BundleConfigError) as caught:
        check_grids(both[:1], 8)
    assert "take input_size 16: a multiple of 16" in caught.value.remedy
    with pytest.raises(BundleConfigError, match="no multiple"):
        load_teachers([TINY, DINOV2], random=True, input_size=64)


def test_what_no_interpolation_mends_is_refused(both: list[Teacher]) -> None:
    with pytest.raises(BundleConfigError, match="224 x 112 pixels"):
        check_grids(both, (224, 112))
    assert check_grids(both, [224, 224]) == [(14, 14), (16, 16)]
    for size in (0, -112):
        with pytest.raises(BundleConfigError, match="no multiple"):
            check_grids(both, size)
    with pytest.raises(BundleConfigError, match="leaves the student no position") as caught:
        check_grids(both[:1], 16, student_stride=32)
    assert "32 or more" in caught.value.remedy


def test_an_input_smaller_than_a_patch_is_refused_before_weights_are_laid_out() -> None:
    with pytest.raises(BundleConfigError, match="input_size 8 gives vit_tiny_patch16_224 a grid of 0 x 0"):
        load_teacher(TINY, random=True, input_size=8)


def test_each_licence_notice_is_passed_on_once(both: list[Teacher]) -> None:
    tiny, dinov2 = (teacher.licence_notice for teacher in both)
    assert tiny != dinov2
    assert combined_notice([*both, *both]) == f"{tiny}\n{dinov2}"
    assert combined_notice([]) == ""
