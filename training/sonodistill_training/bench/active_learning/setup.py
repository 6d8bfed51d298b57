"""What is simulated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sonodistill.annotate.acquire.strategies import STRATEGIES
from sonodistill.errors import BundleConfigError
from sonodistill_training.evaluate.encoders.spec import EncoderSpec, parse_encoder
from sonodistill_training.evaluate.plan import parse_sources

ROUNDS = (5, 10, 20, 40, 80, 160)
SIMULATED = "simulated"


@dataclass(frozen=True, slots=True)
class Setup:
    """A simulation.

    Attributes:
        sources: name -> folder of each labelled set; None for simulated frames.
        encoder: whose features everything is computed from.
        strategies: names.
        seeds: runs of each strategy, with the seeds 0, 1, ...; each divides the frames anew.
        rounds: labelled frames after each batch, growing.
        input_size: pixels of a side.
        simulated: frames where no set is given.
    """

    sources: dict[str, Path | None]
    encoder: EncoderSpec
    strategies: tuple[str, ...]
    seeds: int = 5
    rounds: tuple[int, ...] = ROUNDS
    input_size: int = 224
    simulated: int = 240


def setup_of(
    *,
    data: Sequence[str],
    encoder: str,
    strategies: Sequence[str],
    seeds: int,
    rounds: str,
    input_size: int,
    simulated: int = 240,
) -> Setup:
    """What the options of ``sonodistill bench active-learning`` ask for.

    Raises:
        BundleConfigError: an option that cannot work.
        WeightsError: there is no such weights file.
    """
    unknown = [name for name in strategies if name not in STRATEGIES]
    if unknown:
        raise BundleConfigError(f"no strategy {unknown[0]}", remedy=f"choose of {', '.join(STRATEGIES)}")
    try:
        counts = tuple(int(one) for one in rounds.split(","))
    except ValueError:
        counts = ()
    if not counts or counts[0] < 2 or list(counts) != sorted(set(counts)):
        raise BundleConfigError(
            f"rounds of {rounds!r}", remedy="give growing numbers of labelled frames, 2 or more: --rounds 5,10,20"
        )
    if input_size % 32:
        raise BundleConfigError(f"an input of {input_size} pixels", remedy="give a multiple of 32")
    given = Path(encoder)
    spec = parse_encoder(f"{given.stem}={encoder}" if "=" not in encoder and given.is_file() else encoder)
    sources: dict[str, Path | None] = dict(parse_sources(data)) if data else {SIMULATED: None}
    return Setup(sources, spec, tuple(dict.fromkeys(strategies)), seeds, counts, input_size, simulated)
