"""Paper B's evaluation: structures told apart, DINOv2's linear probe, UPerNet, and its table by one command."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

from sonodistill.errors import DatasetError
from sonodistill.networks.build import build_segmenter
from sonodistill_training.evaluate.data import cached_sets, read_set
from sonodistill_training.evaluate.encoders.load import load_encoder
from sonodistill_training.evaluate.learning.augment_paper_b import strong
from sonodistill_training.evaluate.learning.feeds import ImageFeed
from sonodistill_training.evaluate.learning.loop import Job, _order, one_epoch, rate_factor, train
from sonodistill_training.evaluate.learning.losses import AccuracyScore, StructuresScore, segmentation_loss
from sonodistill_training.evaluate.learning.recipes import recipe
from sonodistill_training.evaluate.learning.token_probe import TokenHeads
from sonodistill_training.evaluate.metrics.structures import counts, summarise_structures
from sonodistill_training.evaluate.results import Store
from sonodistill_training.evaluate.scoring import structure_columns
from sonodistill_training.evaluate.tables.build import own_tables, paper_tables
from sonodistill_training.evaluate.tables.paired import metric_of
from sonodistill_training.evaluate.tables.parts import together
from sonodistill_training.evaluate_commands import app

sys.path.insert(0, str(Path(__file__).parent))
from folder_case import make_folder, rows_of, write_rows
from paper_b_case import fass, fetal_planes, jnu_ifm, ultradino


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    top = tmp_path_factory.mktemp("paper_b")
    makers = {"jnu_ifm": jnu_ifm, "fass": fass, "fetal_planes": fetal_planes}
    for name, make in makers.items():
        (top / name).mkdir()
        make(top / name)
    return {name: top / name for name in makers}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return ultradino(tmp_path_factory.mktemp("ultradino") / "teacher_checkpoint.pth")


@pytest.fixture(scope="module")
def encoder(checkpoint):
    return load_encoder(f"UltraDINO-S={checkpoint}", input_size=32).eval()


def test_the_structures_of_jnu_ifm_and_fass_are_told_apart(sets, tmp_path):
    data = read_set("jnu_ifm", sets["jnu_ifm"], 32, tmp_path)
    assert data.structures == ("pubic symphysis", "fetal head")
    assert np.unique(data.codes(0)).tolist() == [0, 1, 2]
    np.testing.assert_array_equal(data.truth(0), data.codes(0) > 0)
    assert set(np.unique(data.masks(range(3)))) == {0, 1, 2}
    again = read_set("jnu_ifm", sets["jnu_ifm"], 32, tmp_path)
    assert (again.structures, again.sha256) == (data.structures, data.sha256)
    np.testing.assert_array_equal(again.codes(4), data.codes(4))
    assert cached_sets(tmp_path, {data.sha256})["jnu_ifm"].structures == data.structures
    four = read_set("fass", sets["fass"], 32)
    assert four.structures == ("aorta", "liver", "stomach", "umbilical vein")
    assert np.unique(four.codes(0)).tolist() == [0, 1, 2, 3, 4]


def test_an_index_names_the_values_of_its_masks(tmp_path):
    import cv2

    folder = make_folder(tmp_path / "named", 8)
    rows = rows_of(folder)
    for row in rows:
        mask = np.zeros((64, 64), np.uint8)
        mask[5:20], mask[30:40] = 7, 200
        cv2.imwrite(str(folder / row["mask"]), mask)
        row["structures"] = "7=symphysis; 200=head"
    write_rows(folder, rows)
    data = read_set("named", folder, 32)
    assert data.structures == ("symphysis", "head")
    assert [int((data.codes(0) == code).sum()) for code in (1, 2)] == [15 * 64, 10 * 64]
    mask[60:] = 9
    cv2.imwrite(str(folder / rows[0]["mask"]), mask)
    with pytest.raises(DatasetError, match="holds the value 9"):
        read_set("named", folder, 32)
    rows[1]["structures"] = "7=head"
    write_rows(folder, rows)
    with pytest.raises(DatasetError, match="different structures"):
        read_set("named", folder, 32)
    for wrong in ("7", "0=head", "7=a;7=b", "7=a;8=a", "x=head"):
        rows[1]["structures"] = wrong
        write_rows(folder, rows)
        with pytest.raises(DatasetError, match="says structures"):
            read_set("named", folder, 32)


def test_the_loss_of_structures_is_cross_entropy_and_mean_dice():
    settings = recipe("paper_b", "segmentation")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
    truth = torch.randint(3, (2, 1, 8, 8), generator=generator).double()
    found = float(segmentation_loss(settings)(logits, truth))
    entropy = float(functional.cross_entropy(logits, truth[:, 0].long()))
    probabilities, dice = logits.softmax(1), []
    for number in range(3):
        ours, theirs = probabilities[:, number], (truth[:, 0] == number).double()
        dice.append(1 - float((2 * (ours * theirs).sum() + 1e-5) / (ours.sum() + theirs.sum() + 1e-5)))
    assert found == pytest.approx(0.5 * entropy + 0.5 * np.mean(dice), abs=1e-9)
    focal = replace(settings, dice_weight=0.0, focal_gamma=2.0)
    right = probabilities.gather(1, truth.long())
    expected = float((-((1 - right) ** 2) * right.log()).mean())
    assert float(segmentation_loss(focal)(logits, truth)) == pytest.approx(expected, abs=1e-9)


def test_the_dice_of_structures_counts_the_pixels_of_all_images():
    generator = np.random.default_rng(0)
    predicted, truth = (generator.integers(0, 3, (4, 16, 16)).astype(np.uint8) for _ in range(2))
    columns: dict = {}
    for one, other in zip(predicted, truth, strict=True):
        for name, value in structure_columns(one, other, ("symphysis", "head")).items():
            columns.setdefault(name, []).append(value)
    summary = summarise_structures(columns)
    each = [
        2 * ((predicted == c) & (truth == c)).sum() / ((predicted == c).sum() + (truth == c).sum()) for c in range(3)
    ]
    assert summary["dice_classes"] == pytest.approx(np.mean(each))
    assert summary["dice_structures"] == pytest.approx(np.mean(each[1:]))
    assert (summary["dice:symphysis"], summary["dice:head"]) == pytest.approx((each[1], each[2]))
    logits = functional.one_hot(torch.from_numpy(predicted).long(), 3).permute(0, 3, 1, 2).float()
    score = StructuresScore()
    parts = score.of_batch(logits, torch.from_numpy(truth)[:, None].float())
    assert score.of_all(parts) == pytest.approx(np.mean(each))
    assert counts(columns, ("background", "symphysis", "head")).shape == (4, 3, 3)


def test_a_structure_that_nobody_has_is_left_out_of_the_mean():
    columns = {name: [value] for name, value in structure_columns(*[np.ones((4, 4), np.uint8)] * 2, ("a", "b")).items()}
    summary = summarise_structures(columns)
    assert (summary["dice_structures"], summary["dice:b"], summary["dice_structures_images"]) == (1.0, None, 1.0)


@pytest.mark.parametrize("augment", ["affine", "paper_b"])
def test_augmented_masks_of_structures_stay_codes_and_move_with_the_frame(augment):
    codes = torch.zeros(6, 1, 48, 48, dtype=torch.uint8)
    codes[:, :, 10:24, 10:38], codes[:, :, 26:40, 8:30] = 1, 2
    feed = ImageFeed(codes * 100, codes, torch.device("cpu"), augment, coded=True)
    frames, masks = feed.batch(np.arange(6), torch.Generator().manual_seed(3))
    assert set(masks.unique().tolist()) <= {0.0, 1.0, 2.0}
    assert not torch.equal(masks, codes.float())
    if augment == "affine":  # no change of brightness: the frame says where its structures are
        inside = (frames * 255 - masks * 100).abs() < 1
        assert inside.float().mean() > 0.9


def test_the_strong_augmentation_is_reproducible_and_never_upside_down():
    x = torch.zeros(64, 2, 32, 32)
    x[:, :, :10] = 1  # skin is above
    first, again = (strong(x, torch.Generator().manual_seed(1), masks=True) for _ in range(2))
    assert torch.equal(first, again)
    above, below = first[:, 1, :16].mean((1, 2)), first[:, 1, 16:].mean((1, 2))
    assert ((above >= below).float().mean()) > 0.95
    assert float(first[:, 0].min()) >= 0
    assert float(first[:, 0].max()) <= 1
    moved = (first[:, 1] != x[:, 1]).flatten(1).any(1).float().mean()
    assert 0.5 < float(moved) < 1  # each change has a chance of a half


def test_a_few_frames_are_drawn_again_until_an_epoch_has_its_steps():
    settings = recipe("paper_b", "segmentation", shots=20, epochs=1, epoch_steps=3, batch_size=8)
    job = Job(None, np.arange(100, 105), np.arange(2), None, None, [], settings, 0, False, Path("x"))
    rows = _order(job, torch.Generator().manual_seed(0))
    assert len(rows) == 24
    assert sorted(rows[:5].tolist()) == list(range(100, 105))  # a whole pass before the next
    assert set(np.bincount(rows - 100)) <= {4, 5}


def test_paper_bs_recipe_counts_45000_steps_and_20000_of_few_shots():
    whole, few = recipe("paper_b", "segmentation"), recipe("paper_b", "segmentation", shots=20)
    assert (whole.epochs * whole.epoch_steps, few.epochs * few.epoch_steps) == (45_000, 20_000)
    assert (whole.batch_size, whole.learning_rate, whole.layer_decay, whole.drop_path) == (64, 1e-4, 0.99, 0.4)
    assert rate_factor(whole, 3) == 1
    assert rate_factor(whole, 51.5) == pytest.approx(0.5)
    probe = recipe("paper_b", "classification")
    assert [rate_factor(probe, epoch, by_step=True) for epoch in (0, 2.5, 5, 7.5, 10)] == pytest.approx(
        [0, 0.5, 1, 0.5, 0]
    )


@pytest.mark.parametrize(("width", "millions"), [(768, 74.93), (384, 18.74)])
def test_upernet_on_a_vit_has_the_parameters_of_mmsegs_head_and_beits_neck(width, millions):
    class Plain(nn.Module):
        name, channels, reductions, num_features, input_multiple = "vit", (width,) * 4, (16,) * 4, width, 16

    with torch.device("meta"):
        network = build_segmenter(Plain(), "upernet", classes=5)
    norm = 2 * width
    neck = 3 * (4 * width**2 + width) + norm  # three transposed convolutions of 2 x 2, one batch norm
    pooling = 4 * (width**2 + norm) + 9 * 5 * width**2 + norm  # a 1 x 1 for each scale, 3 x 3 over all five
    lateral, smooth = 3 * (width**2 + norm), 3 * (9 * width**2 + norm)
    joined, last = 9 * 4 * width**2 + norm, 5 * width + 5
    expected = neck + pooling + lateral + smooth + joined + last
    assert sum(p.numel() for p in network.parameters()) == expected
    assert expected / 1e6 == pytest.approx(millions, abs=0.005)


def test_upernet_reads_blocks_3_5_7_and_11(encoder):
    assert encoder.backbone.blocks == (3, 5, 7, 11)
    x = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        model, after = encoder.backbone.model, []
        hooks = [block.register_forward_hook(lambda *a: after.append(a[2])) for block in model.blocks]
        maps = encoder.pyramid(x)
        for hook in hooks:
            hook.remove()
        for block, level in zip((3, 5, 7, 11), maps, strict=True):
            expected = model.norm(after[block])[:, 5:].transpose(1, 2).unflatten(2, (2, 2))  # class token, 4 registers
            torch.testing.assert_close(level, expected, atol=1e-5, rtol=0)


def test_a_probes_tokens_are_dinov2s(encoder):
    x = torch.rand(2, 1, 32, 32)
    model, after = encoder.backbone.model, []
    with torch.no_grad():
        hooks = [block.register_forward_hook(lambda *a: after.append(a[2])) for block in model.blocks]
        found = encoder.tokens(x)
        for hook in hooks:
            hook.remove()
        last = [model.norm(tokens) for tokens in after[-4:]]
    expected = torch.stack([*(tokens[:, 0] for tokens in reversed(last)), last[-1][:, 5:].mean(1)], dim=1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_transformers_gives_the_same_tokens_as_timm(tmp_path):
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=48, num_hidden_layers=5, num_attention_heads=3, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(tmp_path / "folder")
    encoder = load_encoder(f"Mine={tmp_path / 'folder'}", input_size=28).eval()
    x = torch.rand(2, 1, 28, 28)
    with torch.no_grad():
        tokens, last = encoder.tokens(x), encoder.pyramid(x)[-1]
        model = encoder.backbone.model
        hidden = model(pixel_values=encoder.input(x), output_hidden_states=True).hidden_states
        earlier = model.layernorm(hidden[-3])[:, 0]
    assert tokens.shape == (2, 5, 48)
    torch.testing.assert_close(tokens[:, -1], last.mean((2, 3)), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens[:, 2], earlier, atol=1e-5, rtol=0)


def test_the_probe_has_a_head_for_each_rate_and_choice_of_tokens():
    rates = recipe("paper_b", "classification").probe_rates
    assert len(rates) == 13
    heads = TokenHeads(tokens=5, width=8, classes=6, rates=len(rates))
    assert [choice.title for choice in heads.choices] == [
        "class token of the last block",
        "class token of the last block and mean patch token",
        "class tokens of the last 4 blocks",
        "class tokens of the last 4 blocks and mean patch token",
    ]
    tokens = torch.randn(3, 5, 8)
    logits = heads([tokens])
    assert logits.shape == (52, 3, 6)
    inputs = [tokens[:, 0], torch.cat([tokens[:, 0], tokens[:, 4]], 1), tokens[:, :4].flatten(1), tokens.flatten(1)]
    for number, head in enumerate(heads.heads):
        torch.testing.assert_close(logits[number], head(inputs[number // 13]))
    groups = heads.parameter_groups(rates)
    assert [group["lr"] for group in groups] == [*rates] * 4
    assert [heads.parameters_of(choice) for choice in range(4)] == [6 * w + 6 for w in (8, 16, 32, 40)]
    assert len(TokenHeads(tokens=1, width=8, classes=6, rates=13).heads) == 13  # of a network without class tokens


def test_a_probe_is_trained_by_sgd_with_a_rate_for_each_step():
    settings = recipe("paper_b", "classification", epochs=1, batch_size=2)
    heads = TokenHeads(2, 4, 2, 1)
    before = [p.detach().clone() for p in heads.parameters()]
    rates = [group["lr"] for group in heads.parameter_groups([0.1])]
    optimizer = torch.optim.SGD(heads.parameter_groups([0.1]), momentum=0.9)

    class Feed:
        def batch(self, rows, generator=None):
            return [torch.ones(len(rows), 2, 4)], torch.zeros(len(rows), dtype=torch.long)

    loss = functional.cross_entropy
    job = Job(Feed(), np.arange(8), np.arange(2), loss, AccuracyScore(), [], settings, 0, False, Path("x"), sgd=True)
    one_epoch(heads, job, optimizer, 0, rates)
    # Of four steps, the third is where the warm-up of half the training has ended, and the last halfway down.
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5)
    assert any(not torch.equal(a, b) for a, b in zip(before, heads.parameters(), strict=True))


def test_a_probe_is_chosen_among_the_heads_of_the_last_epoch(tmp_path):
    settings = recipe("paper_b", "classification", epochs=2, batch_size=4)
    scores = iter([[0.9, 0.8], [0.4, 0.6]])
    turn: list[float] = []

    class Score(AccuracyScore):
        def of_all(self, parts):
            if not turn:
                turn.extend(next(scores))
            return turn.pop(0)

    class Feed:
        def batch(self, rows, generator=None):
            return [torch.ones(len(rows), 1, 4)], torch.zeros(len(rows), dtype=torch.long)

    heads = TokenHeads(1, 4, 2, 2)
    groups = heads.parameter_groups([0.1, 0.01])
    rows, loss = np.arange(8), functional.cross_entropy
    job = Job(Feed(), rows, rows, loss, Score(), groups, settings, 0, False, tmp_path / "x.pt", sgd=True)
    found = train(heads, job)
    assert (found.best, found.best_epoch, found.head) == (0.6, 2, 1)


def test_one_command_makes_paper_bs_table_and_says_what_was_not_there(sets, checkpoint, tmp_path):
    out = tmp_path / "out"
    small = ["--epochs", "1", "--epoch-steps", "1", "--batch-size", "4", "--input-size", "32", "--seeds", "1"]
    given = [word for name in ("jnu_ifm", "fetal_planes") for word in ("-d", f"{name}={sets[name]}")]
    command = ["run", "--papers", "b", "-e", f"UltraDINO-S={checkpoint}", *given, "--out", str(out), *small]
    made = CliRunner().invoke(app, [*command, "--device", "cpu", "--precision", "fp32", "--no-report"])
    assert made.exit_code == 0, made.output
    assert "the data sets fass" in made.output
    results = {result.cell.data: result for result in Store(out).all()}
    cell = results["jnu_ifm"].cell
    assert (cell.head, cell.shots, cell.recipe.name) == ("upernet", 20, "paper_b")
    assert results["jnu_ifm"].about["frames"]["train"] == 20
    names = results["jnu_ifm"].images.column_names
    assert {"both:fetal head", "truth:pubic symphysis", "predicted:background"} <= set(names)
    about = results["fetal_planes"].about
    assert about["learning_rate_chosen"] in recipe("paper_b", "classification").probe_rates
    assert about["probe_chosen"].startswith("class token")
    shown = {table.key: table for table in paper_tables(Store(out).all(), ["headline"])}
    few, whole, planes = shown.values()
    ours = few.entry("UltraDINO ViT-S/16", "dice_structures")
    assert ours.estimate == pytest.approx(results["jnu_ifm"].summary["dice_structures"])
    assert few.entry("UltraDINO ViT-B/16", "dice_structures").published.value == 0.8601
    assert whole.entry("UltraDINO ViT-B/16", "dice_structures").published.value == 0.7424
    assert planes.entry("UltraDINO ViT-B/16", "macro_f1").published.value == 0.9454
    assert "dice:fetal head" in [column.key for column in few.columns]
    text = CliRunner().invoke(app, ["tables", str(out), "--papers", "--table", "b"]).output
    assert all(value in text for value in ("0.8601", "0.7424", "0.9454", "no result in the store"))
    (table,) = [table for table in own_tables(Store(out).all()) if table.key.startswith("jnu_ifm")]
    assert table.entry("UltraDINO ViT-S/16", "dice:pubic symphysis").estimate is not None
    (runs,) = [runs for runs in together(Store(out).all()) if runs.cell.data == "jnu_ifm"]
    assert metric_of(runs) == "dice_structures_images"
    summary = results["jnu_ifm"].summary
    assert runs.per_image(metric_of(runs)).mean() == pytest.approx(summary["dice_structures_images"])


def test_vits_of_timm_without_class_token_are_refused_by_name():
    from sonodistill.errors import BundleConfigError
    from sonodistill_training.distill.backbone_timm import TimmBackbone

    model = timm.create_model("vit_tiny_patch16_224", img_size=32, class_token=False, global_pool="avg", num_classes=0)
    with pytest.raises(BundleConfigError, match="no class token"):
        TimmBackbone(model, 1, "").class_tokens(torch.rand(1, 3, 32, 32), 4)
