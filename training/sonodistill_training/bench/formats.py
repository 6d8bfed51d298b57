"""What a frame costs in each file format that a corpus could be kept in: the choice of Arrow, measured.

Arrow, raw bytes and compressed Arrow are always measured; WebDataset, Zarr, Lance and mosaicml-streaming where they
are installed (they are no dependencies).
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sonodistill_training.corpus.blocks import BLOCK_ROWS
from sonodistill_training.corpus.manifest import FRAME_COLUMNS, KEPT, MANIFEST, table, write_table
from sonodistill_training.corpus.shards import Corpus, ShardWriter
from sonodistill_training.hardware import hardware

Frames = Sequence[NDArray[np.uint8]]
Get = Callable[[int], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Format:
    """A way to keep frames.

    Attributes:
        write: frames into a folder.
        open: the folder, as a function of the frame's number; None where there is no random access.
        stream: all frames, in order.
        needs: the module it comes with.
    """

    write: Callable[[Path, Frames], None]
    open: Callable[[Path], Get] | None
    stream: Callable[[Path], Iterable[NDArray[np.uint8]]]
    needs: str | None = None


def bench_formats(corpus: Path, *, count: int, rounds: int, seed: int = 0) -> dict[str, Any]:
    """``measure`` of ``count`` frames of a corpus, chosen at random, with what they were measured on."""
    data = Corpus(corpus)
    chosen = np.random.default_rng(seed).permutation(len(data))[:count].tolist()
    with tempfile.TemporaryDirectory() as folder:
        formats = measure([data[number].copy() for number in chosen], Path(folder), rounds, seed)
    settings = {"frames": len(chosen), "rounds": rounds, "seed": seed}
    return {"benchmark": "shards", **formats, "settings": settings, "hardware": hardware()}


def measure(frames: Frames, folder: Path, rounds: int = 5, seed: int = 0) -> dict[str, dict[str, float | None]]:
    """Of each format: bytes a pixel, seconds to open, frames a second at random and in order (page cache warm).

    A frame counts as read when its pixels have been copied once. Seconds are processor time, so that a format which
    needs several cores is not taken for a quick one; medians of the rounds.
    """
    found = {name: format for name, format in FORMATS.items() if not format.needs or _installed(format.needs)}
    for name, format in found.items():
        (folder / name).mkdir(parents=True)
        format.write(folder / name, frames)
    scratch = np.empty(max(frame.size for frame in frames), np.uint8)
    order = np.random.default_rng(seed).permutation(len(frames)).tolist()
    figures: dict[str, list[tuple[float | None, ...]]] = {name: [] for name in found}
    for _ in range(rounds + 1):  # the first one warms up
        for name, format in found.items():
            figures[name].append(_round(format, folder / name, order, scratch))
    pixels = sum(frame.size for frame in frames)
    result = {}
    for name, rows in figures.items():
        size = sum(file.stat().st_size for file in (folder / name).rglob("*") if file.is_file())
        opened, random, ordered = (_median(column) for column in zip(*rows[1:], strict=True))
        result[name] = {
            "bytes_per_pixel": round(size / pixels, 3),
            "open_ms": opened and round(opened * 1000, 2),
            "random_frames_per_second": random and round(random),
            "sequential_frames_per_second": ordered and round(ordered),
        }
    return result


def _round(format: Format, folder: Path, order: list[int], scratch: NDArray[np.uint8]) -> tuple[float | None, ...]:
    opened = random = None
    if format.open:
        began = time.process_time()
        get = format.open(folder)
        get(order[0])
        opened = time.process_time() - began
        random = _rate((get(number) for number in order), scratch)
    return opened, random, _rate(format.stream(folder), scratch)


def _rate(frames: Iterable[NDArray[np.uint8]], scratch: NDArray[np.uint8]) -> float:
    began, count = time.process_time(), 0
    for frame in frames:
        np.copyto(scratch[: frame.size].reshape(frame.shape), frame)
        count += 1
    return count / (time.process_time() - began)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


# ---- the formats: the shortest code that each library's documentation shows


def write_corpus(folder: Path, frames: Frames) -> None:
    """The frames as a corpus of one shard."""
    shard, rows = "shards/frames.arrow", []
    with ShardWriter(folder / shard) as writer:
        for number, frame in enumerate(frames):
            row = {"id": str(number), "dataset": "local", "status": KEPT, "shard": shard, "row": writer.append(frame)}
            rows.append(row | {"height": frame.shape[0], "width": frame.shape[1]})
            writer.mark()
    write_table(folder / MANIFEST, table(rows, FRAME_COLUMNS), {"sha256": "", "short_side": "256"})


def _open_corpus(folder: Path) -> Get:
    return Corpus(folder).__getitem__


def _in_order(opener: Callable[[Path], Get]) -> Callable[[Path], Iterator[NDArray[np.uint8]]]:
    def stream(folder: Path) -> Iterator[NDArray[np.uint8]]:
        get, number = opener(folder), 0
        try:
            while True:
                yield get(number)
                number += 1
        except IndexError:
            return

    return stream


def _columns(frames: Frames) -> Iterator[pa.RecordBatch]:
    for first in range(0, len(frames), BLOCK_ROWS):
        part = frames[first : first + BLOCK_ROWS]
        pixels = pa.array([frame.tobytes() for frame in part], pa.large_binary())
        shapes = [pa.array([frame.shape[axis] for frame in part], pa.int32()) for axis in (0, 1)]
        yield pa.record_batch([pixels, *shapes], names=["pixels", "height", "width"])


def _rows(batch: pa.RecordBatch) -> Iterator[NDArray[np.uint8]]:
    for pixels, height, width in zip(*batch.columns, strict=True):
        yield np.frombuffer(pixels.as_buffer(), np.uint8).reshape(height.as_py(), width.as_py())


def _write_zstd(folder: Path, frames: Frames) -> None:
    batches = list(_columns(frames))
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(str(folder / "frames.arrow"), batches[0].schema, options=options) as file:
        for batch in batches:
            file.write_batch(batch)


def _open_zstd(folder: Path) -> Get:
    file = pa.ipc.open_file(pa.memory_map(str(folder / "frames.arrow")))

    def get(number: int) -> NDArray[np.uint8]:
        block, row = divmod(number, BLOCK_ROWS)
        return next(_rows(file.get_batch(block).slice(row, 1)))

    return get


def _stream_zstd(folder: Path) -> Iterator[NDArray[np.uint8]]:
    file = pa.ipc.open_file(pa.memory_map(str(folder / "frames.arrow")))
    for block in range(file.num_record_batches):
        yield from _rows(file.get_batch(block))


def _write_raw(folder: Path, frames: Frames) -> None:
    with (folder / "frames.bin").open("wb") as file:
        for frame in frames:
            file.write(frame.tobytes())
    np.save(folder / "shapes.npy", np.array([frame.shape for frame in frames]))


def _open_raw(folder: Path) -> Get:
    shapes = np.load(folder / "shapes.npy")
    ends = np.cumsum(shapes.prod(1))
    data = np.memmap(folder / "frames.bin", np.uint8, mode="r")

    def get(number: int) -> NDArray[np.uint8]:
        return data[ends[number] - shapes[number].prod() : ends[number]].reshape(shapes[number])

    return get


def _write_webdataset(folder: Path, frames: Frames) -> None:
    import webdataset

    with webdataset.TarWriter(str(folder / "frames.tar")) as file:
        for number, frame in enumerate(frames):
            file.write({"__key__": f"{number:08d}", "npy": frame})


def _stream_webdataset(folder: Path) -> Iterator[NDArray[np.uint8]]:
    import webdataset

    data = webdataset.WebDataset(str(folder / "frames.tar"), shardshuffle=False).decode().to_tuple("npy")
    return (frame for (frame,) in data)


def _write_zarr(folder: Path, frames: Frames) -> None:
    import zarr

    # Zarr arrays are rectangular: frames are padded to the largest.
    height, width = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    shape, chunk = (len(frames), height, width), (1, height, width)
    array = zarr.create_array(
        store=folder / "frames.zarr",
        shape=shape,
        chunks=chunk,
        shards=(BLOCK_ROWS, *chunk[1:]),
        dtype="u1",
        compressors=None,
    )
    for first in range(0, len(frames), BLOCK_ROWS):
        part = frames[first : first + BLOCK_ROWS]
        array[first : first + len(part)] = np.stack(
            [np.pad(frame, [(0, height - frame.shape[0]), (0, width - frame.shape[1])]) for frame in part]
        )
    np.save(folder / "shapes.npy", np.array([frame.shape for frame in frames]))


def _open_zarr(folder: Path) -> Get:
    import zarr

    shapes, array = np.load(folder / "shapes.npy"), zarr.open_array(folder / "frames.zarr", mode="r")

    def get(number: int) -> NDArray[np.uint8]:
        height, width = shapes[number]
        return array[number][:height, :width]

    return get


def _write_lance(folder: Path, frames: Frames) -> None:
    import lance

    batches = list(_columns(frames))
    lance.write_dataset(pa.Table.from_batches(batches), folder / "frames.lance")


def _open_lance(folder: Path) -> Get:
    import lance

    data = lance.dataset(folder / "frames.lance")
    return lambda number: next(_rows(data.take([number]).to_batches()[0]))


def _stream_lance(folder: Path) -> Iterator[NDArray[np.uint8]]:
    import lance

    for batch in lance.dataset(folder / "frames.lance").to_batches(batch_size=BLOCK_ROWS):
        yield from _rows(batch)


def _write_mosaic(folder: Path, frames: Frames) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=str(folder / "mds"), columns={"frame": "ndarray:uint8"}) as file:
        for frame in frames:
            file.write({"frame": frame})


def _open_mosaic(folder: Path) -> Get:
    from streaming import LocalDataset

    data: Any = LocalDataset(str(folder / "mds"))
    return lambda number: data[number]["frame"]


FORMATS = {
    "arrow": Format(write_corpus, _open_corpus, _in_order(_open_corpus)),
    "raw_memmap": Format(_write_raw, _open_raw, _in_order(_open_raw)),
    "arrow_zstd": Format(_write_zstd, _open_zstd, _stream_zstd),
    "webdataset": Format(_write_webdataset, None, _stream_webdataset, "webdataset"),
    "zarr_v3_sharded": Format(_write_zarr, _open_zarr, _in_order(_open_zarr), "zarr"),
    "lance": Format(_write_lance, _open_lance, _stream_lance, "lance"),
    "mosaicml_streaming": Format(_write_mosaic, _open_mosaic, _in_order(_open_mosaic), "streaming"),
}
