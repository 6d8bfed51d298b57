"""Labelled data sets as an evaluation uses them: frames at the network's size, the truth on each frame's own grid."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from sonodistill.errors import DatasetError, UnreadableFileError
from sonodistill.files import atomic_path
from sonodistill.frames import Frame, read
from sonodistill.transforms.geometry import mask_to_input, to_input
from sonodistill_training.corpus.labelled import INDEX, LabelledFrame, read_labelled
from sonodistill_training.corpus.registry import get
from sonodistill_training.corpus.registry.core import Item

_VERSION = 1


@dataclass(frozen=True)
class LabelledSet:
    """Frames with their labels and masks, in one order.

    Attributes:
        name: key of the data set ("busi").
        files: name of each frame; unique.
        groups: patient, case or video of each, never divided between splits.
        labels: class of each, "" for none.
        given: split of each as the data set's index has it, "" for none.
        images: (N, 1, S, S) uint8, what inference makes of each frame before it is divided by 255.
        shapes: (N, 2) height and width of each frame.
        truths: the mask of each frame on its own grid, bits packed (of structures, a plane for each binary digit of
            their numbers, the lowest first); None where it is not annotated.
        mm_per_pixel: (N, 2), of a row and a column; NaN where it is not calibrated.
        sha256: of names, labels, masks and the frames as they were read: the same whatever the network's size.
        structures: what the values 1, 2 ... of the masks are, where they are told apart; empty for one foreground.
    """

    name: str
    files: tuple[str, ...]
    groups: tuple[str, ...]
    labels: tuple[str, ...]
    given: tuple[str, ...]
    images: NDArray[np.uint8]
    shapes: NDArray[np.int64]
    truths: tuple[NDArray[np.uint8] | None, ...]
    mm_per_pixel: NDArray[np.float64]
    sha256: str
    structures: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    @property
    def input_size(self) -> int:
        """Pixels of a side of :attr:`images`."""
        return int(self.images.shape[-1])

    def truth(self, row: int) -> NDArray[np.bool_]:
        """(H, W) bool: the mask of an annotated frame on its own pixel grid, all structures as one."""
        return self._planes(row).any(axis=0)

    def codes(self, row: int) -> NDArray[np.uint8]:
        """(H, W) uint8: 0 and the number of the structure (from 1; 1 where there are none) of each of its pixels."""
        planes = self._planes(row)
        return np.bitwise_or.reduce([plane << digit for digit, plane in enumerate(planes)]).astype(np.uint8)

    def _planes(self, row: int) -> NDArray[np.uint8]:
        bits = self.truths[row]
        if bits is None:
            raise DatasetError(f"{self.files[row]} has no mask", remedy="evaluate classification, or annotate it")
        height, width = self.shapes[row].tolist()
        shape = (_digits(self.structures), height, width)
        return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape)

    def spacing(self, row: int) -> tuple[float, float] | None:
        """Millimetres of a pixel (row, column), or None."""
        height, width = self.mm_per_pixel[row].tolist()
        return None if np.isnan(height) else (height, width)

    def masks(self, rows: Iterable[int]) -> NDArray[np.uint8]:
        """(n, 1, S, S) uint8 codes: the truth of the rows at the network's size, nearest neighbour."""
        size = (self.input_size, self.input_size)
        if not self.structures:
            return np.stack([mask_to_input(self.truth(row).astype(np.uint8), size).astype(np.uint8) for row in rows])
        return np.stack(
            [cv2.resize(self.codes(row), size, interpolation=cv2.INTER_NEAREST_EXACT)[None] for row in rows]
        )


def read_set(name: str, folder: str | Path, input_size: int, cache: str | Path | None = None) -> LabelledSet:
    """Read a folder with an ``index.csv``, or one laid out as the registry's data set ``name`` is published.

    Args:
        name: what it is called; a key of the registry where the folder has no index.
        folder: where it lies.
        input_size: pixels of the square that frames are brought to.
        cache: folder for what was read, so that the next time takes a second.

    Raises:
        DatasetError: no such layout, nothing labelled, a mask of another size than its frame or with several values,
            two frames of one name.
        UnreadableFileError, UnsupportedFormatError: a frame or mask cannot be read.
    """
    folder = Path(folder)
    sources = _sources(name, folder)
    if not sources:
        raise DatasetError("has no labelled frame", path=folder, remedy=f"see its {INDEX}")
    _require_unique([source.file for source in sources], folder)
    stored = (
        None if cache is None else Path(cache) / f"{name}-{input_size}-{_sources_key(name, input_size, sources)}.npz"
    )
    if stored is not None and stored.is_file():
        return _load(stored)
    made = _read(name, sources, input_size)
    if stored is not None:
        _save(stored, made)
    return made


def labelled_frames(name: str, folder: str | Path) -> Iterator[tuple[str, Frame]]:
    """Name and frame of each, in the order of :func:`read_set` and with its errors."""
    for source in _sources(name, Path(folder)):
        yield source.file, _first_frame(source.path)


