"""Light and linear heads: their parameters, what they read, and heads trained at once as if alone."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from sonodistill.errors import BundleConfigError
from sonodistill.networks.build import build_classifier, build_segmenter
from sonodistill.networks.classifier import Classifier
from sonodistill.networks.encoder import Encoder
from sonodistill.networks.heads import LightHead, LinearHead, LinearHeads, PooledLinearHeads


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_light_head_makes_dinov3_the_teacher_of_table_5() -> None:
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    shape = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    with torch.device("meta"):
        teacher = DINOv3ViTModel(DINOv3ViTConfig(**shape, num_register_tokens=4))
        head = LightHead((768,) * 4, (16,) * 4)
    assert count(head) == 768 * 256 * 9 + 2 * 256 + 256 + 1 == 1_770_241
    assert count(teacher) == 85_660_416
    assert count(teacher) + count(head) == 87_430_657


def test_the_light_head_reads_the_last_map_alone() -> None:
    head = LightHead((4, 8), (16, 16), classes=2).eval()
    last = torch.rand(1, 8, 3, 3)
    with torch.no_grad():
        assert torch.equal(head([torch.rand(1, 4, 3, 3), last], (48, 48)), head([None, last], (48, 48)))


def test_a_linear_head_on_a_cnn_reads_every_map_at_stride_8() -> None:
    channels, reductions = (2, 3, 4, 5, 6), (2, 4, 8, 16, 32)
    maps = [torch.rand(2, c, 64 // r, 96 // r) for c, r in zip(channels, reductions, strict=True)]
    gathered = LinearHead(channels, reductions).gather(maps)
    assert gathered.shape == (2, 20, 8, 12)
    torch.testing.assert_close(gathered[:, 2:5], functional.avg_pool2d(maps[1], 2))
    assert torch.equal(gathered[:, 5:9], maps[2])
    expected = functional.interpolate(maps[4], (8, 12), mode="bilinear", align_corners=False)
    torch.testing.assert_close(gathered[:, 14:], expected)


def test_a_linear_head_on_a_vit_reads_its_maps_as_they_are() -> None:
    maps = [torch.rand(1, 3, 5, 7) for _ in range(4)]
    assert torch.equal(LinearHead((3,) * 4, (14,) * 4).gather(maps), torch.cat(maps, 1))


def test_a_linear_head_can_read_the_last_map_alone(make_encoder) -> None:
    network = build_segmenter(make_encoder("resnet"), "linear", classes=3, maps="last").eval()
    assert count(network.head) == 3 * (512 + 1)
    x = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        logits = network.head.linear(network.encoder(x))[0]
        expected = functional.interpolate(logits, (64, 64), mode="bilinear", align_corners=False)
        torch.testing.assert_close(network(x), expected)


def test_linear_heads_give_what_each_gives_alone() -> None:
    heads = LinearHeads(6, classes=2, count=3).eval()
    feature = torch.rand(4, 6, 5, 7)
    with torch.no_grad():
        together = heads(feature)
        assert together.shape == (3, 4, 2, 5, 7)
        for index in range(3):
            torch.testing.assert_close(together[index], heads.only(index)(feature)[0])


@settings(deadline=None, max_examples=20)
@given(number=st.integers(2, 5), data=st.data())
def test_the_gradient_of_one_head_does_not_touch_another(number: int, data: st.DataObject) -> None:
    chosen = data.draw(st.integers(0, number - 1))
    heads = LinearHeads(3, classes=2, count=number)
    heads(torch.rand(4, 3, 2, 2))[chosen].square().sum().backward()
    touched = [bool(head.weight.grad.any() or head.bias.grad.any()) for head in heads.heads]
    assert touched == [index == chosen for index in range(number)]


@pytest.mark.parametrize("pooled", [False, True])
def test_heads_trained_at_once_equal_heads_trained_alone(pooled: bool) -> None:
    torch.manual_seed(0)
    rates = (1e-3, 1e-2, 1e-1)
    kind = PooledLinearHeads if pooled else LinearHeads
    together = kind(5, classes=3, count=3).double()
    alone = [together.only(index) for index in range(3)]
    shape = (8, 5) if pooled else (8, 5, 4, 4)
    features = torch.randn(10, *shape, dtype=torch.float64)
    labels = torch.randint(0, 3, (10, 8, *shape[2:]))
    for heads, own in [(together, rates), *((one, (rate,)) for one, rate in zip(alone, rates, strict=True))]:
        optimiser = torch.optim.AdamW(heads.parameter_groups(own), weight_decay=0.1)
        for feature, label in zip(features, labels, strict=True):
            optimiser.zero_grad()
            torch.stack([functional.cross_entropy(logits, label) for logits in heads(feature)]).sum().backward()
            optimiser.step()
    for index, one in enumerate(alone):
        torch.testing.assert_close(one.state_dict(), together.only(index).state_dict())
    assert not torch.allclose(alone[0].heads[0].weight, alone[2].heads[0].weight, atol=1e-2)


def test_pooled_heads_are_batch_normalisation_and_linear_layers() -> None:
    heads = PooledLinearHeads(6, classes=2, count=2)
    norm = nn.BatchNorm1d(6, affine=False)
    pooled = torch.randn(8, 6)
    for index, logits in enumerate(heads(pooled)):
        expected = functional.linear(norm(pooled), heads.heads[index].weight.flatten(1), heads.heads[index].bias)
        torch.testing.assert_close(logits, expected)


def test_the_best_head_of_a_sweep_becomes_the_networks(make_encoder) -> None:
    network = build_segmenter(make_encoder("vit16"), "linear", classes=2).eval()
    sweep = LinearHeads(network.head.in_channels, 2, count=4).eval()
    network.head.linear = sweep.only(2)
    x = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        logits = sweep(network.head.gather(network.encoder.pyramid(x)))[2]
        expected = functional.interpolate(logits, (64, 64), mode="bilinear", align_corners=False)
        torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: LinearHeads(3, count=0), "0 linear heads"),
        (lambda: LinearHeads(3, count=2).parameter_groups([0.1]), "1 learning rates for 2"),
        (lambda: PooledLinearHeads(3)(torch.rand(1, 3)), "one image at a time"),
    ],
)
def test_linear_heads_that_cannot_work_are_refused(act, said: str) -> None:
    with pytest.raises(BundleConfigError, match=said):
        act()


@pytest.mark.parametrize("kind", ["resnet", "convnext", "hiera", "vit16", "vit14"])
def test_a_classifier_works_on_any_encoder_and_on_kept_pooled_features(make_encoder, kind: str) -> None:
    network = build_classifier(make_encoder(kind), classes=3, dropout=0.5).eval()
    size = 70 if kind == "vit14" else 64
    x = torch.rand(2, 1, size, size)
    with torch.no_grad():
        pooled = network.encoder(x).flatten(2).mean(2)
        torch.testing.assert_close(network.pooled(x), pooled)
        torch.testing.assert_close(network(x), network.head(pooled))
    assert network(x).shape == (2, 3)


def test_our_classifier_is_the_general_one_with_the_same_keys() -> None:
    classifier = Classifier("resnet10t", classes=4).eval()
    general = build_classifier(Encoder("resnet10t"), classes=4).eval()
    keys = list(classifier.state_dict())
    assert keys == list(general.state_dict())
    assert keys[-2:] == ["head.weight", "head.bias"] and all(key.startswith("encoder.model.") for key in keys[:-2])
    general.load_state_dict(classifier.state_dict())
    x = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(general(x), classifier(x))


def test_moments_of_all_features_give_what_batch_normalisation_gives_in_evaluation() -> None:
    torch.manual_seed(0)
    features = 5 + 3 * torch.randn(20, 6, 4, 4)
    heads = LinearHeads(6, 2, 3)
    for head in heads.heads:
        torch.nn.init.normal_(head.weight)
    reference = copy.deepcopy(heads).eval()
    mean = features.mean(dim=(0, 2, 3))
    variance = features.var(dim=(0, 2, 3), unbiased=False)
    reference.norm.running_mean.copy_(mean)
    reference.norm.running_var.copy_(variance)
    heads.standardise(mean, variance)
    torch.testing.assert_close(heads.train()(features), reference(features), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(heads.norm.running_mean, mean)
