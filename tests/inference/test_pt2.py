"""A torch.export program is read, and one that could run code is refused before it does."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch

from sonodistill.errors import WeightsError
from sonodistill.inference.runtimes import open_runtime


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def rewritten(source, path, change):
    """A copy of a .pt2 file whose parts, by name, went through ``change``."""
    with zipfile.ZipFile(source) as archive:
        top = archive.namelist()[0].partition("/")[0]
        content = {name.removeprefix(f"{top}/"): archive.read(name) for name in archive.namelist()}
    change(content)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(f"{top}/{name}", data)
    return path


def test_a_pt2_file_that_was_packed_anew_is_read(models, images, logits, tmp_path):
    path = rewritten(models / "model.pt2", tmp_path / "model.pt2", lambda content: None)
    np.testing.assert_allclose(open_runtime(path)(images), logits, atol=2e-4)


def test_a_pt2_file_of_an_earlier_torch_is_read(models, images, logits, tmp_path):
    program = torch.export.load(models / "model.pt2")

    def in_one_part(content):
        for kind, tensors in (("weights", program.state_dict), ("constants", program.constants)):
            for name in [name for name in content if name.startswith(f"data/{kind}/")]:
                del content[name]
            buffer = io.BytesIO()
            torch.save(dict(tensors), buffer)
            content[f"data/{kind}/model.pt"] = buffer.getvalue()

    path = rewritten(models / "model.pt2", tmp_path / "model.pt2", in_one_part)
    np.testing.assert_allclose(open_runtime(path)(images), logits, atol=2e-4)


def pickled_inputs(content):
    buffer = io.BytesIO()
    torch.save(({"x": 1}, Evil()), buffer, pickle_module=pickle)
    content["data/sample_inputs/model.pt"] = buffer.getvalue()


def pickled_weight(content):
    name = "data/weights/model_weights_config.json"
    described = json.loads(content[name])
    next(iter(described["config"].values()))["use_pickle"] = True
    content[name] = json.dumps(described).encode()


def edited(change):
    def edit(content):
        program = json.loads(content["models/model.json"])
        change(program)
        content["models/model.json"] = json.dumps(program).encode()

    return edit


def call_mkdir(program):
    program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.mkdir"


def read_a_file(program):
    program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.from_file.default"


def guard(program):
    program["guards_code"] = ["__import__('os').mkdir('ran')"]


def size(program):
    text = re.sub(r"Symbol\('s\d+'[^)]*\)", "__import__('os').mkdir('ran')", json.dumps(program))
    assert "mkdir" in text
    program.update(json.loads(text))


def extra_code(content):
    content["data/aotinductor/model/model.so"] = b"\x7fELF"


@pytest.mark.parametrize(
    "spoil",
    [pickled_inputs, pickled_weight, edited(call_mkdir), edited(read_a_file), edited(guard), edited(size), extra_code],
    ids=["pickled inputs", "pickled weight", "operator", "file reader", "guard", "size", "library"],
)
def test_a_pt2_file_that_could_run_code_is_refused_before_it_does(models, tmp_path, monkeypatch, spoil):
    monkeypatch.chdir(tmp_path)
    path = rewritten(models / "model.pt2", tmp_path / "model.pt2", spoil)
    with pytest.raises(WeightsError, match="could run code"):
        open_runtime(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("size", ["1" * 60 + "x", "9**9**9", "Add(" * 100])
def test_a_size_that_would_take_for_ever_is_refused_at_once(size):
    from sonodistill.inference.runtimes.pt2 import _is_arithmetic

    assert not _is_arithmetic(size)
    assert _is_arithmetic("2*s0 + 1")