def cached_sets(cache: str | Path, wanted: Collection[str]) -> dict[str, LabelledSet]:
    """The sets with the ``wanted`` hashes that :func:`read_set` has kept in a folder, by name, each at its largest.

    Raises:
        UnreadableFileError: a file of the folder is damaged.
    """
    found: dict[str, Path] = {}
    for path in sorted(Path(cache).glob("*.npz"), key=lambda path: int(path.stem.split("-")[-2])):
        name, *_, sha256 = _stored_words(path)
        if sha256 in wanted:
            found[name] = path
    return {name: _load(path) for name, path in found.items()}


@dataclass(frozen=True, slots=True)
class _Source:
    """A frame before it is read. ``mask`` is a path or an annotation of the registry."""

    file: str
    path: Path
    group: str
    label: str
    split: str
    mask: Any
    mm_per_pixel: float | None
    structures: tuple[tuple[int, str], ...] = ()  # value in the mask and name, in the order of their codes

    def depends_on(self) -> list[Path]:
        """The files whose change makes it another frame."""
        if isinstance(self.mask, Path):
            return [self.path, self.mask]
        paths = getattr(self.mask, "paths", None) or ([self.mask.path] if hasattr(self.mask, "path") else [])
        return [self.path, *paths]


def _sources(name: str, folder: Path) -> list[_Source]:
    return list(_indexed(folder) if (folder / INDEX).is_file() else _published(name, folder))


def _indexed(folder: Path) -> Iterator[_Source]:
    for frame in read_labelled(folder):
        yield _of_index(frame, folder)


def _of_index(frame: LabelledFrame, folder: Path) -> _Source:
    base = folder if frame.image.is_relative_to(folder) else folder.parent
    file = frame.image.relative_to(base).as_posix()
    split = frame.split if frame.given else ""
    return _Source(file, frame.image, frame.group, frame.label, split, frame.mask, frame.mm_per_pixel, frame.structures)


def _published(name: str, folder: Path) -> Iterator[_Source]:
    structures = tuple(enumerate(get(name).structures, 1))
    for item in get(name).items(folder):
        frames = getattr(item.mask, "frames", None)
        if item.axis is not None or item.only is not None or (frames is not None and frames != {0}):
            raise _not_a_still(item.file)
        yield _of_item(item, folder, structures)


def _of_item(item: Item, folder: Path, structures: tuple[tuple[int, str], ...]) -> _Source:
    file = item.file.relative_to(folder).as_posix() if item.file.is_relative_to(folder) else item.file.name
    return _Source(file, item.file, item.group, item.label, item.split, item.mask, item.mm_per_pixel, structures)


def _require_unique(files: Sequence[str], folder: Path) -> None:
    twice = sorted({file for file in files if files.count(file) > 1}) if len(set(files)) < len(files) else []
    if twice:
        raise DatasetError(f"names {twice[0]} more than once", path=folder, remedy="give each frame one row")


def _sources_key(name: str, input_size: int, sources: Sequence[_Source]) -> str:
    digest = hashlib.sha256(f"{_VERSION} {name} {input_size}".encode())
    for source in sources:
        if source.structures:
            digest.update(json.dumps(source.structures).encode())
        digest.update(
            f"{source.file}\0{source.group}\0{source.label}\0{source.split}\0{source.mm_per_pixel}\n".encode()
        )
        for path in source.depends_on():
            status = path.stat()
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]


def _read(name: str, sources: Sequence[_Source], input_size: int) -> LabelledSet:
    images, shapes, truths, spacing = [], [], [], []
    structures = _structures(name, sources)
    frames = hashlib.sha256()
    for source in track(sources, description=f"reading {name}", transient=True):
        frame = _first_frame(source.path)
        frames.update(np.ascontiguousarray(frame.image).tobytes())
        images.append(np.rint(to_input(frame.image, (input_size, input_size)) * 255).astype(np.uint8))
        shapes.append(frame.image.shape)
        truth = _truth(source, frame)
        truths.append(None if truth is None else _packed(truth, structures))
        spacing.append(frame.mm_per_pixel or (source.mm_per_pixel or np.nan,) * 2)
    made = LabelledSet(
        name,
        tuple(source.file for source in sources),
        tuple(source.group for source in sources),
        tuple(source.label for source in sources),
        tuple(source.split for source in sources),
        np.stack(images),
        np.array(shapes, np.int64),
        tuple(truths),
        np.array(spacing, np.float64),
        frames.hexdigest(),
        structures,
    )
    return _hashed(made)


def _structures(name: str, sources: Sequence[_Source]) -> tuple[str, ...]:
    found = {source.structures for source in sources if source.mask is not None}
    if len(found) > 1:
        raise DatasetError(
            f"{name} has frames with different structures: {' and '.join(sorted(map(str, found))[:2])}",
            remedy=f"give every row with a mask the same text in the column structures of {INDEX}",
        )
    return tuple(called for _, called in next(iter(found), ()))


def _digits(structures: Sequence[str]) -> int:
    """Binary digits of the numbers 0 to that many."""
    return max(1, len(structures).bit_length())


