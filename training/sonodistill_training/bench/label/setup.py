"""What the benchmark of the annotation server measures with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Setup:
    """Sizes and numbers; the defaults are what the goals are stated for.

    Attributes:
        rounds: requests of each kind that count; some more go before them.
        threads: of the inference.
        input_size: pixels of the segmentation and of the clicks, a multiple of 32.
        encoders: timm names of the encoder of the segmentation and the first clicks, and of the second clicks.
        embedding_size: pixels that the pool is embedded at.
        clips, frames: of the pool that the next sample is chosen from.
        seed: of the images and the networks.
    """

    rounds: int = 100
    threads: int = 1
    input_size: int = 256
    encoders: tuple[str, str] = ("resnet18", "resnet50")
    embedding_size: int = 64
    clips: int = 100
    frames: int = 100
    seed: int = 0

    @classmethod
    def quick(cls, **changes: object) -> Setup:
        """The same in little: a look whether everything runs."""
        few = {"rounds": 4, "input_size": 64, "encoders": ("test_resnet", "test_resnet"), "clips": 4, "frames": 6}
        return cls(**{**few, **changes})  # type: ignore[arg-type]
