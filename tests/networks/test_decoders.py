"""Decoders: smp's own on any encoder's maps, at the input's size, refused where they cannot work."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.decoders.dpt.model import DPT
from torch import nn

from sonodistill.errors import BundleConfigError
from sonodistill.networks.build import HEADS, build_segmenter, heads_for
from sonodistill.networks.dpt import DPTHead
from sonodistill.networks.encoder import Encoder
from sonodistill.networks.pyramid import family, resize
from sonodistill.networks.unet import Segmenter
from sonodistill.networks.upernet import FeaturePyramid

HIERARCHICAL = ["unet", "upernet", "light", "linear"]
PLAIN = ["upernet", "light", "dpt", "linear"]
SIZES = {"resnet": (64, 96), "convnext": (64, 96), "hiera": (64, 64), "vit16": (64, 96), "vit14": (70, 98)}
NARROW = {"upernet": {"width": 32}, "dpt": {"width": 32}}  # as wide as they are by default they only take longer
PAIRS = [(kind, head) for kind in SIZES for head in (PLAIN if "vit" in kind else HIERARCHICAL)]


@pytest.mark.parametrize(("kind", "head"), PAIRS)
def test_logits_have_the_images_size_and_every_parameter_learns(make_encoder, kind: str, head: str) -> None:
    network = build_segmenter(make_encoder(kind), head, classes=2, **NARROW.get(head, {}))
    x = torch.rand(2, 1, *SIZES[kind])
    logits = network(x)
    assert logits.shape == (2, 2, *SIZES[kind])
    logits.square().mean().backward()
    assert [name for name, p in network.head.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(("kind", "head"), [pair for pair in PAIRS if pair[0] in ("convnext", "vit16")])
def test_the_head_alone_on_kept_maps_gives_what_the_network_gives(make_encoder, kind: str, head: str) -> None:
    network = build_segmenter(make_encoder(kind), head, **NARROW.get(head, {})).eval()
    x = torch.rand(1, 1, *SIZES[kind])
    with torch.no_grad():
        maps = [level.clone() for level in network.encoder.pyramid(x)]
        assert torch.equal(network.head(maps, SIZES[kind]), network(x))


@pytest.mark.parametrize(
    ("name", "parameters"), [("resnet50", 32_521_105), ("resnet18", 14_328_209), ("convnext_tiny", 31_928_753)]
)
def test_the_unet_has_the_parameters_of_smps_with_all_stages(name: str, parameters: int) -> None:
    with torch.device("meta"):
        network = build_segmenter(Encoder(name), "unet")
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto"])
def test_a_unets_weights_go_into_the_segmenter_of_the_same_encoder(name: str) -> None:
    network = build_segmenter(Encoder(name), "unet").eval()
    segmenter = Segmenter(name).eval()
    segmenter.load_state_dict({key.removeprefix("head."): value for key, value in network.state_dict().items()})
    x = torch.rand(1, 1, 64, 96)
    with torch.no_grad():
        assert torch.equal(segmenter(x), network(x))


def test_a_segmenters_keys_are_its_encoders_decoders_and_heads_in_that_order() -> None:
    # An optimiser's state, in the checkpoint of a training, goes by the order of the parameters.
    keys = list(Segmenter("resnet10t").state_dict())
    assert list(dict.fromkeys(key.split(".")[0] for key in keys)) == ["encoder", "decoder", "segmentation_head"]


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto"])
def test_upernet_is_smps_on_a_hierarchical_encoder(name: str) -> None:
    ours = build_segmenter(Encoder(name), "upernet", width=32).eval()
    theirs = smp.UPerNet(f"tu-{name}", encoder_weights=None, decoder_channels=32, upsampling=1).eval()
    ours_as_theirs = {key.removeprefix("head."): value for key, value in ours.state_dict().items()}
    theirs.load_state_dict(ours_as_theirs)
    x = torch.rand(1, 1, 64, 96)
    with torch.no_grad():
        expected = resize(theirs(ours.encoder.input(x)), (64, 96))
        torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=0)


def test_a_vits_maps_become_a_pyramid_of_strides_4_to_32() -> None:
    scales = FeaturePyramid((8, 8, 8, 8)).eval()
    maps = [torch.rand(1, 8, 4, 6) for _ in range(4)]
    with torch.no_grad():
        levels = scales(maps)
    assert [tuple(level.shape[-2:]) for level in levels] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert torch.equal(levels[2], maps[2])
    assert torch.equal(levels[3], nn.functional.max_pool2d(maps[3], 2))


@pytest.mark.parametrize(("kind", "width"), [("vit16", 48), ("resnet", 256)])
def test_upernet_is_as_wide_as_a_vit_and_256_elsewhere(make_encoder, kind: str, width: int) -> None:
    with torch.device("meta"):
        network = build_segmenter(make_encoder(kind), "upernet")
    assert network.head.segmentation_head[0].in_channels == width


def test_upernet_in_training_refuses_one_image(make_encoder) -> None:
    network = build_segmenter(make_encoder("vit16"), "upernet")
    with pytest.raises(BundleConfigError, match="one image at a time"):
        network(torch.rand(1, 1, 64, 64))
    assert network.eval()(torch.rand(1, 1, 64, 64)).shape == (1, 1, 64, 64)


def test_dpt_is_smps_with_class_tokens_ignored() -> None:
    name = "vit_tiny_patch16_224"
    options = {"decoder_readout": "ignore", "decoder_fusion_channels": 32, "dynamic_img_size": True}
    theirs = DPT(f"tu-{name}", encoder_weights=None, **options).eval()
    head = DPTHead((192,) * 4, (16,) * 4, width=32).eval()
    head.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("encoder.")})
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        maps, _ = theirs.encoder(x)
        torch.testing.assert_close(head(maps, (64, 96)), theirs(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_dpt_works_on_even_and_odd_numbers_of_patches(make_encoder, size: tuple[int, int]) -> None:
    network = build_segmenter(make_encoder("vit16"), "dpt", width=16).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 1, *size)).shape == (1, 1, *size)


@pytest.mark.parametrize(
    ("kind", "head", "remedy"),
    [
        ("vit16", "unet", "take upernet, light, dpt or linear"),
        ("resnet", "dpt", "take unet, upernet, light or linear"),
        ("hiera", "dpt", "take unet, upernet, light or linear"),
    ],
)
def test_a_head_that_does_not_work_on_an_encoder_names_those_that_do(
    make_encoder, kind: str, head: str, remedy: str
) -> None:
    with pytest.raises(BundleConfigError, match=f"{head} does not work on") as error:
        build_segmenter(make_encoder(kind), head)
    assert error.value.remedy == remedy


@pytest.mark.parametrize("head", ["upernet", "dpt"])
def test_a_vit_of_other_than_four_maps_is_refused(make_encoder, head: str) -> None:
    with pytest.raises(BundleConfigError, match=f"{head} reads four maps"):
        build_segmenter(make_encoder("vit of three maps"), head)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"head": "fpn"}, "unknown head fpn"), ({"classes": 0}, "0 classes"), ({"head": "linear", "maps": "2"}, "maps=")],
)
def test_settings_that_cannot_work_are_refused(make_encoder, options: dict, said: str) -> None:
    with pytest.raises(BundleConfigError, match=said):
        build_segmenter(make_encoder("resnet"), **options)


def test_a_pyramid_of_no_family_is_refused(make_encoder) -> None:
    encoder = make_encoder("resnet")
    encoder.reductions = (8, 16, 32)
    with pytest.raises(BundleConfigError, match="strides"):
        family(encoder)


@pytest.mark.parametrize(
    ("kind", "size", "multiple"),
    [
        pytest.param("resnet", (64, 80), 32, id="32 where none is said"),
        pytest.param("vit14", (64, 70), 14, id="the encoder's own"),
    ],
)
def test_a_size_that_does_not_fit_the_encoder_is_refused(
    make_encoder, kind: str, size: tuple[int, int], multiple: int
) -> None:
    network = build_segmenter(make_encoder(kind), "light")
    with pytest.raises(BundleConfigError, match=f"multiples of {multiple} .*not \\({size[0]}, {size[1]}\\)"):
        network(torch.rand(2, 1, *size))


def test_the_registry_says_which_heads_work(make_encoder) -> None:
    assert heads_for(make_encoder("convnext")) == HIERARCHICAL
    assert heads_for(make_encoder("vit14")) == PLAIN
    assert set(HEADS) == {*HIERARCHICAL, *PLAIN}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "head"), [("resnet", "unet"), ("convnext", "unet"), ("resnet", "light"), ("vit16", "light")]
)
def test_a_traced_network_agrees_for_another_batch(make_encoder, kind: str, head: str) -> None:
    network = build_segmenter(make_encoder(kind), head).eval()
    traced = torch.jit.trace(network, torch.rand(1, 1, 64, 64), check_trace=False)
    x = torch.rand(3, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(traced(x), network(x))
