"""Options of an augmentation: how likely, within which range, and a named error for what cannot be."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Annotated, Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

from sonodistill.errors import SonoDistillError

Range = tuple[float, float]


class AugmentationError(SonoDistillError):
    """An augmentation was given a probability or a range that cannot be."""


@dataclass(frozen=True, slots=True)
class Within:
    """Two increasing numbers, each between ``low`` and ``high``."""

    low: float
    high: float

    def read(self, value: Any) -> Range:
        """The value as a pair, or a ValueError that says what it should be."""
        pair = isinstance(value, (tuple, list)) and len(value) == 2 and all(map(_is_number, value))
        if not pair or not self.low <= value[0] <= value[1] <= self.high:
            raise ValueError(f"two increasing numbers between {self.low:g} and {self.high:g}")
        return float(value[0]), float(value[1])


@dataclass(frozen=True, slots=True)
class Count:
    """A whole number between ``low`` and ``high``."""

    low: int
    high: int

    def read(self, value: Any) -> int:
        """The value as an int, or a ValueError that says what it should be."""
        if not _is_number(value) or value != int(value) or not self.low <= value <= self.high:
            raise ValueError(f"a whole number between {self.low} and {self.high}")
        return int(value)


@dataclass(frozen=True, slots=True)
class Probability:
    """A share of the views, 0 to 1; 0 is off."""

    def read(self, value: Any) -> float:
        """The value as a float, or a ValueError that says what it should be."""
        if not _is_number(value) or not 0 <= value <= 1:
            raise ValueError("a probability between 0 and 1")
        return float(value)


Share = Annotated[float, Probability()]


class Options:
    """Base of a frozen dataclass of options, each annotated with one of the above."""

    __slots__ = ()

    def __post_init__(self) -> None:
        check(self)

    @property
    def identity(self) -> str:
        """What a training that goes on must have in common with the one before."""
        return repr(self)


def check(augmentation: Any) -> None:
    """Read every field of a frozen dataclass, each annotated with one of the above; lists become tuples.

    One spelling each makes the ``repr`` an identity: a training goes on whether its ranges came from YAML or Python.

    Raises:
        AugmentationError: all that is wrong, at once.
    """
    wrong = []
    for name, hint in get_type_hints(type(augmentation), include_extras=True).items():
        value = getattr(augmentation, name)
        try:
            object.__setattr__(augmentation, name, hint.__metadata__[0].read(value))
        except ValueError as error:
            wrong.append(f"{name} is {value!r} and should be {error}")
    if wrong:
        raise AugmentationError(
            f"{type(augmentation).__name__} cannot work: {'; '.join(wrong)}", remedy="correct these options"
        )


def choose(
    share: float, numbers: NDArray[np.float64], ranges: list[Range], neutral: float | list[float]
) -> NDArray[np.float32] | None:
    """(B, len(ranges)) values in their ranges for this share of the views, ``neutral`` for the others; None if off.

    Args:
        numbers: (B, 1 + len(ranges)) in [0, 1): the first says whether, the others how much.
    """
    if share == 0:
        return None
    low, high = np.array(ranges).T
    drawn = low + (high - low) * numbers[:, 1:]
    return np.where(numbers[:, :1] < share, drawn, neutral).astype(np.float32)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and bool(np.isfinite(value))
