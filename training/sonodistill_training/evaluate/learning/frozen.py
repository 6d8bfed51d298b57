"""A frozen encoder and what it makes of a data set: each feature is computed once, for every cell that uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sonodistill.networks.heads import LinearHead
from sonodistill.networks.precision import use_bf16
from sonodistill_training.evaluate.data import LabelledSet
from sonodistill_training.evaluate.learning.feeds import collect

_BATCH = 16


class FrozenEncoder:
    """An encoder in evaluation mode, batch normalisation included, and its features of a data set's frames.

    Args:
        make_encoder: makes it, once it is needed.
        data: the frames.
        device: where it is computed.
        precision: as for ``use_bf16``.
        folder: for features that do not fit into ``memory``.
        memory: bytes for features; what is more goes to a file.
        on_frames: called with how many frames were encoded.
    """

    def __init__(
        self,
        make_encoder: Callable[[], nn.Module],
        data: LabelledSet,
        device: torch.device,
        precision: str,
        folder: str | Path,
        memory: float = 8e9,
        on_frames: Callable[[int], None] | None = None,
    ) -> None:
        self._make, self._data, self._device, self._precision = make_encoder, data, device, precision
        self._folder, self._memory, self._on_frames = folder, memory, on_frames
        self._encoder: nn.Module | None = None
        self._maps: list[Tensor] | None = None
        self._gathered: Tensor | None = None
        self._pooled: Tensor | None = None
        self._tokens: Tensor | None = None

    @property
    def encoder(self) -> nn.Module:
        """The encoder, on the device."""
        if self._encoder is None:
            self._encoder = self._make().to(self._device, memory_format=torch.channels_last).eval()
            self._encoder.requires_grad_(False)
        return self._encoder

    def maps(self) -> list[Tensor]:
        """(N, C_i, H / r_i, W / r_i) for each map of the pyramid."""
        if self._maps is None:
            self._maps = self._keep(self._encoded(lambda images: list(self.encoder.pyramid(images))))  # type: ignore[operator]
        return self._maps

    def gathered(self) -> Tensor:
        """(N, C, h, w): all maps on one grid, as a linear head reads them (see :class:`LinearHead`)."""
        if self._gathered is None:
            encoder = self.encoder
            gather = LinearHead(encoder.channels, encoder.reductions).gather  # type: ignore[arg-type]
            if self._maps is not None:
                batches = ([gather(list(parts))] for parts in self._of_maps())
            else:
                batches = self._encoded(lambda images: [gather(encoder.pyramid(images))])  # type: ignore[operator]
            (self._gathered,) = self._keep(batches)
        return self._gathered

    def pooled(self) -> Tensor:
        """(N, C) float32: the mean of the last map."""
        if self._pooled is None:
            if self._maps is not None:
                batches = ([parts[-1].float().mean(dim=(2, 3))] for parts in self._of_maps())
            else:
                batches = self._encoded(lambda images: [self.encoder(images).float().mean(dim=(2, 3))])
            (self._pooled,) = self._keep(batches)
        return self._pooled

    def tokens(self) -> Tensor:
        """(N, n + 1, C) float32: class tokens of the last n blocks, at most four, and the mean patch token of the last;
        of an encoder without class tokens (N, 1, C), the mean of the last map.
        """
        if self._tokens is None:
            if not hasattr(self.encoder, "tokens"):
                return self.pooled()[:, None]
            batches = self._encoded(lambda images: [self.encoder.tokens(images).float()])  # type: ignore[operator]
            (self._tokens,) = self._keep(batches)
        return self._tokens

    def _of_maps(self) -> Iterator[tuple[Tensor, ...]]:
        """The kept maps, some frames at a time."""
        return zip(*(level.split(_BATCH) for level in self._maps or ()), strict=True)

    def _keep(self, batches: Iterable[Sequence[Tensor]]) -> list[Tensor]:
        """Features in what is left of the memory, or in a file."""
        kept = collect(batches, len(self._data), self._folder, self._memory, self._on_frames)
        self._memory -= sum(part.numel() * part.element_size() for part in kept)
        return kept

    def _encoded(self, encode: Callable[[Tensor], list[Tensor]]) -> Iterator[list[Tensor]]:
        bf16 = use_bf16(self._precision, self._device)
        for images in torch.from_numpy(self._data.images).split(_BATCH):
            with torch.no_grad(), torch.autocast(self._device.type, torch.bfloat16, enabled=bf16):
                images = images.to(self._device).float().div(255)
                features = encode(images.to(memory_format=torch.channels_last))
            yield features
