"""Recipes: each is an overlay whose settings exist, and the paper's says what the paper says."""

from __future__ import annotations

import pytest
import timm
from monai.bundle import ConfigParser

from sonodistill.bundle import package_bundle
from sonodistill.errors import BundleConfigError
from sonodistill_training.distill.augment import UltrasoundAugmentation
from sonodistill_training.distill.augment_imagenet import ImageNetAugmentation
from sonodistill_training.distill.objective import Objective
from sonodistill_training.workflow import parse_settings, recipe_files

CONFIGS = package_bundle() / "configs"
NAMES = sorted(path.stem for path in (CONFIGS / "recipes").glob("*.yaml"))


def laid_over(*names):
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / "distill.yaml"), *recipe_files(names)])
    return parser


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_only_changes_settings_that_exist(name):
    known = ConfigParser.load_config_file(str(CONFIGS / "distill.yaml"))
    (file,) = recipe_files([name])
    overlay = ConfigParser.load_config_file(file)
    assert overlay and overlay.keys() <= known.keys()


@pytest.mark.parametrize("name", NAMES)
def test_the_student_and_the_teachers_of_a_recipe_are_known_to_timm(name):
    parser = laid_over(name)
    student, teacher = parser["student_name"], parser["teacher_name"]
    assert timm.is_model(student)
    assert teacher == "dinov2_vits14" or teacher in timm.list_pretrained()


def test_the_papers_recipe_is_the_papers():
    parser = laid_over("paper")
    assert (parser["student_name"], parser["batch_size"], parser["max_epochs"]) == ("resnet50", 512, 1000)
    assert (parser["learning_rate"], parser["weight_decay"], parser["teacher_blocks"]) == (1e-4, 0.05, 2)
    assert parser["mixup"] == "batch" and parser["input_size"] == 224
    assert parser.get_parsed_content("method#objective") == Objective()
    assert parser.get_parsed_content("augmentation") == UltrasoundAugmentation()


def test_our_own_objective_is_laid_over_and_is_not_the_papers():
    parser = laid_over("paper", "standardize")
    assert parser.get_parsed_content("method#objective") == Objective("standardize", power=0.5)


@pytest.mark.parametrize(
    ("name", "views", "mixup"),
    [
        ("us_mixup", UltrasoundAugmentation, "batch"),
        ("us", UltrasoundAugmentation, "off"),
        ("default_mixup", ImageNetAugmentation, "batch"),
        ("default", ImageNetAugmentation, "off"),
    ],
)
def test_table_6_is_views_by_mixup(name, views, mixup):
    parser = laid_over("paper", name)
    assert type(parser.get_parsed_content("augmentation")) is views and parser["mixup"] == mixup
    assert parser["teacher_name"] == "vit_base_patch16_dinov3.lvd1689m"


def test_an_unknown_recipe_is_refused_with_those_there_are():
    with pytest.raises(BundleConfigError, match="us_mixup"):
        recipe_files(["us_mixpu"])


def test_a_recipe_may_be_a_file_of_ones_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("clip: 3.0\n")
    assert laid_over("local", str(tmp_path / "mine.yaml"))["clip"] == 3.0
    assert parse_settings(["clip=2"]) == {"clip": 2}
