"""The list of a server's instances: looked up by id and series, and kept in a file."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sonodistill.annotate.model import Item
from sonodistill.annotate.remote.listing import Instance, Study
from sonodistill.dicom.service.fetch import Place
from sonodistill.dicom.source import is_uid
from sonodistill.files import write_text

_LOG = logging.getLogger(__name__)
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Index:
    """What one answer of the server says. It is replaced as a whole.

    Attributes:
        items: by study, series and Instance Number.
        by_id: SOP Instance UID -> item.
        by_series: Series Instance UID -> its items, in order.
        instances: SOP Instance UID -> where it is.
        skipped: (name, reason).
    """

    items: list[Item] = field(default_factory=list)
    by_id: dict[str, Item] = field(default_factory=dict)
    by_series: dict[str, list[Item]] = field(default_factory=dict)
    instances: dict[str, Instance] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, studies: Mapping[str, Study], path: Callable[[str], Path]) -> Index:
        """The index of ``studies``, whose copies lie at ``path(SOP Instance UID)``."""
        index = cls()
        for study in studies.values():
            index.skipped.extend(study.skipped)
            for instance in study.instances:
                id, series, frames = instance.place.sop, instance.place.series, instance.frames
                if id in index.by_id:
                    index.skipped.append((id, "another instance has the same UID"))
                    continue
                name = "US image" if frames == 1 else f"US {frames} frames"
                item = Item(id, name, "dicom", frames, path(id), study.group, series)
                index.items.append(item)
                index.by_id[id] = item
                index.by_series.setdefault(series, []).append(item)
                index.instances[id] = instance
        return index


def save(path: Path, url: str, query: Mapping[str, str], studies: Mapping[str, Study]) -> None:
    """Write the list atomically; it holds UIDs, numbers and hashes, nothing of the patient's."""
    held = {uid: asdict(study) for uid, study in studies.items()}
    write_text(path, json.dumps({"version": _VERSION, "url": url, "query": dict(query), "studies": held}))


def load(path: Path, url: str, query: Mapping[str, str]) -> dict[str, Study] | None:
    """The list that was saved for this server and query; None where there is none, or none that can be read."""
    try:
        held = json.loads(path.read_text("utf-8"))
        if (held["version"], held["url"], held["query"]) != (_VERSION, url, dict(query)):
            return None
        return {uid: _study(each) for uid, each in held["studies"].items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _LOG.warning("the list in %s cannot be read (%s); the server is asked for it", path.name, type(error).__name__)
        return None


def _study(held: dict[str, object]) -> Study:
    instances = []
    for each in held["instances"]:  # type: ignore[attr-defined]
        place = Place(**each["place"])
        if not all(is_uid(uid) for uid in (place.study, place.series, place.sop)):
            raise ValueError("a UID is malformed")
        instances.append(Instance(place, int(each["frames"]), int(each["number"])))
    skipped = tuple((str(name), str(reason)) for name, reason in held["skipped"])  # type: ignore[attr-defined]
    counts = tuple(int(count) for count in held["counts"])  # type: ignore[attr-defined]
    return Study(counts, str(held["group"]), tuple(instances), skipped)