def _packed(codes: NDArray[Any], structures: Sequence[str]) -> NDArray[np.uint8]:
    return np.packbits([codes >> digit & 1 for digit in range(_digits(structures))])


def _first_frame(path: Path) -> Frame:
    frames = iter(read(path))
    frame = next(frames, None)
    if frame is None:
        raise DatasetError("holds no frame", path=path, remedy="drop it from the data set")
    if next(frames, None) is not None:
        raise _not_a_still(path)
    return frame


def _not_a_still(path: Path) -> DatasetError:
    return DatasetError(
        "is a clip or volume, of which one frame alone would be judged",
        path=path,
        remedy="write its annotated frames as images (`sonodistill frames export`) with masks and an index.csv",
    )


def _truth(source: _Source, frame: Frame) -> NDArray[np.uint8] | None:
    """(H, W) codes: 0 and 1, or 0 and the numbers of the structures."""
    if source.mask is None:
        return None
    if not isinstance(source.mask, Path):
        codes = source.mask.load(frame.image.shape)
        return codes if source.structures else (codes > 0).astype(np.uint8)
    mask = _gray(source.mask)
    if mask.shape != frame.image.shape:
        raise DatasetError(
            f"is {mask.shape[0]} x {mask.shape[1]} pixels, its frame {source.path.name} "
            f"{frame.image.shape[0]} x {frame.image.shape[1]}",
            path=source.mask,
            remedy="a mask has its frame's height and width: export it again",
        )
    values = np.unique(mask)
    if source.structures:
        return _coded(mask, values, source)
    if len(values) > 2 or (len(values) == 2 and values[0] != 0):
        found = ", ".join(map(str, values[:6].tolist())) + (" ..." if len(values) > 6 else "")
        raise DatasetError(
            f"holds the values {found}: labels outside the map of 0 (background) and one more (lesion)",
            path=source.mask,
            remedy="write a mask of two values (a JPEG mask has been smoothed: threshold it), or name its "
            f"structures in the column structures of {INDEX}: 1=symphysis;2=head",
        )
    return (mask > 0).astype(np.uint8)


def _coded(mask: NDArray[np.uint8], values: NDArray[np.uint8], source: _Source) -> NDArray[np.uint8]:
    """The values of a mask image as codes from 1, in the order in which the index names the structures."""
    known = {value: code for code, (value, _) in enumerate(source.structures, 1)}
    if strange := sorted(set(values.tolist()) - {0, *known}):
        raise DatasetError(
            f"holds the value {strange[0]}, which the column structures does not name",
            path=source.mask,
            remedy=f"name it in {INDEX} ({strange[0]}=...), or make it 0, the background",
        )
    codes = np.zeros_like(mask)
    for value, code in known.items():
        codes[mask == value] = code
    return codes


def _gray(path: Path) -> NDArray[np.uint8]:
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    return _first_frame(path).image if mask is None else mask  # type: ignore[return-value]


def _hashed(made: LabelledSet) -> LabelledSet:
    """With the hash of everything in the place of that of the frames."""
    words: list[Any] = [made.sha256, made.name, made.files, made.groups, made.labels, made.given]
    words += [made.structures] if made.structures else []
    digest = hashlib.sha256(json.dumps(words).encode())
    for part in (made.shapes, made.mm_per_pixel):
        digest.update(np.ascontiguousarray(part).tobytes())
    for bits in made.truths:
        digest.update(b"none" if bits is None else bits.tobytes())
    return replace(made, sha256=digest.hexdigest())


def _save(path: Path, made: LabelledSet) -> None:
    text = json.dumps([made.name, made.files, made.groups, made.labels, made.given, made.structures, made.sha256])
    offsets = np.cumsum([0, *(0 if bits is None else len(bits) for bits in made.truths)])
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            text=np.frombuffer(text.encode(), np.uint8),
            images=made.images,
            shapes=made.shapes,
            mm_per_pixel=made.mm_per_pixel,
            annotated=np.array([bits is not None for bits in made.truths]),
            offsets=offsets,
            bits=np.concatenate([np.zeros(0, np.uint8), *(bits for bits in made.truths if bits is not None)]),
        )


def _stored_words(path: Path) -> list[Any]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return json.loads(stored["text"].tobytes())
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UnreadableFileError(f"is no set that was kept ({error})", path=path, remedy="remove it") from error


def _load(path: Path) -> LabelledSet:
    name, files, groups, labels, given, *more, sha256 = _stored_words(path)
    structures = tuple(more[0]) if more else ()  # not in what the first release kept
    with np.load(path, allow_pickle=False) as stored:
        bits, offsets = stored["bits"], stored["offsets"]
        truths = tuple(
            bits[start:stop] if annotated else None
            for start, stop, annotated in zip(offsets[:-1], offsets[1:], stored["annotated"], strict=True)
        )
        parts = (stored["images"], stored["shapes"], truths, stored["mm_per_pixel"])
        return LabelledSet(name, tuple(files), tuple(groups), tuple(labels), tuple(given), *parts, sha256, structures)
