"""Rules from which adapters are made: files by pattern, with group, label and split from names, folders or a table."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from sonodistill.errors import DatasetError
from sonodistill_training.corpus.registry.core import Findings, Item, Tree
from sonodistill_training.corpus.registry.labels import ImageMask, Mask
from sonodistill_training.corpus.registry.parse import read_rows

Fields = Mapping[str, str]
Text = str | Callable[[Fields], str]
"""A template ("{split}/{case}") over the fields of a file, or a function of them."""

IMAGE = r"(?:png|jpe?g|bmp|tiff?)"
VIDEO = r"(?:mp4|avi|mov|mkv)"
VOLUME = r"(?:nii(?:\.gz)?|mha|mhd|nrrd)"


@dataclass(frozen=True, slots=True)
class Masks:
    """Where the annotation of a file lies.

    Attributes:
        where: relative paths as templates over the file's fields; ``*`` stands for anything within a name. All files
            found belong to one mask ("{dir}/{stem}_mask*.png").
        make: builds the mask from their absolute paths, in order.
        required: ``check`` reports files without a mask.
    """

    where: str | tuple[str, ...]
    make: Callable[[tuple[Path, ...]], Mask] = ImageMask
    required: bool = True

    def find(self, tree: Tree, fields: Fields) -> list[str]:
        places = (self.where,) if isinstance(self.where, str) else self.where
        return [name for place in places for name in tree.glob(fill(place, fields))]


@dataclass(frozen=True, slots=True)
class Table:
    """One or several CSV files whose columns become fields of the files they speak of.

    Attributes:
        file: relative path, ``*`` allowed; the rows of all that match are put together.
        key: template over a row's columns, and ``table.folder`` and ``table.stem``, the table's own folder and name.
        match: template over a file's own fields; equal to the key of its row. Case is ignored in both.
        complete: every row should have its file; ``check`` reports those that have none.
        rows: reads the file, for tables that are no plain CSV.
        required: the table has to be there.
        partial: not every file has a row; otherwise ``check`` reports those that have none.
    """

    file: str
    key: str
    match: str = "{stem}"
    delimiter: str = ","
    encoding: str = "utf-8-sig"
    complete: bool = True
    rows: Callable[[Path], list[dict[str, str]]] | None = None
    required: bool = True
    partial: bool = False

    def read(self, tree: Tree) -> tuple[list[str], dict[str, dict[str, str]]]:
        """Names of the tables that are there, and their rows by key in lower case."""
        names = tree.glob(self.file)
        found: dict[str, dict[str, str]] = {}
        for name in names:
            path = tree.path(name)
            rows = self.rows(path) if self.rows else read_rows(path, delimiter=self.delimiter, encoding=self.encoding)
            about = path_fields(name)
            origin = {"table.folder": about["folder"], "table.stem": about["stem"]}
            try:
                found.update((fill(self.key, row).lower(), row) for row in ({**origin, **row} for row in rows))
            except KeyError as error:
                raise DatasetError(
                    f"has no column {error}; it has {', '.join(rows[0])}", path=path, remedy="take the published table"
                ) from error
        return names, found


@dataclass(frozen=True, slots=True)
class Files:
    """Every file whose relative path matches ``pattern`` whole (case ignored) is an item: still, clip or volume.

    A file's fields are the named groups of the pattern ("" where one took no part), the columns of its row in the
    table, and ``path``, ``dir``, ``folder`` (the last name of dir), ``name`` and ``stem`` (name without suffixes).

    Attributes:
        group, label, split, mm: what becomes of the item's attributes, each over the fields; mm is mm_per_pixel.
        labels: names for label values that the source gives as codes; others stay as they are.
        exclude: a regular expression searched in the path: not an item (masks that lie beside images).
        mask, table: annotation and table, see there.
        axis: how volumes are to be cut.
        only: the frames of a file that count; None is all.
        optional: the data set may come without these files.
    """

    pattern: str
    group: Text
    label: Text = ""
    split: Text = ""
    mm: Text = ""
    mask: Masks | None = None
    table: Table | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    exclude: str = ""
    axis: str | int | None = None
    only: frozenset[int] | None = None
    optional: bool = False

    def find(self, tree: Tree) -> Findings:
        found = Findings()
        rows, blank = self._rows(tree, found)
        used: set[str] = set()
        rowless: list[str] = []
        maskless: list[str] = []
        regex = re.compile(self.pattern, re.IGNORECASE)
        for name in tree.files:
            match = regex.fullmatch(name)
            if match is None or (self.exclude and re.search(self.exclude, name, re.IGNORECASE)):
                continue
            own = {**path_fields(name), **{key: value or "" for key, value in match.groupdict().items()}}
            key = fill(self.table.match, own).lower() if self.table else ""
            used.add(key)
            if rows and key not in rows:
                rowless.append(name)
            try:
                item = found.items[name] = self._item(tree, name, blank.of({**rows.get(key, {}), **own}), found)
            except KeyError as error:
                raise DatasetError(f"there is no field {error} for it", path=tree.path(name)) from error
            if self.mask and item.mask is None:
                maskless.append(name)
            found.claimed.add(name)
        if not found.items and not self.optional:
            found.missing.append(f"files like {self.pattern}")
        if self.mask and self.mask.required:
            found.missing += several("files have no mask", maskless)
        if self.table and not self.table.partial:
            found.missing += several(f"files have no row in {self.table.file}", rowless)
        if self.table and self.table.complete:
            found.missing += several(f"rows of {self.table.file} have no file", sorted(rows.keys() - used))
        return found

    def _rows(self, tree: Tree, found: Findings) -> tuple[dict[str, dict[str, str]], _Blank]:
        """Rows by key, and what the table's columns are for a file without a row."""
        if self.table is None:
            return {}, _Blank(())
        names, rows = self.table.read(tree)
        found.claimed.update(names)
        if rows:
            return rows, _Blank(next(iter(rows.values())))
        if self.table.required:
            found.missing.append(f"{self.table.file}: {'has no row' if names else 'not there'}")
        return {}, _Blank(None)

    def _item(self, tree: Tree, name: str, fields: Fields, found: Findings) -> Item:
        masks = self.mask.find(tree, fields) if self.mask else []
        found.claimed.update(masks)
        label = fill(self.label, fields)
        return Item(
            tree.path(name),
            fill(self.group, fields),
            self.labels.get(label, label),
            self.mask.make(tuple(map(tree.path, masks))) if self.mask and masks else None,
            fill(self.split, fields),
            self.axis,
            _positive(fill(self.mm, fields)),
            self.only,
        )


