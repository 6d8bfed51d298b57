"""`sonodistill weights ship`: half the size and the same answers, or a refusal that names what is wrong."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sonodistill import models
from sonodistill.annotate.training.versions import Versions
from sonodistill.errors import SonoDistillError, WeightsError
from sonodistill.files import sha256
from sonodistill.inference.familiarity import fit, to_tensors
from sonodistill.inference.predictor import Predictor
from sonodistill.networks.checkpoint import load_network
from sonodistill.networks.click import ClickSegmenter
from sonodistill.networks.encoder import Encoder, plain_state_dict
from sonodistill.networks.unet import Segmenter
from sonodistill.weights import WeightsInfo, load_weights, read_info, read_metadata, save_weights
from sonodistill_training import weights_commands
from sonodistill_training.export.export import export, prepare
from sonodistill_training.export.frames import FrameSet, default_frames
from sonodistill_training.export.targets import find_target
from sonodistill_training.ship import index
from sonodistill_training.ship.ship import Said, Shipped, ship
from sonodistill_training.ship.terms import is_free

NAME = "resnet10t"
SAID = Said("resnet-us", "an encoder", data=("hc18", "aul"))
LESION = Said("breast-lesion", data=("busi",), metrics={"dice": 0.5})


@pytest.fixture
def student(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "student.safetensors"
    info = WeightsInfo(
        "encoder",
        NAME,
        input_size=(64, 64),
        corpus_hash="ab",
        corpus_licences={"CC BY 4.0": 9},
        licence_notice="Notice.",
    )
    save_weights(path, plain_state_dict(Encoder(NAME)), info, more={"of_a_later_release": "kept"})
    return path


@pytest.fixture
def home(tmp_path: Path, student: Path) -> Path:
    """A folder of models with the encoder."""
    ship(student, tmp_path / "models", SAID)
    return tmp_path / "models"


def frozen_segmenter(encoder: Path, path: Path) -> Path:
    """What a training with ``freeze_encoder`` leaves."""
    torch.manual_seed(1)
    network = Segmenter(NAME, weights=encoder)
    info = WeightsInfo(
        "segmenter", NAME, input_size=(64, 64), labels=("lesion",), corpus_hash="ab", metrics={"f": 0.25}
    )
    save_weights(path, network.state_dict(), info)
    return path


def test_an_encoder_is_halved_with_its_counters_and_header(home: Path, student: Path) -> None:
    path = home / "resnet-us.safetensors"
    before, info = load_weights(student)
    state, found = load_weights(path)
    assert found == info
    assert read_metadata(path)["of_a_later_release"] == "kept"
    assert state.keys() == before.keys()
    assert {state[key].dtype for key in state if key.endswith("num_batches_tracked")} == {torch.int64}
    assert state["conv1.0.weight"].dtype == torch.float16
    assert path.stat().st_size < 0.51 * student.stat().st_size


def test_the_index_says_what_the_file_says(home: Path) -> None:
    model = models.catalogue(home)["resnet-us"]
    path = home / "resnet-us.safetensors"
    assert (model.part.bytes, model.part.sha256) == (path.stat().st_size, sha256(path))
    assert (model.kind, model.architecture, model.input_size) == ("encoder", NAME, (64, 64))
    assert model.data == {"hc18": "CC BY 4.0", "aul": "CC BY 4.0"}
    assert (model.licences, model.licence_notice) == (("CC BY 4.0",), "Notice.")
    assert (home / index.PAGE).read_text("utf-8") == index.page(models.catalogue(home).values())
    assert sorted(file.name for file in home.iterdir()) == ["README.md", "index.json", "resnet-us.safetensors"]


def test_networks_on_one_encoder_store_it_once_and_answer_as_before(home: Path, tmp_path: Path) -> None:
    source = frozen_segmenter(home / "resnet-us.safetensors", tmp_path / "model.safetensors")
    shipped = ship(source, home, LESION, encoder="resnet-us")
    assert 0 < shipped.change < 0.01
    model = models.catalogue(home)["breast-lesion"]
    assert model.encoder == "resnet-us.safetensors"
    assert model.data == {"hc18": "CC BY 4.0", "aul": "CC BY 4.0", "busi": "CC BY 4.0"}, "its encoder's data too"
    assert model.metrics == {"f": 0.25, "dice": 0.5}
    assert model.part.bytes < 0.7 * (home / "resnet-us.safetensors").stat().st_size

    image = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        wanted, found = (load_network(path)[0](image) for path in (source, model.path))
    assert (found - wanted).norm() / wanted.norm() < 0.01
    assert Predictor(model.path).kind == "segmenter"


def test_an_encoder_that_was_trained_on_is_refused_and_may_be_shipped_whole(home: Path, tmp_path: Path) -> None:
    source = frozen_segmenter(home / "resnet-us.safetensors", tmp_path / "model.safetensors")
    state, info = load_weights(source)
    state["encoder.model.conv1.0.weight"] *= 1.01
    save_weights(source, state, info)
    before = sorted(file.name for file in home.iterdir())
    with pytest.raises(WeightsError, match=r"1 of \d+ tensors of the network's encoder") as caught:
        ship(source, home, LESION, encoder="resnet-us")
    assert caught.value.path == source
    assert sorted(file.name for file in home.iterdir()) == before
    whole = ship(source, home, LESION).model
    assert whole.encoder == ""
    assert whole.data == {"hc18": "CC BY 4.0", "aul": "CC BY 4.0", "busi": "CC BY 4.0"}, "its encoder is of that corpus"


def test_the_warning_score_of_a_network_goes_along_in_full_precision(home: Path, tmp_path: Path) -> None:
    source = frozen_segmenter(home / "resnet-us.safetensors", tmp_path / "model.safetensors")
    state, info = load_weights(source)
    drawn = np.random.default_rng(0).normal(size=(80, 8))
    score = {key: torch.from_numpy(np.array(value)) for key, value in to_tensors(fit(drawn[:60], drawn[60:])).items()}
    save_weights(source, {**state, **score}, replace(info, familiarity={"version": 1}))
    model = ship(source, home, LESION, encoder="resnet-us").model
    shipped, found = load_weights(model.path)
    assert found.familiarity == {"version": 1}
    assert all(torch.equal(shipped[key], value) and shipped[key].dtype == torch.float32 for key, value in score.items())
    load_network(Versions(tmp_path / "embedding").begin_with(model.path).path)  # the encoder alone has no such score
    assert load_network(Versions(tmp_path / "segmentation").begin_with(model.path).path)[1].familiarity


def test_a_click_segmenter_is_compared_with_a_click(home: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = ClickSegmenter(NAME, 16)
    info = WeightsInfo("interactive", NAME, input_size=(64, 64), labels=("lesion",))
    save_weights(tmp_path / "click.safetensors", network.state_dict(), info)
    shipped = ship(tmp_path / "click.safetensors", home, Said("clicks", data=("busi",)))
    assert 0 < shipped.change < 0.01


def test_an_encoder_that_others_share_is_not_replaced_by_another(home: Path, tmp_path: Path, student: Path) -> None:
    ship(
        frozen_segmenter(home / "resnet-us.safetensors", tmp_path / "m.safetensors"), home, LESION, encoder="resnet-us"
    )
    again = ship(student, home, replace(SAID, title="the same"))
    assert again.model.title == "the same"
    state, info = load_weights(student)
    state["conv1.0.weight"] *= 1.01
    save_weights(student, state, info)
    with pytest.raises(WeightsError, match="breast-lesion are made with the encoder"):
        ship(student, home, SAID)
    load_network(home / "breast-lesion.safetensors")


def test_what_half_precision_changes_is_refused(student: Path, tmp_path: Path) -> None:
    state, info = load_weights(student)
    state["conv1.0.weight"] *= 1e7
    save_weights(student, state, info)
    with pytest.raises(WeightsError, match=r"not finite in half precision \(conv1.0.weight"):
        ship(student, tmp_path / "models", SAID)
    state["conv1.0.weight"] *= 1e-14
    save_weights(student, state, info)
    with pytest.raises(WeightsError, match="in half precision its output changes by"):
        ship(student, tmp_path / "models", SAID)
    assert models.catalogue(tmp_path / "models") == {}


def test_a_file_and_a_folder_may_not_be_too_large(home: Path, student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (home / "resnet-us.safetensors").stat().st_size
    monkeypatch.setattr(index, "FOLDER_LIMIT", 2 * size - 1)
    with pytest.raises(SonoDistillError, match="together"):
        ship(student, home, replace(SAID, name="another"))
    ship(student, home, SAID)  # in the place of what is there
    monkeypatch.setattr(index, "FILE_LIMIT", size - 1)
    with pytest.raises(SonoDistillError, match="a shipped file"):
        ship(student, home, SAID)
    assert list(models.catalogue(home)) == ["resnet-us"]


@pytest.mark.parametrize(
    ("licences", "said", "reason"),
    [
        ({"CC BY 4.0": 9}, {"data": ()}, "not said what the model was trained on"),
        ({}, {}, "licence of its corpus is not known"),
        ({"CC BY 4.0": 1, "unknown": 8}, {}, "licence of 8 frames of its corpus is not known"),
        ({"CC BY-NC-SA 4.0": 1, "CC BY 4.0": 8}, {}, "CC BY-NC-SA 4.0; only"),
        ({"CC BY-NC-SA 4.0": 1}, {"licences": ("CC BY 4.0",)}, "CC BY-NC-SA 4.0; only"),
        ({"CC BY 4.0": 1}, {"data": ("camus",)}, "CC BY-NC-SA 4.0; only"),
        ({"CC BY 4.0": 1}, {"data": ("ddti",)}, "of the data set ddti is not known"),
        ({"unknown": 1}, {"licences": ("CC BY-NC 4.0",)}, "CC BY-NC 4.0; only"),
        ({"CC BY 4.0": 1}, {"data": ("bussi",)}, "no data set is called 'bussi'"),
    ],
)
def test_data_that_are_not_known_to_be_free_are_refused(student: Path, tmp_path: Path, licences, said, reason) -> None:
    state, info = load_weights(student)
    save_weights(student, state, replace(info, corpus_licences=licences))
    with pytest.raises(SonoDistillError, match=reason):
        ship(student, tmp_path / "models", replace(SAID, **said))
    assert not (tmp_path / "models").exists() or models.catalogue(tmp_path / "models") == {}


def test_licences_that_are_said_stand_where_none_is_known(student: Path, tmp_path: Path) -> None:
    state, info = load_weights(student)
    save_weights(student, state, replace(info, corpus_licences={"unknown": 9}))
    said = replace(SAID, data=("pocus_lung", "muscle_timtrack"), licences=("CC BY 4.0", "CC BY 2.0"))
    model = ship(student, tmp_path / "models", said).model
    assert model.data["pocus_lung"] == "CC BY 4.0, CC BY 2.0"
    assert "CC BY 2.0" in model.licences


@pytest.mark.parametrize(("text", "free"), [
    ("CC BY 4.0", True), ("CC0 1.0 (data sets 1, 2), CC BY 4.0 (3, 4)", True), ("cc0", True), ("CC BY-SA 4.0", False),
    ("CC BY-ND 4.0", False), ("CC BY 4.0, CC BY-NC 4.0", False), ("", False), ("unknown", False), ("MIT", False),
])  # fmt: skip
def test_free_is_cc_by_and_cc0_alone(text: str, free: bool) -> None:
    assert is_free(text) is free


@pytest.mark.slow  # exporting to ONNX takes most of a minute
def test_an_exported_twin_has_the_terms_of_what_it_was_made_from(home: Path, tmp_path: Path) -> None:
    source = frozen_segmenter(home / "resnet-us.safetensors", tmp_path / "model.safetensors")
    ship(source, home, LESION, encoder="resnet-us")
    made = tmp_path / "model.onnx"
    few = FrameSet((), default_frames((64, 64)).check[:2], "given", 1)
    export(prepare(home / "breast-lesion.safetensors", lambda _: few), find_target("onnx"), made)
    model = ship(made, home, Said("breast-lesion.onnx")).model
    assert model.data == models.catalogue(home)["breast-lesion"].data
    assert Predictor(home / "breast-lesion.onnx").labels == ("lesion",)
    with pytest.raises(WeightsError, match="no name for an exported model"):
        ship(made, home, Said("fetal-head.onnx"))

    state, info = load_weights(source)
    state["segmentation_head.0.bias"] += 1
    save_weights(source, state, info)
    changed = ship(source, home, LESION, encoder="resnet-us")
    assert changed.dropped == ("breast-lesion.onnx",), "what was exported from the file before is not its twin"
    assert list(models.catalogue(home)) == ["resnet-us", "breast-lesion"]
    assert not (home / "breast-lesion.onnx").exists()
    with pytest.raises(WeightsError, match="not exported from the shipped breast-lesion"):
        ship(made, home, Said("breast-lesion.onnx"))


def test_the_command_says_what_it_did_and_an_odd_name_or_metric_is_refused(student: Path, tmp_path: Path) -> None:
    home = tmp_path / "models"

    def call(*more: str):
        return CliRunner().invoke(weights_commands.app, ["ship", str(student), "--into", str(home), *more])

    done = call("--name", "resnet-us", "--data", "hc18", "--metric", "knn=0.9", "--title", "Encoder")
    assert done.exit_code == 0, done.output
    assert "resnet-us.safetensors" in done.output
    assert json.loads((home / "index.json").read_text("utf-8"))["models"][0]["metrics"] == {"knn": 0.9}
    for bad in (["--name", "../x"], ["--name", "a", "--metric", "knn"], ["--name", "a", "--metric", "knn=nan"]):
        assert isinstance(call(*bad, "--data", "hc18").exception, SonoDistillError)


def test_a_head_that_is_copied_with_its_encoder_can_be_shipped_again(home: Path, tmp_path: Path) -> None:
    ship(
        frozen_segmenter(home / "resnet-us.safetensors", tmp_path / "m.safetensors"), home, LESION, encoder="resnet-us"
    )
    copied = tmp_path / "copied"
    shutil.copytree(home, copied)
    shipped: Shipped = ship(copied / "breast-lesion.safetensors", home, LESION, encoder="resnet-us")
    assert shipped.change == 0
    assert read_info(home / "breast-lesion.safetensors").encoder_file == "resnet-us.safetensors"
