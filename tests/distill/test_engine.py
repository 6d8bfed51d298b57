"""What computes the teacher: torch and OpenVINO give the same tokens."""

from __future__ import annotations

import pytest
import torch

from sonodistill.errors import BundleConfigError
from sonodistill_training.distill.engine import OpenVinoEngine, TorchEngine, make_engine
from sonodistill_training.distill.teacher import load_teacher

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["vit_tiny_patch16_224", "convnext_atto", "vit_small_patch16_dinov3"])
def teacher(request):
    torch.manual_seed(0)
    return load_teacher(request.param, random=True, input_size=64)


@pytest.fixture(scope="module")
def exact(teacher):
    """OpenVINO in float32, compiled once for a teacher, which takes seconds."""
    return make_engine(teacher, CPU, bf16=False, input_size=64, kind="openvino")


def test_torch_and_openvino_agree_on_every_image_of_a_batch(teacher, exact):
    images = torch.rand(19, 1, 64, 64)  # two whole pieces and a part of one
    expected = TorchEngine(teacher, bf16=False)(images)
    found = exact(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_in_bf16_both_are_equally_far_from_float32(teacher):
    images = torch.rand(9, 1, 64, 64)
    exact = TorchEngine(teacher, bf16=False)(images)
    found = {
        "torch": TorchEngine(teacher, bf16=True)(images),
        "openvino": OpenVinoEngine(teacher, bf16=True, input_size=64)(images),
    }
    assert all(tokens.dtype == torch.bfloat16 for tokens in found.values())
    distance = {name: (tokens.float() - exact).norm() / exact.norm() for name, tokens in found.items()}
    assert distance["openvino"] < 2 * distance["torch"] + 0.01 and distance["torch"] < 0.05


def test_the_same_images_give_the_same_bits_again(teacher):
    images = torch.rand(17, 1, 64, 64)
    engine = make_engine(teacher, CPU, bf16=True, input_size=64)
    assert torch.equal(engine(images), engine(images.clone()))


def test_tokens_that_were_given_out_are_not_overwritten(exact):
    first = exact(torch.zeros(3, 1, 64, 64))
    kept = first.clone()
    exact(torch.ones(3, 1, 64, 64))
    assert torch.equal(first, kept)


@pytest.mark.parametrize("kind", ["torch", "openvino"])
def test_batches_that_are_begun_one_after_the_other_get_their_own_tokens(teacher, kind):
    engine = make_engine(teacher, CPU, bf16=False, input_size=64, kind=kind, threads=1)
    batches = [torch.rand(count, 1, 64, 64) for count in (11, 3, 9)]
    waiting = [engine.start(images) for images in batches]
    found = [tokens() for tokens in reversed(waiting)][::-1]
    for images, tokens in zip(batches, found, strict=True):
        torch.testing.assert_close(tokens, engine(images), rtol=1e-5, atol=1e-5)


def test_an_error_of_the_engine_is_raised_where_the_tokens_are_asked_for(exact):
    tokens = exact.start(torch.rand(2, 1, 48, 64))
    with pytest.raises(RuntimeError, match="shape"):
        tokens()
    assert exact(torch.rand(2, 1, 64, 64)).shape[0] == 2


def test_an_unknown_engine_is_refused(teacher):
    with pytest.raises(BundleConfigError, match="tensorrt"):
        make_engine(teacher, CPU, bf16=False, input_size=64, kind="tensorrt")


def test_openvino_is_refused_where_it_does_not_compute(teacher):
    with pytest.raises(BundleConfigError, match="cuda"):
        make_engine(teacher, torch.device("cuda"), bf16=False, input_size=64, kind="openvino")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_compiled_teacher_gives_the_same_tokens():
    teacher = load_teacher("vit_tiny_patch16_224", random=True, input_size=64)
    images = torch.rand(4, 1, 64, 64)
    expected = TorchEngine(teacher, bf16=False)(images)
    found = make_engine(teacher, CPU, bf16=False, input_size=64, kind="compile")(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
