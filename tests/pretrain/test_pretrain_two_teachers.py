"""From a corpus to masks by the commands of docs/pretraining.md: our own teacher and another teach one student."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
from pydicom import examples
from typer.testing import CliRunner

from sonodistill.cli import build
from sonodistill.errors import BundleConfigError
from sonodistill.weights import WeightsInfo, read_info, save_weights
from sonodistill_training.corpus.simulator import write_simulated
from sonodistill_training.distill.teacher import combined_notice, load_teachers
from sonodistill_training.pretrain.build import corpus_notice, make_vit, write_teacher
from sonodistill_training.workflow import run_bundle

VIT = ["--network", "test_vit", "--input-size", "64", "--batch-size", "4", "--steps", "2", "--learning-rate", "0.001"]
HEADS = {"local_size": 32, "local_views": 2, "prototypes": 16, "head_hidden": 16, "head_bottleneck": 8, "workers": 0}
DINOV2 = "Distilled from DINOv2 (Meta AI), Apache License 2.0."


def command(*words) -> str:
    done = CliRunner().invoke(build(), [str(word) for word in words])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    return done.output


def own_teacher(path: Path, licences: dict[str, int]) -> Path:
    """A random ViT with patches of 16 pixels, written as `sonodistill pretrain` writes it."""
    write_teacher(path, make_vit("test_vit", input_size=32), 32, "0" * 64, "", {"corpus_licences": licences})
    return path


def dinov2(path: Path) -> Path:
    """A random DINOv2 with patches of 14 pixels, three channels and ImageNet's mean, as the offline teacher is kept."""
    name = "vit_small_patch14_dinov2.lvd142m"
    state = timm.create_model(name, img_size=28, num_classes=0).state_dict()
    save_weights(path, dict(state), WeightsInfo("teacher", name, licence_notice=DINOV2))
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    cine = examples.get_path("ybr_color")
    out = folder / "corpus"
    command("corpus", "build", cine, "--out", out, "--workers", 1, "--key", folder / "key", "--splits", "1,0,0")
    return out


@pytest.mark.slow
def test_from_a_corpus_to_masks_with_two_teachers(corpus, tmp_path):
    runs = tmp_path / "runs"
    command("pretrain", corpus, "--out", runs / "vit", *VIT, *(f"--set={k}={v}" for k, v in HEADS.items()))
    own = runs / "vit" / "teacher.safetensors"
    licences = read_info(own).corpus_licences
    assert licences and read_info(own).licence_notice == corpus_notice(licences, read_info(own).corpus_restrictions)

    other = dinov2(tmp_path / "dinov2_small.safetensors")
    teachers = ["--teacher", own, "--teacher", other]
    small = [
        "--student",
        "resnet18",
        "--input-size",
        112,
        "--batch-size",
        2,
        "--steps",
        2,
        "--set=teacher_engine=torch",
    ]
    command("distill", corpus, "--out", runs / "r18", *teachers, *small)
    student = read_info(runs / "r18" / "student.safetensors")
    assert student.teacher == "teacher+dinov2_small"
    assert student.licence_notice.splitlines() == [*read_info(own).licence_notice.splitlines(), DINOV2]
    assert "does not say" not in student.licence_notice
    assert student.corpus_licences == licences

    labelled = write_simulated(tmp_path / "labelled", 12, size=(64, 64), progress=False)
    folders = {"dataset_dir": labelled, "output_dir": runs / "segmenter", "ckpt_dir": runs / "segmenter"}
    start = {"encoder": "resnet18", "encoder_weights": runs / "r18" / "student.safetensors"}
    run_bundle("train.yaml", **folders, **start, input_size=[64, 64], max_epochs=1, batch_size=4)
    model = runs / "segmenter" / "model.safetensors"
    assert read_info(model).kind == "segmenter"
    command(
        "export", model, "--to", "onnx", "--frames", labelled / "images", "--out", runs / "onnx", "--input-size", 64
    )
    command("predict", runs / "onnx" / "model.onnx", examples.get_path("ybr_color"), "--out", tmp_path / "masks")
    assert len(list((tmp_path / "masks").glob("*.png"))) == 30


