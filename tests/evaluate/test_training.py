"""The training loop of the evaluations: schedules, exact resume, the best epoch, heads side by side, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from sonodistill.errors import BundleConfigError, UnreadableFileError
from sonodistill.networks.heads import LinearHeads, PooledLinearHeads
from sonodistill_training.evaluate.learning import loop as training
from sonodistill_training.evaluate.learning.feeds import FeatureFeed, ImageFeed, collect
from sonodistill_training.evaluate.learning.loop import Job, TrainingFailedError, parameter_groups, rate_factor, train
from sonodistill_training.evaluate.learning.losses import DiceScore, Likelihood, MacroF1Score, segmentation_loss
from sonodistill_training.evaluate.learning.protocols import OnFeature
from sonodistill_training.evaluate.learning.recipes import recipe

RECIPE = recipe("paper", "classification", epochs=6, batch_size=8, learning_rate=0.01)


class OneHead(nn.Module):
    """A small network with dropout, so that a resume has to restore the random numbers too."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 2))

    def forward(self, features):
        return self.layers(features[0])[None]


def make_job(tmp_path, network, settings=RECIPE, **changes):
    """Two classes in four features, of which one tells them apart."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(0, 2, (60,), generator=generator)
    features = torch.randn(60, 4, generator=generator)
    features[:, 0] += 2.0 * classes
    job = Job(
        feed=FeatureFeed([features], classes, torch.device("cpu")),
        train=np.arange(41),
        validation=np.arange(41, 60),
        loss=functional.cross_entropy,
        score=MacroF1Score(),
        groups=parameter_groups(list(network.parameters()), None, settings),
        recipe=settings,
        seed=0,
        bf16=False,
        checkpoint=tmp_path / "unfinished.pt",
    )
    return replace(job, **changes)


def made(seed=0):
    torch.manual_seed(seed)
    return OneHead()


def test_warm_restarts_are_torchs():
    settings = recipe("paper", "segmentation", epochs=25)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=10)
    for epoch in range(25):
        assert rate_factor(settings, epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


def test_the_transformers_recipe_warms_up_and_ends_near_zero():
    settings = recipe("vit", "segmentation")
    factors = [rate_factor(settings, epoch) for epoch in range(settings.epochs)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[5:] == sorted(factors[5:], reverse=True)
    assert factors[-1] < 0.01


def test_poly_is_power_nine_tenths():
    settings = replace(recipe("paper", "segmentation", epochs=10), schedule="poly")
    assert rate_factor(settings, 4) == pytest.approx(0.6**0.9)


def test_a_training_that_was_interrupted_ends_at_the_same_weights(tmp_path, monkeypatch):
    whole = made()
    expected = train(whole, make_job(tmp_path / "whole", whole))
    monkeypatch.setattr(training, "_SAVE_SECONDS", -1.0)

    class Stopped(Exception):
        pass

    def stop(row):
        # Raised after the epoch counted and before its checkpoint: epoch 4 is computed again.
        if row["epoch"] == 4:
            raise Stopped

    broken = made()
    job = make_job(tmp_path, broken)
    with pytest.raises(Stopped):
        train(broken, job, stop)
    resumed = made(seed=9)
    found = train(resumed, make_job(tmp_path, resumed))
    assert found.curve == expected.curve
    assert (found.best, found.best_epoch) == (expected.best, expected.best_epoch)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    network = made()
    job = make_job(tmp_path, network)
    torch.save({"network": {}}, job.checkpoint)
    with pytest.raises(UnreadableFileError, match="no checkpoint of this evaluation"):
        train(network, job)


def test_the_best_epoch_of_the_validation_is_kept(tmp_path):
    network = made()
    scores = iter([0.5, 0.9, 0.7, 0.9, 0.1, 0.2])
    states = []

    class Score(MacroF1Score):
        def of_all(self, parts):
            states.append({name: value.clone() for name, value in network.state_dict().items()})
            return next(scores)

    found = train(network, make_job(tmp_path, network, score=Score()))
    assert (found.best, found.best_epoch) == (0.9, 2)
    for name, value in network.state_dict().items():
        assert torch.equal(value, states[1][name]), name


def test_heads_with_many_learning_rates_learn_what_each_learns_alone(tmp_path):
    rates = (0.003, 0.03)

    def swept(count):
        torch.manual_seed(0)
        heads = PooledLinearHeads(4, 2, count)
        for head in heads.heads:
            nn.init.constant_(head.weight, 0.01)
        return heads

    def run(heads, rates, folder):
        network = OnFeature(heads, 0)
        groups = [group | {"weight_decay": 0.01} for group in heads.parameter_groups(rates)]
        return train(network, make_job(tmp_path / folder, network, groups=groups))

    together = swept(2)
    found = run(together, rates, "both")
    alone = []
    for number, rate in enumerate(rates):
        heads = swept(1)
        alone.append((run(heads, (rate,), f"alone{number}").best, heads))
    assert found.best == max(best for best, _ in alone)
    chosen = alone[found.head]
    assert found.best == chosen[0]
    torch.testing.assert_close(together.heads[found.head].weight, chosen[1].heads[0].weight)


def test_a_loss_that_is_no_number_is_refused_by_name(tmp_path):
    network = made()
    with pytest.raises(TrainingFailedError, match="the loss of epoch 1 is nan"):
        train(network, make_job(tmp_path, network, loss=lambda logits, targets: logits.sum() * torch.nan))


def test_a_prediction_that_is_no_number_is_refused_by_name(tmp_path):
    network = made()
    job = make_job(tmp_path, network)
    job.feed.features[0][50] = torch.inf
    with pytest.raises(TrainingFailedError, match="validation frames are not numbers"):
        train(network, job)


def test_a_last_batch_of_one_joins_the_one_before(tmp_path):
    # 41 rows in batches of 8 leave one, of which batch normalisation cannot take a variance.
    seen = []

    class Watched(OneHead):
        def forward(self, features):
            if self.training:
                seen.append(len(features[0]))
            return super().forward(features)

    network = Watched()
    train(network, make_job(tmp_path, network, recipe=replace(RECIPE, epochs=1)))
    assert seen == [8, 8, 8, 8, 9]


def test_masks_are_flipped_with_their_frames():
    images = torch.arange(36, dtype=torch.uint8).reshape(1, 1, 6, 6).repeat(40, 1, 1, 1)
    feed = ImageFeed(images, (images % 2 == 0).to(torch.uint8), torch.device("cpu"), "flip")
    x, y = feed.batch(np.arange(40), torch.Generator().manual_seed(0))
    assert torch.equal((torch.round(x * 255) % 2 == 0).float(), y)
    mirrored = [torch.equal(one[0], x[0, 0].flip(-1)) for one in x]
    assert 5 < sum(mirrored) < 35
    assert not any(torch.equal(one[0], x[0, 0].flip(-2)) for one in x)


def test_masks_turn_and_zoom_with_their_frames():
    images = torch.zeros(30, 1, 64, 64, dtype=torch.uint8)
    images[:, :, 20:44, 12:40] = 255
    feed = ImageFeed(images, (images > 0).to(torch.uint8), torch.device("cpu"), "affine")
    x, y = feed.batch(np.arange(30), torch.Generator().manual_seed(0))
    assert set(y.unique().tolist()) == {0.0, 1.0}
    assert ((x >= 0.5).float() != y).float().mean() < 0.001
    areas = y.sum(dim=(1, 2, 3))
    assert areas.min() < 600 < 24 * 28 < areas.max()


def test_without_a_generator_nothing_is_augmented():
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    feed = ImageFeed(images, torch.zeros(4, dtype=torch.long), torch.device("cpu"), "affine")
    x, _ = feed.batch(np.array([2, 0]))
    assert torch.equal(x, images[[2, 0]].float() / 255)


@pytest.mark.parametrize("memory", [1e9, 0])
def test_features_are_the_same_in_memory_and_in_a_file(tmp_path, memory):
    images = torch.randint(0, 256, (11, 1, 4, 4)).float()
    batches = ([part * 2, part.mean(dim=(2, 3))] for part in images.split(4))
    kept = collect(batches, len(images), tmp_path, memory)
    assert torch.equal(kept[0], images * 2)
    assert torch.equal(kept[1], images.mean(dim=(2, 3)))
    assert not list(tmp_path.glob("*.tmp"))


def test_the_validation_score_counts_empty_masks():
    truth = torch.zeros(3, 1, 4, 4)
    truth[0, :, :2] = 1
    logits = torch.full((3, 1, 4, 4), -1.0)
    logits[0, :, :2, :2] = 1.0
    logits[2, :, 0, 0] = 1.0
    # Half of a lesion found: 2 * 4 / (4 + 8); an empty frame left empty: 1; a lesion in an empty frame: 0.
    score = DiceScore()
    assert score.of_batch(logits, truth).tolist() == pytest.approx([2 / 3, 1, 0])
    assert score.of_all(score.of_batch(logits, truth)) == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_macro_f1_is_scikit_learns():
    from sklearn.metrics import f1_score as reference

    generator = torch.Generator().manual_seed(0)
    logits, truth = torch.randn(50, 3, generator=generator), torch.randint(0, 3, (50,), generator=generator)
    expected = reference(truth.numpy(), logits.argmax(dim=1).numpy(), average="macro")
    score = MacroF1Score()
    parts = torch.cat([score.of_batch(logits[:30], truth[:30]), score.of_batch(logits[30:], truth[30:])])
    assert score.of_all(parts) == pytest.approx(expected)


def test_the_likelihood_is_the_mean_of_all_frames_whatever_the_batches():
    generator = torch.Generator().manual_seed(0)
    logits, truth = torch.randn(50, 3, generator=generator), torch.randint(0, 3, (50,), generator=generator)
    score = Likelihood()
    parts = torch.cat([score.of_batch(logits[:30], truth[:30]), score.of_batch(logits[30:], truth[30:])])
    assert score.of_all(parts) == pytest.approx(-float(functional.cross_entropy(logits, truth)))


def test_the_loss_is_smps_dice_and_focal():
    import segmentation_models_pytorch as smp

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 1, 16, 16, generator=generator)
    truth = (torch.rand(4, 1, 16, 16, generator=generator) > 0.7).float()
    dice, focal = smp.losses.DiceLoss("binary"), smp.losses.FocalLoss("binary", gamma=2.0)
    expected = 0.8 * dice(logits, truth) + 0.2 * focal(logits, truth)
    assert float(segmentation_loss(recipe("paper", "segmentation"))(logits, truth)) == pytest.approx(
        float(expected), abs=1e-4
    )


@pytest.mark.parametrize("shape", [(3, 1, 16, 16), (5, 1, 300, 300)])
@pytest.mark.parametrize("name", ["paper", "paper_b"])
def test_the_loss_and_its_gradient_are_monais(shape, name):
    from monai.losses import DiceFocalLoss

    settings = recipe(name, "segmentation")
    weights = {"lambda_dice": settings.dice_weight, "lambda_focal": 1 - settings.dice_weight}
    reference = DiceFocalLoss(sigmoid=True, batch=True, gamma=settings.focal_gamma, **weights)
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    truth = (torch.rand(shape, generator=generator) > 0.7).double()
    losses, gradients = [], []
    for loss in (segmentation_loss(settings), reference):
        x = logits.clone().requires_grad_()
        value = loss(x, truth)
        value.backward()
        losses.append(value.detach())
        gradients.append(x.grad)
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-6, atol=1e-9)  # MONAI in float32


def test_the_loss_of_empty_masks_and_sure_logits_is_finite():
    loss = segmentation_loss(recipe("paper", "segmentation"))
    for value in (-200.0, 0.0, 200.0):
        x = torch.full((2, 1, 8, 8), value, requires_grad=True)
        loss(x, torch.zeros(2, 1, 8, 8)).backward()
        assert torch.isfinite(x.grad).all()


def test_paper_bs_loss_is_cross_entropy_and_dice():
    import segmentation_models_pytorch as smp

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 1, 16, 16, generator=generator)
    truth = (torch.rand(4, 1, 16, 16, generator=generator) > 0.7).float()
    entropy = functional.binary_cross_entropy_with_logits(logits, truth)
    expected = 0.5 * float(smp.losses.DiceLoss("binary")(logits, truth)) + 0.5 * float(entropy)
    found = float(segmentation_loss(recipe("paper_b", "segmentation"))(logits, truth))
    assert found == pytest.approx(expected, abs=1e-4)


def test_layer_decay_slows_the_first_blocks_and_leaves_the_head():
    import timm

    encoder = timm.create_model("vit_tiny_patch16_224", depth=4, num_classes=0)
    head = [nn.Parameter(torch.zeros(3))]
    settings = recipe("vit", "segmentation")
    groups = parameter_groups(head, encoder, settings)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert {id(p) for p in encoder.parameters()} | {id(head[0])} == set(rate)
    first, last = encoder.blocks[0].mlp.fc1.weight, encoder.blocks[3].mlp.fc1.weight
    assert rate[id(first)] == pytest.approx(rate[id(last)] * settings.layer_decay**3)
    assert rate[id(head[0])] == settings.learning_rate
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert (decay[id(first)], decay[id(encoder.blocks[0].norm1.bias)]) == (0.05, 0.0)


def test_layer_decay_of_what_has_no_blocks_is_refused():
    with pytest.raises(BundleConfigError, match="layer decay"):
        parameter_groups([], nn.Linear(2, 2), recipe("vit", "segmentation"))


def test_logits_of_linear_heads_are_interpolated_as_torch_does_it():
    network = OnFeature(LinearHeads(5, 1, 2), 32)
    features = torch.randn(3, 5, 7, 9)
    expected = network.heads.eval()(features)
    found = network.eval()([features])
    assert found.shape == (2, 3, 1, 32, 32)
    for ours, plain in zip(found, expected, strict=True):
        reference = functional.interpolate(plain, (32, 32), mode="bilinear", align_corners=False)
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-6)


def test_a_transformers_layers_decay_too():
    from transformers import Dinov2Config, Dinov2Model

    encoder = Dinov2Model(Dinov2Config(hidden_size=24, num_hidden_layers=3, num_attention_heads=2, image_size=28))
    groups = parameter_groups([], encoder, recipe("vit", "segmentation"))
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert {id(p) for p in encoder.parameters()} == set(rate)
    first, last = (encoder.encoder.layer[i].mlp.fc1.weight for i in (0, 2))
    assert rate[id(first)] == pytest.approx(rate[id(last)] * 0.75**2)


def test_a_short_training_is_not_all_warm_up():
    settings = recipe("vit", "segmentation", epochs=3)
    assert rate_factor(settings, 0) == 1.0


@pytest.mark.parametrize("wrong", [{"augment": "affin"}, {"schedule": "cosinus"}])
def test_a_word_that_the_recipe_does_not_know_is_refused(wrong):
    with pytest.raises(BundleConfigError, match="choose one of"):
        recipe("paper", "segmentation", **wrong)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": -1.0}])
def test_a_recipe_with_a_setting_that_cannot_work_is_refused(wrong):
    with pytest.raises(BundleConfigError, match="positive"):
        recipe("paper", "segmentation", **wrong)
