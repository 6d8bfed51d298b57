"""The interactive network: prompts as maps, features that do not depend on them, and its weights files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sonodistill.errors import BundleConfigError, WeightsError
from sonodistill.networks.build import build_interactive
from sonodistill.networks.checkpoint import load_network
from sonodistill.networks.click import PROMPTS, ClickSegmenter, prompt_maps
from sonodistill.networks.encoder import Encoder
from sonodistill.networks.unet import Segmenter
from sonodistill.networks.whole import load_into
from sonodistill.weights import WeightsInfo, load_weights, save_weights

MAP = {name: at for at, name in enumerate(PROMPTS)}


def maps_of(size: tuple[int, int] = (64, 64), **prompts: object) -> torch.Tensor:
    return torch.from_numpy(prompt_maps(size, **prompts))[None]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def network() -> ClickSegmenter:
    torch.manual_seed(0)
    return ClickSegmenter("test_convnext", width=16, mean=0.3, std=0.2).eval()


@pytest.fixture(scope="module")
def checkpoint(network: ClickSegmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("click") / "model.safetensors"
    info = WeightsInfo("interactive", "test_convnext", ((0.3,), (0.2,)), (64, 64), ("lesion",))
    save_weights(path, network.state_dict(), info)
    return path


def test_a_click_is_highest_where_it_was_made_and_its_wide_map_reaches_further() -> None:
    maps = prompt_maps((64, 96), positive=[(41.5, 21.5)])  # the corner between four cells, (10, 5) the nearest ones
    assert maps.shape == (6, 16, 24) and maps.dtype == np.float32
    near, around = maps[MAP["positive"]], maps[MAP["around positive"]]
    assert np.unravel_index(near.argmax(), near.shape) == (5, 10)
    assert np.array_equal(around >= near, np.ones_like(near, bool))
    assert near[0, 0] < 1e-3 < around[0, 0]
    assert not maps[MAP["negative"]].any() and not maps[MAP["box"]].any() and not maps[MAP["mask"]].any()


def test_positive_and_negative_clicks_are_drawn_apart() -> None:
    maps = prompt_maps((64, 64), positive=[(8, 8)], negative=[(50, 50), (20, 50)])
    assert maps[MAP["positive"], 2, 2] > 0.9 > 0.1 > maps[MAP["positive"], 12, 12]
    assert min(maps[MAP["negative"], 12, 12], maps[MAP["negative"], 12, 5]) > 0.9
    assert maps[MAP["negative"], 2, 2] < 0.1


def test_a_box_covers_the_pixels_of_its_corners_and_cells_in_part() -> None:
    box = prompt_maps((64, 64), box=(8, 4, 17, 11))[MAP["box"]]
    assert box.sum() * 16 == pytest.approx(10 * 8)
    assert box[1, 2] == 1 and box[1, 4] == pytest.approx(0.5) and box[0].sum() == 0


@pytest.mark.parametrize("shape", [(64, 64), (300, 500), (16, 16)])
def test_a_mask_of_any_size_covers_the_share_that_it_covers(shape: tuple[int, int]) -> None:
    mask = np.zeros(shape, bool)
    mask[: shape[0] // 2, : shape[1] // 4] = True
    drawn = prompt_maps((64, 64), mask=mask)[MAP["mask"]]
    assert drawn.mean() == pytest.approx(1 / 8, abs=0.01) and drawn[0, 0] == 1 and drawn[-1, -1] == 0


def test_the_features_are_those_of_the_image_and_prompts_change_the_answer(network: ClickSegmenter) -> None:
    x = torch.rand(2, 1, 64, 96)
    with torch.no_grad():
        features = network.embed(x)
        assert features.shape == (2, 16, 16, 24)
        answers = [
            network.refine(features, maps_of((64, 96), **prompts).expand(2, -1, -1, -1))
            for prompts in ({"positive": [(20, 20)]}, {"negative": [(20, 20)]}, {"box": (4, 4, 40, 40)}, {})
        ]
        whole = network(x, maps_of((64, 96), positive=[(20, 20)]).expand(2, -1, -1, -1))
    assert answers[0].shape == (2, 1, 16, 24) and whole.shape == (2, 1, 64, 96)
    assert all(not torch.equal(answers[0], other) for other in answers[1:])
    torch.testing.assert_close(whole, torch.nn.functional.interpolate(answers[0], (64, 96), mode="bilinear"))


def test_one_forward_with_clicks_that_answer_runs_the_encoder_once_and_keeps_the_gradient_of_the_last(
    network: ClickSegmenter,
) -> None:
    calls: list[int] = []
    handle = network.encoder.register_forward_hook(lambda *_: calls.append(1))
    pyramid = network.encoder.model.register_forward_hook(lambda *_: calls.append(1))
    seen: list[torch.Tensor] = []

    def answering(refine):
        seen.append(refine(maps_of(positive=[(5, 5)])))
        seen.append(refine(maps_of(positive=[(5, 5)], mask=seen[0][0, 0].detach().numpy() > 0)))
        return maps_of(positive=[(30, 30)])

    x = torch.rand(1, 1, 64, 64)
    network(x, answering).sum().backward()
    handle.remove(), pyramid.remove()
    assert len(calls) == 1 and len(seen) == 2
    assert all(p.grad is not None for p in network.laterals.parameters())
    network.zero_grad()


@pytest.mark.parametrize("kind", ["resnet", "convnext", "hiera", "vit16", "vit14"])
def test_any_encoder_can_be_given_one(make_encoder, kind: str) -> None:
    network = build_interactive(make_encoder(kind), width=8).eval()
    side = 112 if kind == "vit14" else 64
    with torch.no_grad():
        logits = network(torch.rand(1, 1, side, side), maps_of((side, side), positive=[(9, 9)]))
    assert logits.shape == (1, 1, side, side) and torch.isfinite(logits).all()


def test_sizes_that_cannot_be_are_refused(network: ClickSegmenter) -> None:
    with pytest.raises(BundleConfigError, match="multiples of 32"):
        network.embed(torch.rand(1, 1, 60, 64))
    with pytest.raises(BundleConfigError, match="width of 12"):
        ClickSegmenter("test_convnext", width=12)


def test_a_file_comes_back_as_it_was_and_only_for_those_who_ask_for_it(
    network: ClickSegmenter, checkpoint: Path
) -> None:
    loaded, info = load_network(checkpoint, kinds=("interactive",))
    assert info.kind == "interactive" and not loaded.training
    x, maps = torch.rand(1, 1, 64, 64), maps_of(positive=[(9, 9)])
    with torch.no_grad():
        torch.testing.assert_close(loaded(x, maps), network(x, maps), atol=0, rtol=0)
    with pytest.raises(WeightsError, match="interactive, not a encoder or segmenter"):
        load_network(checkpoint)  # a predictor has no prompts to give


def test_training_goes_on_from_a_whole_file_or_from_its_encoder(network: ClickSegmenter, checkpoint: Path) -> None:
    again = ClickSegmenter("test_convnext", 16, checkpoint).eval()
    assert again.encoder.input.normalisation == ((pytest.approx(0.3),), (pytest.approx(0.2),))
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in again.state_dict().items())
    encoder = Encoder("test_convnext", checkpoint).eval()
    x = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(encoder(x), network.encoder(x))
    other = ClickSegmenter("test_convnext", 16)
    load_into(other, checkpoint)
    assert torch.equal(other.head.weight, network.head.weight)
    with pytest.raises(WeightsError, match="does not fit"):
        ClickSegmenter("test_convnext", 8, checkpoint)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "segmenter", "labels": ()}, "says segmenter of test_convnext, but its tensors are those of a inter"),
        ({"architecture": "resnet18"}, "says interactive of resnet18 .* do not fit"),
    ],
)
def test_a_header_that_lies_is_refused(checkpoint: Path, tmp_path: Path, change: dict, said: str) -> None:
    state, info = load_weights(checkpoint)
    lying = WeightsInfo(**{"kind": info.kind, "architecture": info.architecture, "labels": info.labels, **change})
    save_weights(tmp_path / "model.safetensors", state, lying)
    with pytest.raises(WeightsError, match=said):
        load_network(tmp_path / "model.safetensors", kinds=("interactive", "segmenter"))


def test_a_segmenter_is_no_interactive_one(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, Segmenter("resnet10t").state_dict(), WeightsInfo("segmenter", "resnet10t"))
    with pytest.raises(WeightsError, match="segmenter, not a interactive"):
        load_network(path, kinds=("interactive",))