def test_teachers_of_other_patches_and_normalisations_teach_at_a_common_size(tmp_path):
    own, other = own_teacher(tmp_path / "own.safetensors", {"CC BY 4.0": 7}), dinov2(tmp_path / "other.safetensors")
    teachers = load_teachers([own, other], input_size=112)
    assert [teacher.patch_size for teacher in teachers] == [16, 14]
    assert [teacher.backbone.channels for teacher in teachers] == [1, 3]
    assert teachers[0].input.normalisation != teachers[1].input.normalisation
    assert combined_notice(teachers) == f"Pretrained on ultrasound frames by licence: CC BY 4.0 (7).\n{DINOV2}"
    with pytest.raises(BundleConfigError) as caught:
        load_teachers([own, other], input_size=160)
    assert "112 or 224: a multiple of 112 suits all teachers" in caught.value.remedy


def test_two_teachers_of_one_corpus_are_named_apart_and_their_notice_is_said_once(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    files = [own_teacher(tmp_path / name / "teacher.safetensors", {"CC BY 4.0": 7}) for name in "ab"]
    teachers = load_teachers(files, input_size=32)
    assert [teacher.name for teacher in teachers] == ["teacher", "teacher (2)"]
    assert combined_notice(teachers).count("CC BY 4.0") == 1


def test_what_a_licence_withholds_is_in_the_notice():
    notice = corpus_notice({"CC BY-NC 4.0": 5, "unknown": 2}, {"non-commercial": 5, "commercial use not stated": 2})
    assert notice == (
        "Pretrained on ultrasound frames by licence: CC BY-NC 4.0 (5), unknown (2). "
        "Withheld: non-commercial (5), commercial use not stated (2)."
    )
    assert corpus_notice({}) == corpus_notice(None) == ""


def test_the_notice_of_the_weights_it_started_from_comes_first(tmp_path):
    first = own_teacher(tmp_path / "first.safetensors", {"CC BY 4.0": 7})
    vit = make_vit("test_vit", first, input_size=32)
    write_teacher(tmp_path / "on.safetensors", vit, 32, "1" * 64, vit.licence_notice, {"corpus_licences": {"CC0": 3}})
    assert read_info(tmp_path / "on.safetensors").licence_notice.splitlines() == [
        "Pretrained on ultrasound frames by licence: CC BY 4.0 (7).",
        "Pretrained on ultrasound frames by licence: CC0 (3).",
    ]


@pytest.mark.slow
def test_our_teacher_and_the_real_dinov2_teach_one_student(shared, tmp_path):
    """A training of minutes on real frames: both losses fall."""
    frames = shared / "data" / "frames" / "hc18"
    heads = [f"--set={name}={value}" for name, value in HEADS.items()]
    command("pretrain", frames, "--out", tmp_path / "vit", *VIT[:-4], "--steps", 40, "--learning-rate", "0.001", *heads)
    teachers = ["--teacher", tmp_path / "vit/teacher.safetensors"]
    teachers += ["--teacher", shared / "weights/dinov2_vits14.fp16.safetensors"]
    small = ["--student", "resnet18", "--input-size", 112, "--batch-size", 16, "--steps", 40, "--set=log_steps=10"]
    command(
        "distill", frames, "--out", tmp_path / "r18", *teachers, *small, "--learning-rate", "0.001", "--set=clip=3.0"
    )
    rows = [json.loads(line) for line in (tmp_path / "r18/log.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"]
    info = read_info(tmp_path / "r18/student.safetensors")
    assert info.teacher == "teacher+dinov2_vits14.fp16" and "DINOv2" in info.licence_notice
