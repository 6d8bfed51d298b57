"""What or who made a result: named in every object that is written, and part of its identifiers."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sonodistill.dicom.source import Source

AlgorithmType = Literal["AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"]
"""Segment Algorithm Type (0062,0008): a model alone, a person with a model's help, a person alone."""


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept (PS3.3 8): value, coding scheme ("SCT", "DCM", "UCUM", "99..." for a private one), meaning."""

    value: str
    scheme: str
    meaning: str


TISSUE = Code("85756007", "SCT", "Body tissue structure")
ABNORMAL = Code("49755003", "SCT", "Morphologically abnormal structure")
LESION = Code("52988006", "SCT", "Lesion")


@dataclass(frozen=True, slots=True)
class Segment:
    """What a channel of the model shows.

    Attributes:
        label: the model's name for it, which is shown to people; 64 characters at most.
        category: Segmented Property Category Code Sequence (0062,0003).
        type: Segmented Property Type Code Sequence (0062,000F).
        anatomy: Anatomic Region Sequence (0008,2218), or None.
    """

    label: str
    category: Code = ABNORMAL
    type: Code = LESION
    anatomy: Code | None = None


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A model with its settings, or people who drew.

    Attributes:
        name: of the algorithm, 64 characters at most.
        version: of the software.
        weights_sha256: of the model's file, hex; empty where it is not known, or no model took part.
        segments: one for each channel of the model, in its order.
        settings: everything besides the weights that decides the result: runtime, precision, threshold, outputs ...
            JSON values only.
        software: names and versions, for Software Versions (0018,1020).
        licence: notice of the weights that has to go with what they make; empty where there is none.
        kind: how much of it people did.
        people: who drew or accepted, empty for what nobody looked at.
        content_sha256: of what people drew, hex: no settings decide it, so it is part of the identifiers of objects,
            though not of their series. Empty for what a model alone makes.
    """

    name: str
    version: str
    weights_sha256: str
    segments: tuple[Segment, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    software: tuple[str, ...] = ()
    licence: str = ""
    kind: AlgorithmType = "AUTOMATIC"
    people: tuple[str, ...] = ()
    content_sha256: str = ""

    @property
    def serial(self) -> str:
        """What stands for Device Serial Number (0018,1000): the weights, else the version."""
        return self.weights_sha256 or self.version

    @property
    def config_sha256(self) -> str:
        """Hex SHA-256 of all that decides the result but the weights, as canonical JSON."""
        fields: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "segments": [asdict(segment) for segment in self.segments],
            "settings": dict(self.settings),
            "software": list(self.software),
        }
        if self.kind != "AUTOMATIC":
            fields["kind"] = self.kind
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def uid(self, kind: str, source: Source, *more: str) -> str:
        """A UID (2.25.) that the same study, instance, weights and settings always give.

        Args:
            kind: what it is for: "seg", "sr", "sc", "tracking" ...
            source: its study and instance go in.
            more: whatever else tells two such objects apart.
        """
        drawn = (self.content_sha256,) if self.content_sha256 else ()
        return self._uid(kind, source.study_uid, source.sop_uid, *more, *drawn)

    def series_uid(self, kind: str, source: Source) -> str:
        """The series of all results of one kind that belong to one series of the source."""
        return self._uid(f"series-{kind}", source.study_uid, source.series_uid)

    def _uid(self, kind: str, *parts: str) -> str:
        # Of a name-based UUID (PS3.5 B.2): pydicom's generate_uid has no 2.25. UIDs but random ones. Joined by what no
        # part holds.
        text = "\n".join((kind, *parts, self.weights_sha256, self.config_sha256))
        return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, text).int}"
