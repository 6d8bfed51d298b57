"""What a build takes from a file, as settings that travel to its workers."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any

from sonodistill.errors import SonoDistillError
from sonodistill.frames.cut import FORMS
from sonodistill_training.corpus.thinning import Thinning

OVERLAY = ("inpaint", "mask", "keep")
CUTS = ("0", "1", "2", "axial", "coronal", "sagittal", *FORMS)
# Its numbers are looked at where a volume is cut; what is refused here would fail for each.
_CUT = re.compile(r"[012]|axial|coronal|sagittal|rotational:\d{1,4}|oblique:[-+.\d]+(,[-+.\d]+)?")


@dataclass(frozen=True, slots=True)
class Extraction:
    """What a corpus takes from a file; every field is part of the corpus' identity.

    Attributes:
        short_side: pixels of the shorter side of a stored frame; smaller frames stay as they are.
        thinning: which frames of a clip are kept.
        cuts: how volumes are cut, each as ``frames.read`` takes it ("axial", "rotational:12", "oblique:30" ...).
        overlay: what becomes of drawn pixels: "inpaint", "mask" (black) or "keep".
        smallest: shortest side, in pixels, of a sector that is worth keeping.
        encoder: a local weights file, or what ``embedding.load_embedder`` takes: frames that its embeddings find alike
            are redundant too. Empty compares thumbnails alone. It makes the child import torch.
        unlike: least 1 - cosine of two kept frames' embeddings.
        windows: sign the parts of frames too, which the audit needs of an evaluation set.
    """

    short_side: int = 256
    thinning: Thinning = field(default_factory=Thinning)
    cuts: tuple[str, ...] = ("0",)
    overlay: str = "inpaint"
    smallest: int = 64
    encoder: str = ""
    unlike: float = 0.02
    windows: bool = False

    def __post_init__(self) -> None:
        if self.overlay not in OVERLAY:
            raise SonoDistillError(f"overlay {self.overlay}", remedy=f"choose one of {', '.join(OVERLAY)}")
        for cut in self.cuts:
            if not _CUT.fullmatch(cut):
                raise SonoDistillError(f"a volume cannot be cut by {cut!r}", remedy=f"use {', '.join(CUTS)}")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Extraction:
        """Back from plain values."""
        return cls(**{**values, "thinning": Thinning(**values["thinning"]), "cuts": tuple(values["cuts"])})
