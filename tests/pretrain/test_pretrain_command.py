"""`sonodistill pretrain` on pydicom's ultrasound: a teacher comes out that `sonodistill distill` takes."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import typer
from monai.bundle import ConfigParser
from pydicom import examples
from typer.testing import CliRunner

from sonodistill.bundle import package_bundle
from sonodistill.errors import BundleConfigError
from sonodistill.weights import read_info
from sonodistill_training.pretrain.crops import multi_crop
from sonodistill_training.pretrain.method import LossWeights
from sonodistill_training.pretrain.schedules import Schedules
from sonodistill_training.pretrain_commands import pretrain
from sonodistill_training.workflow import overlay_files, run_bundle

CONFIGS = package_bundle() / "configs"
SMALL = ["--network", "test_vit", "--input-size", "32", "--batch-size", "4", "--learning-rate", "0.001"]
SETTINGS = {"local_size": 16, "local_views": 2, "prototypes": 16, "head_hidden": 16, "head_bottleneck": 8}


def command(*options):
    """Run the command; the result of its end."""
    app = typer.Typer()
    app.command()(pretrain)
    words = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    done = CliRunner().invoke(app, [*SMALL, *words, "--set", "log_steps=1", *map(str, options)])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a training on one of pydicom's cines, and what the command said."""
    folder = tmp_path_factory.mktemp("vit")
    return folder, command(examples.get_path("ybr_color"), "--out", folder, "--steps", 3, "--registers", 2)


def test_a_cine_becomes_a_teacher_with_its_header_and_log(trained):
    folder, said = trained
    assert str(folder / "teacher.safetensors") in said
    info = read_info(folder / "teacher.safetensors")
    assert info.kind == "teacher" and info.architecture == "test_vit" and info.corpus_hash
    assert info.recipe["registers"] == 2 and info.metrics["rankme"] >= 1
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3] and "rankme" in rows[-1]


def test_it_is_probed_on_labels_and_masks(trained, tmp_path):
    probe = tmp_path / "probe"
    probe.mkdir()
    generator = np.random.default_rng(0)
    lines = ["file,label,mask,group"]
    for number in range(24):
        image = cv2.resize(generator.integers(0, 120, (12, 14), dtype=np.uint8), (56, 48))
        mask = np.zeros_like(image)
        cv2.circle(mask, (28, 24), 6 + 6 * (number % 2), 255, -1)
        cv2.imwrite(str(probe / f"{number}.png"), image + mask // 3)
        cv2.imwrite(str(probe / f"{number}_mask.png"), mask)
        lines.append(f"{number}.png,{('small', 'large')[number % 2]},{number}_mask.png,p{number}")
    (probe / "index.csv").write_text("\n".join(lines))
    folder, _ = trained
    command(folder / "corpus", "--out", tmp_path / "probed", "--steps", 2, "--probe", probe)
    metrics = read_info(tmp_path / "probed" / "teacher.safetensors").metrics
    assert 0 < metrics["probe_dice"] <= 1 and 0 < metrics["probe_accuracy"] <= 1


def test_a_student_is_distilled_from_it_by_naming_its_file(trained, tmp_path):
    folder, _ = trained
    small = {"student_name": "resnet18", "input_size": 32, "batch_size": 2, "max_steps": 1, "teacher_engine": "torch"}
    teacher = folder / "teacher.safetensors"
    run_bundle("distill.yaml", dataset_dir=folder / "corpus", output_dir=tmp_path, teacher_name=teacher, **small)
    assert read_info(tmp_path / "student.safetensors").teacher == "teacher"


def test_it_starts_from_a_checkpoint_with_another_loss(trained, tmp_path):
    folder, _ = trained
    dino = ["--set", "ibot_weight=0", "--set", "koleo_weight=0", "--set", "balance=centering"]
    start = ["--weights", folder / "teacher.safetensors", "--channels", 3]
    command(folder / "corpus", "--out", tmp_path, "--steps", 1, *start, *dino)
    (row,) = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert "dino" in row and "ibot" not in row and "koleo" not in row


def test_a_masked_autoencoder_is_an_overlay_of_the_same_config(trained, tmp_path):
    folder, _ = trained
    decoder = ["--set", "decoder_dim=32", "--set", "decoder_depth=1"]
    command(folder / "corpus", "--out", tmp_path, "--steps", 1, "--recipe", "mae", *decoder)
    info = read_info(tmp_path / "teacher.safetensors")
    assert info.kind == "teacher" and info.recipe["method"] == "MAE" and info.metrics["rankme"] >= 1
    with pytest.raises(BundleConfigError, match="no recipe simmim"):
        overlay_files("pretrain", ["simmim"])


def test_the_defaults_of_the_config_are_dinov2s_with_paper_bs_epochs_and_batch():
    parser = ConfigParser()
    parser.read_config(str(CONFIGS / "pretrain.yaml"))
    assert (parser["max_epochs"], parser["batch_size"], parser["prototypes"]) == (40, 512, 65536)
    assert parser["learning_rate"] == pytest.approx(0.004 * (512 / 1024) ** 0.5, rel=1e-3)
    built = {name: parser.get_parsed_content(f"method#{name}") for name in ("schedules", "weights")}
    assert built == {"schedules": Schedules(), "weights": LossWeights()}
    assert parser.get_parsed_content("crops").identity == multi_crop().identity
    assert parser["training"] == parser["run"] or parser["training"] == "%run"
