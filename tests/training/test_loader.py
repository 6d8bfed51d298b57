"""Views through a data loader: the same bytes for any number of workers, and the loop's training of a corpus."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from training_case import make_loop

from sonodistill.errors import SonoDistillError
from sonodistill_training.corpus.manifest import FRAME_COLUMNS, MANIFEST, table, write_table
from sonodistill_training.corpus.shards import Corpus, ShardWriter
from sonodistill_training.distill.augment import UltrasoundAugmentation
from sonodistill_training.distill.data import CorpusViews
from sonodistill_training.sampling import StepBatches


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """90 frames of one data set and 10 of another."""
    folder, rows = tmp_path_factory.mktemp("corpus"), []
    generator = np.random.default_rng(0)
    with ShardWriter(folder / "a.arrow") as writer:
        for number in range(100):
            row = writer.append(generator.integers(0, 256, (72, 80 + number % 9), dtype=np.uint8))
            rows.append({"dataset": "few" if number < 10 else "many", "status": "kept", "shard": "a.arrow", "row": row})
    write_table(folder / MANIFEST, table(rows, FRAME_COLUMNS), {"sha256": "ab", "short_side": "72"})
    return folder


def views_of(data, **options):
    return CorpusViews(data, 64, UltrasoundAugmentation(intensity=0.5), **options)


def load(views, batch_size=16, start=0, stop=8, **options):
    """One after the other, all views of these steps."""
    batches = StepBatches(views.order(views.seed), batch_size, start, stop)
    loader = DataLoader(views, batch_sampler=batches, collate_fn=views.collate, **options)
    loaded = list(loader)
    return {name: torch.cat([batch[name] for batch in loaded]) for name in loaded[0]}


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys() == {"image", "blur", "intensity"}
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_batch_is_gray_bytes_and_what_the_device_is_to_do(folder):
    batch = load(views_of(Corpus(folder)), stop=1)
    assert batch["image"].shape == (16, 1, 64, 64) and batch["image"].dtype == torch.uint8
    assert batch["blur"].shape == (16,) and batch["intensity"].shape == (16, 3)


@pytest.mark.parametrize("options", [{"num_workers": 1}, {"num_workers": 2}])
def test_workers_change_nothing(folder, options):
    views = views_of(Corpus(folder))
    assert_equal(load(views, **options), load(views))


def test_a_streamed_corpus_gives_the_same_views_in_its_own_order(folder):
    streamed = views_of(Corpus(folder.as_uri()))
    ours = load(streamed, num_workers=1, multiprocessing_context=streamed.start_method)
    assert_equal(ours, load(streamed))
    positions = [(position, streamed.order(0)[position]) for position in range(20)]
    assert torch.equal(views_of(Corpus(folder)).__getitems__(positions)["image"], ours["image"][:20])


def test_where_batches_end_changes_nothing(folder):
    views = views_of(Corpus(folder))
    assert_equal(load(views, batch_size=32, stop=4), load(views, batch_size=16, stop=8))


def test_a_loader_goes_on_in_mid_epoch(folder):
    views = views_of(Corpus(folder))
    whole, tail = load(views), load(views, start=5)
    assert_equal(tail, {name: values[5 * 16 :] for name, values in whole.items()})


def test_epochs_and_seeds_give_other_views_of_a_frame(folder):
    data = Corpus(folder)
    first, again, other = ((position, 3) for position in (0, 100, 0))
    views, reseeded = views_of(data), views_of(data, seed=1)
    shown = [views[first]["image"], views[again]["image"], reseeded[other]["image"]]
    assert not any(torch.equal(one, two) for one, two in zip(shown, shown[1:] + shown[:1], strict=True))


def test_a_single_view_is_that_of_its_batch(folder):
    views = views_of(Corpus(folder))
    batch = views.__getitems__([(7, 1), (8, 2)])
    assert torch.equal(views[(8, 2)]["image"], batch["image"][1])


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("balance", "few"), [(1.0, 10), (0.5, 25), (0.0, 50)])
def test_data_sets_come_as_balanced(folder, balance, few, streamed):
    views = views_of(Corpus(folder.as_uri() if streamed else folder), balance=balance)
    assert (views.order(0).span(0, 100) < 10).sum() == few


def test_a_training_on_a_corpus_does_not_depend_on_its_workers_but_on_its_balance(folder, tmp_path):
    students = []
    for workers in (0, 2):
        loop = make_loop(tmp_path / str(workers), max_steps=2, workers=workers)
        loop.dataset = CorpusViews(Corpus(folder), 64, balance=0.5)
        students.append(load_file(loop.run()))
    assert all(torch.equal(students[0][name], students[1][name]) for name in students[0])
    loop.dataset = CorpusViews(Corpus(folder), 64)
    with pytest.raises(SonoDistillError, match="balance"):  # it cannot go on from that checkpoint
        loop.run()
