"""Shards and corpora: what is written comes back, whole or not at all, mapped or streamed, in any process."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

from sonodistill.errors import EmptyInputError, SonoDistillError, UnreadableFileError
from sonodistill_training.corpus.blocks import BLOCK_ROWS, pack_mask, unpack_mask
from sonodistill_training.corpus.manifest import FRAME_COLUMNS, MANIFEST, table, write_table
from sonodistill_training.corpus.pack import open_corpus
from sonodistill_training.corpus.shards import Corpus, ShardWriter


def frame(number):
    """A frame of its own content, in sizes that differ."""
    shape = 32 + number % 5, 40 + number % 7
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


def write_corpus(folder, sizes=(150, 70), refuse=()):
    """Shards of so many frames; the refused ones have a row of the manifest and no place in a shard."""
    rows, number = [], 0
    for shard_number, size in enumerate(sizes):
        shard = f"shards/{shard_number}.arrow"
        with ShardWriter(folder / shard) as writer:
            for _ in range(size):
                row = {"id": str(number), "dataset": "thyroid" if number % 3 else "breast", "split": "train"}
                if number in refuse:
                    row |= {"status": "blank", "dataset": "breast"}
                else:
                    row |= {"status": "kept", "shard": shard, "row": writer.append(frame(number))}
                rows.append(row)
                number += 1
    write_table(folder / MANIFEST, table(rows, FRAME_COLUMNS), {"sha256": "ab" * 32, "short_side": "32"})
    return Corpus(folder)


def pixels(data):
    return hashlib.sha256(b"".join(data[i].tobytes() for i in range(len(data)))).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


def test_frames_come_back_in_the_order_of_the_manifest(folder):
    corpus = Corpus(folder)
    assert len(corpus) == 220
    assert all(np.array_equal(corpus[i], frame(i)) for i in range(220))
    assert np.array_equal(corpus[-1], frame(219))


def test_only_kept_frames_are_in_it(tmp_path):
    corpus = write_corpus(tmp_path, refuse={0, 7, 219})
    kept = [i for i in range(220) if i not in (0, 7, 219)]
    assert len(corpus) == 217
    assert all(np.array_equal(corpus[i], frame(number)) for i, number in enumerate(kept))
    assert corpus.column("id") == [str(number) for number in kept]


def test_a_frame_is_a_view_that_cannot_be_written_to(folder):
    corpus = Corpus(folder)
    assert np.shares_memory(corpus[3], corpus[3])
    with pytest.raises(ValueError, match="read-only"):
        corpus[3][0, 0] = 1


def test_a_corpus_ends_where_its_frames_end(folder):
    with pytest.raises(IndexError):
        Corpus(folder)[220]
    assert len(list(Corpus(folder))) == 220


def test_data_sets_are_codes_and_names(folder):
    codes, names = Corpus(folder).datasets
    assert [names[code] for code in codes[:4]] == ["breast", "thyroid", "thyroid", "breast"]


def test_one_data_set_can_be_had_alone_and_has_a_hash_of_its_own(folder):
    whole, part = Corpus(folder), Corpus(folder, dataset="breast", split="train")
    assert [np.array_equal(part[i], whole[3 * i]) for i in range(len(part))] == [True] * 74
    assert len({whole.sha256, part.sha256, Corpus(folder, dataset="thyroid").sha256}) == 3
    assert part.sha256 == Corpus(folder, dataset=["breast"], split="train").sha256


def test_a_data_set_that_is_not_there_is_an_error(folder):
    with pytest.raises(EmptyInputError, match="kidney"):
        Corpus(folder, dataset="kidney")


def test_what_the_manifest_does_not_say_is_none(folder):
    assert set(Corpus(folder).column("group")) == {None}


def test_the_overlay_mask_comes_back_with_its_frame(tmp_path):
    mask = np.zeros((32, 40), bool)
    mask[3:9, 5:30] = True
    with ShardWriter(tmp_path / "a.arrow") as writer:
        writer.append(frame(0), mask)
        writer.append(frame(0))
        writer.append(frame(0), np.zeros_like(mask))
    rows = [{"dataset": "d", "status": "kept", "shard": "a.arrow", "row": row} for row in range(3)]
    write_table(tmp_path / MANIFEST, table(rows, FRAME_COLUMNS), {"sha256": "", "short_side": "32"})
    corpus = Corpus(tmp_path)
    assert np.array_equal(corpus.overlay(0), mask)
    assert corpus.overlay(1) is None and corpus.overlay(2) is None


@given(height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 99))
def test_any_mask_survives_packing(height, width, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.3
    assert np.array_equal(unpack_mask(pack_mask(mask), mask.shape), mask)


@settings(max_examples=25, deadline=None)
@given(files=st.lists(st.tuples(st.integers(0, 100), st.booleans()), max_size=6))
def test_a_file_that_fails_midway_leaves_no_trace(files, tmp_path_factory):
    folder, expected, number = tmp_path_factory.mktemp("rollback"), [], 0
    with ShardWriter(folder / "a.arrow") as writer:
        for count, fails in files:
            writer.mark()
            rows = [writer.append(frame(number + i)) for i in range(count)]
            if fails:
                writer.rollback()
            else:
                assert rows == list(range(len(expected), len(expected) + count))
                expected += range(number, number + count)
            number += count
            assert len(writer) == len(expected)
    stored = pa.ipc.open_file(str(folder / "a.arrow")).read_all()
    assert stored["pixels"].to_pylist() == [frame(number).tobytes() for number in expected]


def test_the_same_frames_give_the_same_bytes_however_they_are_marked(tmp_path):
    for name, every in (("a", 1), ("b", 50)):
        with ShardWriter(tmp_path / name) as writer:
            for number in range(200):
                writer.append(frame(number))
                if number % every == 0:
                    writer.mark()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    batches = pa.ipc.open_file(str(tmp_path / "a"))
    assert [batches.get_batch(i).num_rows for i in range(4)] == [BLOCK_ROWS] * 3 + [8]


def test_an_interrupted_shard_does_not_appear(tmp_path):
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path / "a.arrow") as writer:
        writer.append(frame(0))
        writer.mark()
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.float32)])
def test_only_gray_bytes_are_frames(wrong, tmp_path):
    with ShardWriter(tmp_path / "a.arrow") as writer, pytest.raises(ValueError, match="uint8"):
        writer.append(wrong)


@pytest.mark.parametrize("damage", ["shorten", "remove"])
def test_a_damaged_shard_is_refused_when_the_corpus_is_opened(damage, tmp_path):
    write_corpus(tmp_path)
    shard = tmp_path / "shards" / "1.arrow"
    data = shard.read_bytes()
    shard.unlink()
    if damage == "shorten":
        shard.write_bytes(data[:-1])
    with pytest.raises(UnreadableFileError, match=r"1\.arrow.*not whole"):
        Corpus(tmp_path)


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(EmptyInputError, match="not a corpus"):
        Corpus(tmp_path)


def test_a_corpus_of_another_version_is_refused(folder, tmp_path):
    rows = pq.read_table(folder / MANIFEST).replace_schema_metadata({"schema_version": "3"})
    pq.write_table(rows, tmp_path / MANIFEST)
    with pytest.raises(UnreadableFileError, match="version 3; this release reads 2"):
        Corpus(tmp_path)


def test_a_frame_is_had_in_microseconds(folder):
    corpus = Corpus(folder)
    order = np.random.default_rng(0).integers(0, len(corpus), 2000).tolist()
    seconds = []
    for _ in range(5):
        began = time.process_time()
        for index in order:
            corpus[index]
        seconds.append(time.process_time() - began)
    assert min(seconds) / len(order) < 5e-6


@pytest.mark.parametrize("uri", [False, True], ids=["mapped", "streamed"])
def test_a_pickled_corpus_reads_on(folder, uri):
    corpus = Corpus(folder.as_uri() if uri else folder)
    expected = pixels(corpus)
    data = pickle.dumps(corpus)
    assert len(data) < 10_000  # no pixels
    assert pixels(pickle.loads(data)) == expected


@pytest.mark.parametrize(("uri", "start"), [(False, "fork"), (False, "spawn"), (True, "spawn")])
def test_another_process_reads_the_same(folder, uri, start):
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {start}")
    corpus = Corpus(folder.as_uri() if uri else folder)
    expected = pixels(corpus)
    with multiprocessing.get_context(start).Pool(1) as pool:
        assert pool.apply_async(pixels, (corpus,)).get(60) == expected


def _read_after_fork(corpus, queue):
    try:
        queue.put(corpus[0].shape)
    except SonoDistillError as error:
        queue.put(str(error))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_a_streamed_corpus_says_that_it_cannot_be_forked(folder):
    corpus = Corpus(folder.as_uri())
    corpus[0]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_read_after_fork, args=(corpus, queue))
    process.start()
    assert "spawn" in queue.get(timeout=30)
    process.join(30)


def test_streamed_frames_are_the_mapped_ones(folder):
    mapped, streamed = Corpus(folder), Corpus(folder.as_uri(), cached_blocks=2)
    assert streamed.streamed and not mapped.streamed
    assert streamed.sha256 == mapped.sha256
    order = np.random.default_rng(0).permutation(len(mapped)).tolist()
    for index, image in zip(order, streamed.take(order), strict=True):
        assert np.array_equal(image, mapped[index])


def test_only_so_many_blocks_stay_in_memory(folder):
    corpus = Corpus(folder.as_uri(), cached_blocks=2)
    for index in range(len(corpus)):
        corpus[index]
    assert len(corpus._store._blocks) == 2


def test_a_stream_of_an_unknown_kind_is_a_named_error():
    with pytest.raises(SonoDistillError, match="nosuch"):
        Corpus("nosuch://bucket/corpus")


@pytest.fixture(scope="module")
def bucket(folder):
    """The corpus in a bucket of an S3 server of this machine; (URI, the server's list of GET requests)."""
    server = pytest.importorskip("moto.server", reason="pip install 'moto[server]' for the object storage tests")
    from werkzeug.serving import make_server

    requests = []
    application = server.DomainDispatcherApplication(server.create_backend_app)

    def counting(environ, respond):
        if environ["REQUEST_METHOD"] == "GET":
            requests.append((environ["PATH_INFO"], environ.get("HTTP_RANGE")))
        return application(environ, respond)

    web = make_server("127.0.0.1", 0, counting, threaded=True)
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    uri = f"s3://key:secret@frames/corpus?scheme=http&region=us-east-1&endpoint_override=127.0.0.1:{web.port}"
    try:
        store = fs.FileSystem.from_uri(uri + "&allow_bucket_creation=true")[0]
        store.create_dir("frames")
        fs.copy_files(str(folder), "frames/corpus", destination_filesystem=store)
        yield uri, requests
    finally:
        web.shutdown()
        thread.join()


def test_frames_stream_from_a_bucket_a_request_a_block(bucket, folder):
    from sonodistill_training.distill.data import CorpusViews  # not above: other processes import this module
    from sonodistill_training.sampling import StepBatches

    uri, requests = bucket
    corpus, mapped = Corpus(uri), Corpus(folder)
    requests.clear()
    views = CorpusViews(corpus, 32)
    for batch in StepBatches(views.order(0), 22, 0, 10):
        views.__getitems__(batch)
    # Two shards are opened (footer's size, footer) and five blocks fetched.
    assert len([path for path, _ in requests if path.endswith(".arrow")]) == 2 * 2 + 5
    assert all(byte_range for _, byte_range in requests)
    assert all(np.array_equal(corpus[i], mapped[i]) for i in range(len(mapped)))


def test_a_worker_streams_from_a_bucket(bucket, folder):
    corpus = Corpus(bucket[0])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply_async(pixels, (corpus,)).get(60) == pixels(Corpus(folder))


def test_a_bucket_without_corpus_is_refused(bucket):
    with pytest.raises(EmptyInputError, match="not a corpus"):
        Corpus(bucket[0].replace("/corpus", "/nothing"))


def test_a_training_opens_the_frames_of_its_split_and_all_where_there_are_none(tmp_path):
    rows = [("a", "train"), ("b", "test"), ("c", "train")]
    with ShardWriter(tmp_path / "s.arrow") as writer:
        for number, _ in enumerate(rows):
            writer.append(np.full((40, 50), number, np.uint8))
    for splits, expected in (("train", [0, 2]), (None, [0, 1, 2])):
        listed = [
            {"id": name, "status": "kept", "dataset": "x", "shard": "s.arrow", "row": row, "height": 40, "width": 50}
            | ({"split": split} if splits else {})
            for row, (name, split) in enumerate(rows)
        ]
        write_table(tmp_path / MANIFEST, table(listed, FRAME_COLUMNS), {"sha256": "0" * 64, "short_side": "40"})
        corpus = open_corpus(tmp_path, tmp_path / "unused")
        assert [int(corpus[i][0, 0]) for i in range(len(corpus))] == expected
