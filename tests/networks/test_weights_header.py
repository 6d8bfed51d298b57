"""The header of a weights file: recipe, licences and metrics come back; old files are read, hostile ones refused."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from sonodistill.errors import WeightsError
from sonodistill.weights import WeightsInfo, load_weights, read_info, read_metadata, save_weights
from sonodistill.weights_header import MAX_CHARACTERS, decode, encode, to_json

RECIPE = {
    "student": "resnet18",
    "projector": {"layers": 1, "upsample": "bilinear"},
    "augmentation": {"scale": [0.5, 1.0], "flip": 0.5},
    "mixup": True,
    "learning_rate": 1e-4,
    "steps": 300,
    "seed": 0,
    "max_steps": None,
}
INFO = WeightsInfo(
    "encoder",
    "resnet18",
    teacher="vit_base_patch16_dinov3",
    licence_notice="Built with DINOv3.",
    recipe=RECIPE,
    corpus_licences={"CC BY 4.0": 1200, "unknown": 3},
    corpus_restrictions={"commercial use not stated": 3},
    metrics={"loss": 1.25, "knn_accuracy": 0.75},
    code_version="0" * 40 + "-dirty",
)
# As the first release wrote it.
OLD = {
    "sonodistill": "1",
    "kind": "encoder",
    "architecture": "resnet18",
    "normalisation": "[[0.449], [0.226]]",
    "input_size": "[224, 224]",
    "labels": "[]",
    "teacher": "dinov2_vits14",
    "corpus_hash": "ab12",
    "licence_notice": "",
    "origin": "",
    "version": "0.1.0",
}


def write(path: Path, **entries: str) -> Path:
    save_file({"a": torch.ones(1)}, path, metadata={**OLD, **entries})
    return path


def test_recipe_licences_metrics_and_code_version_come_back(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", {"a": torch.ones(2)}, INFO)
    assert load_weights(tmp_path / "w.safetensors")[1] == INFO


def test_the_header_is_plain_json_that_any_reader_of_safetensors_understands(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", {"a": torch.ones(2)}, INFO)
    header = read_metadata(tmp_path / "w.safetensors")
    assert json.loads(header["recipe"]) == RECIPE
    assert json.loads(header["corpus_licences"]) == INFO.corpus_licences
    assert header["licence_notice"] == "Built with DINOv3."


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    recipe=st.dictionaries(st.text(), json_values, max_size=4),
    metrics=st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    licences=st.dictionaries(st.text(), st.integers(0, 2**62), max_size=3),
)
def test_any_recipe_metrics_and_counts_survive_the_strings_they_are_stored_as(recipe, metrics, licences) -> None:
    try:
        info = WeightsInfo("encoder", "resnet18", recipe=recipe, metrics=metrics, corpus_licences=licences)
    except WeightsError as error:
        assert "nested deeper" in error.message
        return
    assert decode(encode(info)) == info


def test_the_record_does_not_follow_a_recipe_that_is_changed_later() -> None:
    recipe = {"augmentation": {"scale": (0.5, 1.0)}}
    info = WeightsInfo("encoder", "resnet18", recipe=recipe)
    recipe["augmentation"]["scale"] = None
    assert info.recipe == {"augmentation": {"scale": [0.5, 1.0]}}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_could_not_be_measured_does_not_keep_the_weights_from_being_written(
    tmp_path: Path, value: float
) -> None:
    save_weights(tmp_path / "w.safetensors", {"a": torch.ones(2)}, replace(INFO, metrics={"knn": value, "loss": 1.0}))
    info = load_weights(tmp_path / "w.safetensors")[1]
    assert math.isnan(info.metrics["knn"]) and info.metrics["loss"] == 1.0
    assert json.loads(json.dumps(to_json(info), allow_nan=False))["metrics"] == {"knn": None, "loss": 1.0}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("recipe", {"path": Path("x")}),
        ("recipe", {"a": math.nan}),
        ("recipe", {1: "a"}),
        ("recipe", ["a"]),
        ("recipe", {"a": torch.ones(1)}),
        ("corpus_licences", {"CC BY 4.0": 1.5}),
        ("corpus_restrictions", {"non-commercial": True}),
        ("metrics", {"loss": "low"}),
        ("normalisation", ((0.1, 0.2), (0.1,))),
        ("normalisation", ((0.1,), (0.0,))),
        ("input_size", (224.0, 224)),
        ("labels", "cyst"),
        ("teacher", None),
        ("kind", "student"),
        ("architecture", ""),
    ],
)
def test_what_could_not_be_read_again_cannot_be_recorded(field: str, value: object) -> None:
    with pytest.raises(WeightsError, match=field):
        replace(INFO, **{field: value})


def test_an_entry_that_no_reader_would_accept_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="recipe is .* characters long"):
        save_weights(tmp_path / "w.safetensors", {}, replace(INFO, recipe={"a": "x" * MAX_CHARACTERS}))
    assert not list(tmp_path.iterdir())


def test_a_file_of_the_first_release_is_read(tmp_path: Path) -> None:
    info = read_info(write(tmp_path / "w.safetensors"))
    assert info == WeightsInfo(
        "encoder", "resnet18", ((0.449,), (0.226,)), (224, 224), (), "dinov2_vits14", "ab12", version="0.1.0"
    )
    assert (info.recipe, info.corpus_licences, info.metrics, info.code_version) == ({}, {}, {}, "")


@pytest.mark.parametrize("version", ["1", "1.7"])
def test_entries_of_a_later_release_do_not_disturb(tmp_path: Path, version: str) -> None:
    path = write(tmp_path / "w.safetensors", sonodistill=version, sparsity="[0.5", recipe='{"optimiser": "new"}')
    assert read_info(path).recipe == {"optimiser": "new"}


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("recipe", "[" * 60_000),
        ("recipe", '{"a":' * 900 + "1" + "}" * 900),
        ("labels", "[" * 900 + "]" * 900),
        ("recipe", "x" * (MAX_CHARACTERS + 1)),
        ("licence_notice", "x" * (MAX_CHARACTERS + 1)),
        ("recipe", '{"a": NaN}'),
        ("recipe", '"resnet18"'),
        ("recipe", "9" * 5000),
        ("metrics", '{"a": 1e999}'),
        ("metrics", '{"a": {"b": 1}}'),
        ("metrics", '{"a": %s}' % ("9" * 4000)),
        ("corpus_licences", "[1]"),
        ("corpus_licences", '{"CC BY 4.0": -1}'),
        ("corpus_licences", '{"CC BY 4.0": 1e3}'),
        ("normalisation", "5"),
        ("normalisation", "[[0.4], [0]]"),
        ("normalisation", '{"a": 1, "b": 2}'),
        ("input_size", '"ab"'),
        ("input_size", "[0, 224]"),
        ("labels", '"cyst"'),
        ("labels", "[1]"),
        ("kind", "\x1b[31m" * 1000),
        ("architecture", ""),
    ],
)
def test_a_hostile_entry_is_refused_by_its_name_in_few_words(tmp_path: Path, entry: str, text: str) -> None:
    path = write(tmp_path / "w.safetensors", **{entry: text})
    with pytest.raises(WeightsError, match=f"cannot be read: {entry}") as caught:
        read_info(path)
    assert caught.value.path == path and len(caught.value.message) < 400 and "\x1b" not in caught.value.message


@pytest.mark.parametrize(
    "table",
    [
        b'{"__metadata__":' + b"[" * 50_000,
        b'{"__metadata__": {"sonodistill": 1}}',
        b'{"__metadata__": {"sonodistill": ["1"]}}',
        b'{"a": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 0]}}',
        b"\xff\xfe",
    ],
)
def test_a_hostile_table_of_tensors_is_refused(tmp_path: Path, table: bytes) -> None:
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(table)) + table)
    with pytest.raises(WeightsError, match="damaged"):
        read_info(tmp_path / "w.safetensors")


def test_a_table_longer_than_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", 2**63) + b"{}")
    with pytest.raises(WeightsError, match="damaged"):
        read_info(tmp_path / "w.safetensors")
