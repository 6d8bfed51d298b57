"""Evaluations from end to end on simulated frames: every protocol, the cache, failures, few labels."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sonodistill.errors import BundleConfigError, DatasetError, UnreadableFileError
from sonodistill_training.evaluate import run as runner
from sonodistill_training.evaluate.data import read_set
from sonodistill_training.evaluate.encoders.load import load_encoder
from sonodistill_training.evaluate.learning.frozen import FrozenEncoder
from sonodistill_training.evaluate.learning.protocols import run_protocol
from sonodistill_training.evaluate.plan import Settings, parse_encoders, parse_sources, plan, requests
from sonodistill_training.evaluate.results import Store
from sonodistill_training.evaluate.run import run

sys.path.insert(0, str(Path(__file__).parent))
from folder_case import make_folder, rows_of, write_rows

ENCODERS = ("Tiny:resnet10t",)
FAST = {"epochs": 2, "input_size": 64, "batch_size": 8}
EVERY = ("knn", "linear", "frozen_encoder_unet", "finetune")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("frames") / "simulated")


@pytest.fixture
def planned(folder, tmp_path):
    def make(tasks, protocols, seeds=1, encoders=ENCODERS, source=folder, **amounts):
        specs = parse_encoders(encoders)
        wanted = requests(specs, ["simulated"], tasks, protocols, **amounts)
        return plan(wanted, specs, {"simulated": source}, Settings(seeds=seeds, changes=FAST), tmp_path / "data")

    return make


def test_every_protocol_gives_a_row_for_each_test_image(planned, tmp_path):
    store = Store(tmp_path / "out")
    results, failures = run(planned(["segmentation", "classification"], EVERY), store, device="cpu")
    assert not failures
    found = {(result.cell.task, result.cell.protocol) for result in results}
    assert found == {
        *(("segmentation", protocol) for protocol in ("linear", "frozen_encoder_unet", "finetune")),
        *(("classification", protocol) for protocol in ("knn", "linear", "finetune")),
    }
    for result in results:
        assert len(result.images) == 3
        if result.cell.task == "segmentation":
            dice, iou = result.column("dice"), result.column("iou")
            np.testing.assert_allclose(iou, dice / (2 - dice))
            assert result.summary["dice_empty1"] == pytest.approx(dice.mean())
            for mask, row in zip(result.masks(), result.images.to_pylist(), strict=True):
                assert mask.shape == (64, 64)
                assert mask.sum() == row["predicted_pixels"]
        else:
            assert set(result.column("predicted")) <= {"cyst", "hypoechoic", "hyperechoic", "none"}
            right = result.column("predicted") == result.column("truth")
            assert result.summary["accuracy"] == pytest.approx(right.mean())


def test_running_again_computes_nothing_and_changes_nothing(planned, tmp_path, monkeypatch):
    store = Store(tmp_path / "out")
    cells = planned(["classification"], ["knn", "linear"])
    run(cells, store, device="cpu")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    def refuse(*_):
        raise AssertionError("a finished cell was computed again")

    monkeypatch.setattr(runner, "run_protocol", refuse)
    results, failures = run(cells, store, device="cpu")
    assert len(results) == 2
    assert not failures
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_the_same_seed_gives_the_same_result_in_another_folder(planned, tmp_path):
    cells = planned(["segmentation"], ["finetune"])
    first, second = (run(cells, Store(tmp_path / name), device="cpu")[0][0] for name in "ab")
    assert first.summary == second.summary
    assert first.curve == second.curve


def test_other_epochs_are_another_cell(folder, planned, tmp_path):
    (short,) = planned(["segmentation"], ["finetune"])
    specs = parse_encoders(ENCODERS)
    wanted = requests(specs, ["simulated"], ["segmentation"], ["finetune"])
    settings = Settings(seeds=1, changes=FAST | {"epochs": 3})
    (longer,) = plan(wanted, specs, {"simulated": folder}, settings, tmp_path / "data")
    assert short.cell.key != longer.cell.key


def test_a_frozen_encoder_sees_each_frame_once(folder, tmp_path):
    data = read_set("simulated", folder, 64)
    encoder = load_encoder("Tiny:resnet10t", input_size=64)
    seen = []
    encoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    wrapped = encoder.pyramid
    encoder.pyramid = lambda images: (seen.append(len(images)), wrapped(images))[1]
    frozen = FrozenEncoder(lambda: encoder, data, torch.device("cpu"), "fp32", tmp_path)
    maps, gathered, pooled = frozen.maps(), frozen.gathered(), frozen.pooled()
    assert sum(seen) == len(data)
    assert frozen.maps() is maps
    assert (len(gathered), len(pooled)) == (20, 20)
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    np.testing.assert_allclose(pooled, maps[-1].mean(dim=(2, 3)), rtol=1e-5)


def test_labels_that_are_gathered_without_maps_are_the_same(folder, tmp_path):
    data = read_set("simulated", folder, 64)

    def frozen():
        make = lambda: load_encoder("Tiny:resnet10t", input_size=64)  # noqa: E731
        return FrozenEncoder(make, data, torch.device("cpu"), "fp32", tmp_path)

    after_maps = frozen()
    after_maps.maps()
    torch.testing.assert_close(frozen().gathered(), after_maps.gathered())
    torch.testing.assert_close(frozen().pooled(), after_maps.pooled())


def test_a_cell_is_the_same_alone_and_beside_one_of_another_size(folder, planned, tmp_path):
    (alone,), _ = run(planned(["classification"], ["linear"]), Store(tmp_path / "alone"), device="cpu")
    specs = parse_encoders(ENCODERS)
    other = requests(specs, ["simulated"], ["segmentation"], ["linear"])
    settings = Settings(seeds=1, changes=FAST | {"input_size": 96})
    larger = plan(other, specs, {"simulated": folder}, settings, tmp_path / "data")
    cells = [*larger, *planned(["classification"], ["linear"])]
    results, failures = run(cells, Store(tmp_path / "beside"), device="cpu")
    assert not failures
    assert results[1].cell == alone.cell
    assert results[1].summary == alone.summary


def test_another_precision_is_another_cell(folder, tmp_path):
    specs = parse_encoders(ENCODERS)
    wanted = requests(specs, ["simulated"], ["segmentation"], ["linear"])
    keys = {
        plan(wanted, specs, {"simulated": folder}, Settings(1, precision=word, changes=FAST), tmp_path)[0].cell.key
        for word in ("fp32", "bf16")
    }
    assert len(keys) == 2


def test_an_error_that_nobody_foresaw_costs_its_own_cell_alone(planned, tmp_path, monkeypatch):
    def broken(trial, on_epoch):
        if trial.cell.protocol == "linear":
            raise RuntimeError("Output size is too small")
        return run_protocol(trial, on_epoch)

    monkeypatch.setattr(runner, "run_protocol", broken)
    results, failures = run(planned(["classification"], ["knn", "linear"]), Store(tmp_path / "out"), device="cpu")
    assert [result.cell.protocol for result in results] == ["knn"]
    assert failures[0].reason == "RuntimeError: Output size is too small"


def test_a_set_with_one_label_is_not_classified(tmp_path, planned):
    folder = make_folder(tmp_path / "labels")
    write_rows(folder, [row | {"label": "cyst"} for row in rows_of(folder)])
    _, failures = run(planned(["classification"], ["knn"], source=folder), Store(tmp_path / "out"), device="cpu")
    assert "two classes are needed" in failures[0].reason


def test_results_of_another_release_are_left_out(planned, tmp_path):
    store = Store(tmp_path / "out")
    results, _ = run(planned(["classification"], ["knn", "linear"]), store, device="cpu")
    path = results[0].folder / "cell.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 0}))
    assert [result.cell.key for result in store.all()] == [results[1].cell.key]


def test_runs_with_few_labels_draw_other_frames_and_say_how_many(planned, tmp_path):
    cells = planned(["classification"], ["linear"], seeds=2, fractions=[0.5], shots=[6])
    assert [(item.cell.fraction, item.cell.shots, item.cell.draw) for item in cells] == [
        (0.5, 0, 0),
        (1.0, 6, 0),
        (0.5, 0, 1),
        (1.0, 6, 1),
    ]
    results, failures = run(cells, Store(tmp_path / "out"), device="cpu")
    assert not failures
    assert [result.about["frames"]["train"] for result in results] == [7, 6, 7, 6]


def test_a_cell_that_fails_is_listed_and_the_others_go_on(planned, tmp_path, monkeypatch):
    cells = planned(["segmentation", "classification"], ["linear"])

    def broken(trial, on_epoch):
        outcome = run_protocol(trial, on_epoch)
        if trial.cell.task == "segmentation":
            outcome.logits[0][1, 0, 5, 5] = torch.nan
        return outcome

    monkeypatch.setattr(runner, "run_protocol", broken)
    results, failures = run(cells, Store(tmp_path / "out"), device="cpu")
    assert [result.cell.task for result in results] == ["classification"]
    assert [failure.cell.task for failure in failures] == ["segmentation"]
    name = cells[0].data.files[cells[0].division.test[1]]
    assert name in failures[0].reason
    assert "not numbers" in failures[0].reason


def test_a_label_that_only_the_test_set_has_is_refused(tmp_path, planned):
    folder = make_folder(tmp_path / "labels")
    rows = rows_of(folder)
    next(row for row in rows if row["split"] == "test")["label"] = "unheard of"
    write_rows(folder, rows)
    _, failures = run(planned(["classification"], ["knn"], source=folder), Store(tmp_path / "out"), device="cpu")
    assert "'unheard of' is none of the classes" in failures[0].reason


def test_a_result_that_was_changed_is_refused(planned, tmp_path):
    store = Store(tmp_path / "out")
    cells = planned(["classification"], ["knn"])
    run(cells, store, device="cpu")
    path = store.path(cells[0].cell) / "cell.json"
    content = json.loads(path.read_text())
    content["cell"]["seed"] = 7
    path.write_text(json.dumps(content))
    with pytest.raises(UnreadableFileError, match="was changed"):
        store.all()


def test_an_empty_store_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="no finished evaluation"):
        Store(tmp_path).all()


def test_neighbours_are_computed_once_unless_weights_or_labels_are_random(planned, folder, tmp_path):
    assert len(planned(["classification"], ["knn"], seeds=3)) == 3
    weights = tmp_path / "tiny.pt"
    torch.save(load_encoder("Tiny:resnet10t", input_size=64).model.state_dict(), weights)
    fixed = (f"Fixed:resnet10t={weights}",)
    assert len(planned(["classification"], ["knn"], seeds=3, encoders=fixed)) == 1
    assert len(planned(["classification"], ["knn"], seeds=3, encoders=fixed, fractions=[0.5])) == 3


def test_a_plain_transformer_takes_a_light_head_and_a_size_of_whole_patches(folder, tmp_path):
    specs = parse_encoders(["Vit:vit_tiny_patch16_224"])
    wanted = requests(specs, ["simulated"], ["segmentation"], ["finetune", "frozen_encoder_unet"])
    settings = Settings(seeds=1, changes=FAST | {"input_size": 70})
    cells = plan(wanted, specs, {"simulated": folder}, settings, tmp_path / "data")
    assert {item.cell.head for item in cells} == {"light"}
    assert {item.cell.recipe.input_size for item in cells} == {64}
    results, failures = run(cells, Store(tmp_path / "out"), device="cpu")
    assert not failures
    assert len(results) == 2


@pytest.mark.parametrize(
    "wrong", [{"tasks": ["detection"]}, {"protocols": ["magic"]}, {"tasks": ["segmentation"], "protocols": ["knn"]}]
)
def test_what_cannot_be_evaluated_is_refused(wrong):
    asked = {"tasks": ["segmentation"], "protocols": ["linear"]} | wrong
    with pytest.raises(BundleConfigError):
        requests(["Tiny"], ["simulated"], asked["tasks"], asked["protocols"])


@pytest.mark.parametrize("texts", [["busi"], ["=folder"], ["busi="], ["busi=a", "busi=b"], ["../up=a"]])
def test_a_data_set_without_a_name_or_folder_is_refused(texts):
    with pytest.raises(BundleConfigError, match="names no data set"):
        parse_sources(texts)
