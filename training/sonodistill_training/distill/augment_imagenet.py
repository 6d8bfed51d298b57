"""The paper's "Default" augmentation, for comparison: what is usual for photographs, as torchvision draws it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike

from sonodistill_training.distill.augment import CROP_DRAWS, Views, draw_boxes
from sonodistill_training.distill.augment_options import Options, Range, Share, Within, choose
from sonodistill_training.sampling import uniform

_FLIP, _BLUR, _JITTER, _DRAWS = CROP_DRAWS, CROP_DRAWS + 1, CROP_DRAWS + 3, CROP_DRAWS + 7


@dataclass(frozen=True, slots=True)
class ImageNetAugmentation(Options):
    """Crop, horizontal flip, color jitter and blur, in this order; saturation, hue and conversion to gray, which the
    chain has too, leave gray images as they are.

    The paper names the steps and gives no numbers. These are those of the public code it appears to have been made
    with, but for the blur, which there hardly exists; ours is SimCLR's (Chen et al., ICML 2020).

    Attributes:
        scale: share of the frame's area that a crop keeps.
        ratio: width by height of the crop, drawn log-uniformly.
        flip: probability of a horizontal flip.
        jitter: probability of another brightness and contrast, in random order.
        brightness: factor of the gray values.
        contrast: factor of their distance from their mean.
        blur: probability of a Gaussian blur, with a standard deviation in ``blur_sigma`` pixels of the view.
    """

    scale: Annotated[Range, Within(1e-4, 1)] = (0.14, 1.0)
    ratio: Annotated[Range, Within(0.1, 10)] = (3 / 4, 4 / 3)
    flip: Share = 0.5
    jitter: Share = 0.8
    brightness: Annotated[Range, Within(0, 10)] = (0.6, 1.4)
    contrast: Annotated[Range, Within(0, 10)] = (0.6, 1.4)
    blur: Share = 0.5
    blur_sigma: Annotated[Range, Within(0, 32)] = (0.1, 2.0)

    def draw(self, seed: int, positions: ArrayLike, shapes: ArrayLike) -> Views:
        """The views at these positions of the training, of frames of these (B, 2) shapes."""
        sizes = np.asarray(shapes)
        numbers = uniform(seed, positions, _DRAWS)
        side = np.sqrt(sizes.prod(1, keepdims=True))
        # torchvision's choice where no crop fits: as much of the centre as the ratio allows.
        limits = np.rint(sizes[:, ::-1] * [1 / self.ratio[0], self.ratio[1]]).astype(np.int64)
        fallback = np.minimum(sizes, limits).clip(min=1)
        blur = choose(self.blur, numbers[:, _BLUR:_JITTER], [self.blur_sigma], 0.0)
        return Views(
            boxes=draw_boxes(sizes, numbers[:, :CROP_DRAWS], self.scale, self.ratio, side, fallback),
            flip=numbers[:, _FLIP] < self.flip,
            jitter=choose(self.jitter, numbers[:, _JITTER:], [self.brightness, self.contrast, (0, 1)], [1, 1, 0]),
            blur=None if blur is None else blur[:, 0],
        )
