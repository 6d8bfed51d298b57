"""An encoder may have a say in which frames of a clip are new."""

from __future__ import annotations

import pytest
import torch

from sonodistill.networks.encoder import Encoder
from sonodistill.weights import WeightsInfo, save_weights
from sonodistill_training.bench.cine import encoded_loop, write_cine
from sonodistill_training.corpus.extract import extract
from sonodistill_training.corpus.extraction import Extraction
from sonodistill_training.corpus.sandbox import Limits, Sandbox
from sonodistill_training.corpus.thinning import Thinning


@pytest.fixture(scope="module")
def cine(tmp_path_factory):
    path = tmp_path_factory.mktemp("cine") / "cine.dcm"
    write_cine(path, encoded_loop(3, distinct=24), 24)
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    torch.manual_seed(0)
    network = Encoder("resnet18")
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    info = WeightsInfo("encoder", network.name, network.input.normalisation, (64, 64))
    save_weights(path, network.state_dict(), info)
    return path


def kept(answers) -> list[int]:
    return [header["frame"] for header, _ in answers if header["kind"] == "frame"]


def options(**more) -> dict:
    return Extraction(thinning=Thinning(per_second=1000, different=0.001), **more).to_json()


def test_frames_that_an_encoder_finds_alike_are_redundant(cine, encoder):
    alone = kept(extract(str(cine), options(), "00" * 32))
    alike = kept(extract(str(cine), options(encoder=str(encoder), unlike=2.0), "00" * 32))
    different = kept(extract(str(cine), options(encoder=str(encoder), unlike=0.0), "00" * 32))
    assert len(alone) > 3
    assert alike == alone[:1], "no two embeddings are opposite, so the first frame stands for all"
    assert set(different) <= set(alone)
    assert len(different) > 1


@pytest.mark.slow
def test_the_child_can_run_the_encoder_within_its_limits(cine, encoder):
    with Sandbox("sonodistill_training.corpus.extract", "extract", Limits(memory_bytes=16 << 30)) as sandbox:
        arguments = {"file": str(cine), "options": options(encoder=str(encoder), unlike=2.0), "key": "00" * 32}
        assert len(kept(sandbox.run(arguments))) == 1