class _Blank:
    """Fields in which a table's columns are "" for a file without a row; None: without the table any column is."""

    def __init__(self, columns: Iterable[str] | None) -> None:
        self._columns = None if columns is None else dict.fromkeys(columns, "")

    def of(self, fields: dict[str, str]) -> Fields:
        return defaultdict(str, fields) if self._columns is None else {**self._columns, **fields}


@dataclass(frozen=True, slots=True)
class Known:
    """Files that belong to the layout and are no items: documents, tables, a second copy in another format."""

    pattern: str
    optional: bool = True

    def find(self, tree: Tree) -> Findings:
        regex = re.compile(self.pattern, re.IGNORECASE)
        claimed = {name for name in tree.files if regex.fullmatch(name)}
        return Findings(claimed=claimed, missing=[] if claimed or self.optional else [f"files like {self.pattern}"])


@dataclass(frozen=True, slots=True)
class Custom:
    """A layout that no rule above describes: ``search(tree)`` does the work of ``Files.find``."""

    pattern: str
    search: Callable[[Tree], Findings]
    optional: bool = False

    def find(self, tree: Tree) -> Findings:
        found = self.search(tree)
        if not found.items and not self.optional:
            found.missing.append(f"files like {self.pattern}")
        return found


def fill(text: Text, fields: Fields) -> str:
    """The template with each ``{field}`` replaced, or the function's answer.

    Errors: KeyError for a field that does not exist.
    """
    if callable(text):
        return text(fields)
    return re.sub(r"\{([^{}]+)\}", lambda found: fields[found[1]], text)


def several(what: str, names: Sequence[str], shown: int = 5) -> list[str]:
    """One line that counts the names and shows the first; none for none."""
    if not names:
        return []
    return [f"{len(names)} {what}: {', '.join(names[:shown])}{' ...' if len(names) > shown else ''}"]


def path_fields(name: str) -> dict[str, str]:
    """The fields that every file has."""
    path = PurePosixPath(name)
    folder = "" if path.parent == PurePosixPath(".") else path.parent.as_posix()
    stem = path.name[:-7] if path.name.lower().endswith(".nii.gz") else path.stem
    return {"path": name, "dir": folder, "folder": path.parent.name, "name": path.name, "stem": stem}


def _positive(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None
