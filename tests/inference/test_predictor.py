"""A predictor says of frames what the bundle's transforms and network say, whichever runtime computes it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydicom import dcmread, examples
from pydicom.encaps import encapsulate, generate_frames

from sonodistill.errors import BundleConfigError, UnreadableFileError, WeightsError
from sonodistill.frames import read
from sonodistill.inference.predictor import Predictor
from sonodistill.networks.classifier import Classifier
from sonodistill.networks.encoder import Encoder
from sonodistill.transforms.dictionary import FrameToInputd, OutputToMaskd
from sonodistill.transforms.geometry import from_output

RUNTIMES = [
    ("model.safetensors", "torch"),
    ("model.ts", "torch"),
    ("model.pt2", "torch"),
    ("model.onnx", "onnxruntime"),
    ("model.onnx", "openvino"),
    ("model.xml", "openvino"),
]


def bundle_mask(network, frame):
    """The mask that inference.yaml makes of a frame."""
    item = FrameToInputd("image", (64, 64))({"image": frame})
    with torch.no_grad():
        item["pred"] = network(item["image"][None].as_tensor())[0]
    return OutputToMaskd("pred")(item)["pred"][0].numpy().astype(bool)


@pytest.mark.parametrize(("file", "runtime"), RUNTIMES)
def test_a_cine_gets_the_same_masks_from_every_runtime(models, network, frames, logits, file, runtime):
    predictor = Predictor(models / file, runtime=runtime, threads=1, batch_size=4)
    predictions = list(predictor(frames))
    assert [prediction.frame.index for prediction in predictions] == [0, 1, 2, 3, 4, 5]
    for prediction, logit in zip(predictions, logits, strict=True):
        exact = from_output(1 / (1 + np.exp(-logit)), (240, 320))[0]
        sure = np.abs(exact - 0.5) > 1e-4
        mask = bundle_mask(network, prediction.frame)
        assert 0.05 < mask.mean() < 0.95 and sure.mean() > 0.99
        assert prediction.mask.shape == (240, 320) and prediction.mask.dtype == bool
        assert np.array_equal(prediction.mask[sure], mask[sure])
        np.testing.assert_allclose(prediction.probability, exact, atol=1e-4)


@pytest.mark.parametrize(("file", "runtime"), [("model.safetensors", "torch"), ("model.xml", "openvino")])
def test_bfloat16_gives_nearly_the_same_masks(models, network, frames, file, runtime):
    predictor = Predictor(models / file, runtime=runtime, precision="bf16", threads=1)
    for prediction in predictor(frames[:3]):
        a, b = prediction.mask, bundle_mask(network, prediction.frame)
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.98


def test_one_frame_is_predicted_as_in_a_cine(models, frames):
    predictor = Predictor(models / "model.onnx", runtime="onnxruntime", batch_size=1)
    for prediction in predictor(frames):
        alone = predictor.predict_one(prediction.frame)
        assert np.array_equal(alone.probabilities, prediction.probabilities) and np.array_equal(
            alone.masks, prediction.masks
        )
    assert len(predictor.inference_ms) == 12 and min(predictor.inference_ms) > 0


def test_a_higher_threshold_gives_a_smaller_mask(models, frames):
    low, high = (
        Predictor(models / "model.onnx", runtime="onnxruntime", threshold=t).predict_one(frames[0]) for t in (0.3, 0.9)
    )
    assert low.mask.sum() > high.mask.sum() > 0
    assert np.array_equal(high.mask, high.probability > 0.9)
    with pytest.raises(BundleConfigError, match=r"1\.5"):
        Predictor(models / "model.onnx", threshold=1.5)


def test_several_labels_are_several_masks(models, frames):
    predictor = Predictor(models / "two.safetensors")
    prediction = predictor.predict_one(frames[0])
    assert predictor.kind == "segmenter" and prediction.labels == ("left/ventricle", "wall")
    assert prediction.masks.shape == prediction.probabilities.shape == (2, 240, 320)
    assert np.array_equal(prediction.masks, prediction.probabilities > 0.5)


def test_a_classifier_gives_probabilities_of_its_labels(models, frames, images):
    predictor = Predictor(models / "classifier.safetensors", batch_size=4)
    network = Classifier("resnet18", classes=3, weights=models / "classifier.safetensors").eval()
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).softmax(1).numpy()
    predictions = list(predictor(frames))
    assert predictor.kind == "classifier" and predictor.labels == ("normal", "benign", "malignant")
    np.testing.assert_allclose([prediction.probabilities for prediction in predictions], expected, atol=1e-5)
    assert predictions[0].label == predictor.labels[expected[0].argmax()]
    assert predictions[0].masks.size == predictions[0].embedding.size == 0


def test_an_encoder_gives_the_mean_of_its_last_map(models, frames, images):
    predictor = Predictor(models / "encoder.safetensors", batch_size=2)
    with torch.no_grad():
        expected = Encoder("resnet18", models / "encoder.safetensors").eval()(torch.from_numpy(images)).mean((2, 3))
    found = [prediction.embedding for prediction in predictor(frames)]
    assert predictor.kind == "encoder" and predictor.labels == () and found[0].dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_frames_of_different_sizes_share_a_batch(models, frames):
    smaller = replace(frames[1], image=np.ascontiguousarray(frames[1].image[:100, :80]))
    shapes = [
        prediction.mask.shape for prediction in Predictor(models / "model.onnx", batch_size=2)([frames[0], smaller])
    ]
    assert shapes == [(240, 320), (100, 80)]


def test_a_damaged_cine_gives_the_frames_before_the_damage_and_then_its_error(models, tmp_path):
    dataset = dcmread(examples.get_path("ybr_color"))
    encoded = list(generate_frames(dataset.PixelData, number_of_frames=30))
    encoded[10] = b"\xff\xd8 no JPEG"
    dataset.PixelData = encapsulate(encoded)
    dataset.save_as(tmp_path / "damaged.dcm")
    seen = []
    with pytest.raises(UnreadableFileError, match=r"damaged\.dcm"):
        for prediction in Predictor(models / "model.onnx", batch_size=4)(read(tmp_path / "damaged.dcm")):
            seen.append(prediction.frame.index)
    assert seen == list(range(10))


def test_a_missing_model_says_how_to_make_one(tmp_path):
    with pytest.raises(WeightsError, match="onnx_export"):
        Predictor(tmp_path / "none.onnx")
