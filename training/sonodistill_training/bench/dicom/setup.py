"""What the benchmark of the PACS side measures with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Setup:
    """Sizes and numbers; the defaults are what the goals are stated for.

    Attributes:
        runtime, precision: of the inference, as for the Predictor.
        threads: of the inference.
        input_size: pixels, a multiple of 32.
        frames: of the analysed cine, 480 x 640.
        rounds: of analysing, computing barely and decoding, in turns; at least one more goes before them.
        clips: that are received ...
        clip_mb: ... of about so many 10^6 bytes each ...
        associations: ... over so many associations at once.
        repeats: of the wait for a first result.
        first_frames: of the cine that it is waited for.
        drain: small instances that wait in the queue; 0 leaves that out.
        seed: of the cine and the network.
    """

    runtime: str = "onnxruntime"
    precision: str = "fp32"
    threads: int = 1
    input_size: int = 224
    frames: int = 120
    rounds: int = 5
    clips: int = 40
    clip_mb: float = 6.0
    associations: int = 4
    repeats: int = 5
    first_frames: int = 30
    drain: int = 0
    seed: int = 0

    @classmethod
    def quick(cls, **changes: object) -> Setup:
        """The same in little: a look whether everything runs."""
        few = {"input_size": 64, "frames": 4, "rounds": 1, "clips": 4, "clip_mb": 0.2, "associations": 2}
        return cls(**{**few, "repeats": 1, "first_frames": 3, **changes})  # type: ignore[arg-type]
