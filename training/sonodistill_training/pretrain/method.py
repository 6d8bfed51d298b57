"""Self-distillation step of DINOv2 (paper B): student views and masked patches after the EMA teacher's whole views."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sonodistill.errors import BundleConfigError
from sonodistill_training.kernels.transformer import quicken
from sonodistill_training.pretrain.build import seeded, write_teacher
from sonodistill_training.pretrain.crops import MultiCrop, make_views, multi_crop
from sonodistill_training.pretrain.losses import dino_loss, ibot_loss, koleo_loss, prototype_health
from sonodistill_training.pretrain.networks import MaskedViT, StudentAndTeacher
from sonodistill_training.pretrain.patch_loss import AT_ONCE, loss_in_pieces
from sonodistill_training.pretrain.schedules import Schedules


@dataclass(frozen=True, slots=True)
class LossWeights:
    """What is minimised; 0 leaves a loss out, and with it what it alone would train.

    Attributes:
        dino: of class tokens. DINO alone: ``ibot=0, koleo=0``.
        ibot: of masked patches. iBOT as published: ``dino=1, ibot=1, koleo=0``; patches alone: ``dino=0, koleo=0``.
        koleo: of the spread of class tokens.

    Raises:
        BundleConfigError: a negative weight, or neither DINO nor iBOT.
    """

    dino: float = 1.0
    ibot: float = 1.0
    koleo: float = 0.1

    def __post_init__(self) -> None:
        if min(self.dino, self.ibot, self.koleo) < 0 or self.dino + self.ibot == 0:
            raise BundleConfigError(f"{self} leaves nothing to learn", remedy="DINOv2's weights are 1, 1 and 0.1")


class SelfDistillation:
    """The method the training loop runs.

    Args:
        student: any ViT of :func:`~sonodistill_training.pretrain.build.make_vit`.
        crops: those that the data set draws.
        weights: of the losses.
        schedules: of all that changes with the step, but the learning rate.
        prototypes: K. DINOv2's heads are ``hidden`` 2048 and ``bottleneck`` 256 wide.
        separate_head: patches have a head of their own.
        balance: of the targets: "sinkhorn", "centering" or "none".
        seed: of the heads' first weights.
        corpus_sha256: of the frames, written into the product.
        licence_notice: for the product's header, before that of the corpus; by default that of the weights that it
            started from.
    """

    product = "teacher.safetensors"

    def __init__(
        self,
        student: MaskedViT,
        crops: MultiCrop | None = None,
        weights: LossWeights | None = None,
        schedules: Schedules | None = None,
        prototypes: int = 65536,
        hidden: int = 2048,
        bottleneck: int = 256,
        separate_head: bool = False,
        balance: str = "sinkhorn",
        seed: int = 0,
        corpus_sha256: str = "",
        licence_notice: str = "",
    ) -> None:
        self.crops, self.weights = crops or multi_crop(), weights or LossWeights()
        self.schedules = schedules or Schedules()
        if len(self.crops.whole) < 2:
            raise BundleConfigError("self-distillation compares global views", remedy="give two or more of them")
        head = {"prototypes": prototypes, "hidden": hidden, "bottleneck": bottleneck}
        with seeded(seed + 1):
            self.network = StudentAndTeacher(
                student, head, separate_head, balance, classes=self.weights.dino > 0, patches=self.weights.ibot > 0
            )
        self._head = head | {"separate_head": separate_head, "balance": balance}
        self.corpus_sha256, self.licence_notice = corpus_sha256, licence_notice or student.licence_notice
        self._temperature, self._momentum = self.schedules.teacher_temperature[0], self.schedules.momentum[0]

    def prepare(self, device: torch.device, bf16: bool) -> None:
        """Move the networks; the teacher is one of them."""
        self.network.to(device)
        if bf16 and device.type == "cpu":
            quicken(self.network)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """For the optimiser, each with what :meth:`schedule` multiplies its learning rate and weight decay by."""
        return self.schedules.groups(self.network, len(self.network.student.model.blocks), weight_decay)

    def schedule(
        self,
        groups: Iterable[dict[str, Any]],
        rate: float,
        weight_decay: float,
        step: int,
        total: int,
        epoch_steps: float,
    ) -> dict[str, float]:
        """What this step computes with; a pure function of it. See :meth:`Schedules.apply`."""
        values = self.schedules.apply(groups, rate, weight_decay, step, total, epoch_steps)
        self._temperature, self._momentum = values["teacher_temperature"], values["teacher_momentum"]
        return values

    def step(self, network: nn.Module, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:  # noqa: ARG002
        """Losses of a batch of :class:`~sonodistill_training.pretrain.crops.MultiCropFrames`.

        Returns:
            ``loss``, its terms ``dino``, ``ibot`` and ``koleo`` before their weights, and :func:`prototype_health`.
        """
        whole, local = make_views(batch, self.crops)
        return self.losses(network, whole, local if self.weights.dino else None, batch)

    def losses(
        self, network: nn.Module, whole: Tensor, local: Tensor | None, batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Losses of views that are made: (G, B, 1, S, S) and (L, B, 1, s, s), with the masks of the batch."""
        own, weights, warm = self.network, self.weights, self.schedules.student_temperature
        masks = batch["masks"].flatten(0, 1) if weights.ibot else None
        pieces = self._in_pieces(whole)
        raw, raw_patches = own.teach(whole, batch["masked"], pieces)
        logits, few, classes, hidden = network(whole, local, masks, batch["masked"], pieces)
        terms: dict[str, Tensor] = {}
        if logits is not None:
            targets = own.balance(raw.flatten(0, 1), self._temperature).unflatten(0, raw.shape[:2])
            terms["dino"] = dino_loss(few, logits, targets, warm)
        images = raw.shape[0] * raw.shape[1]
        if hidden is not None and raw_patches is not None and pieces:
            student, teacher = own.patch_heads
            sides = (hidden, student.cosines, raw_patches, teacher.cosines)
            scale = (batch["mask_weight"], images, self._temperature, warm)
            terms["ibot"] = loss_in_pieces(*sides, own.patch_balance, *scale)
        elif hidden is not None and raw_patches is not None:
            targets = own.patch_balance(raw_patches, self._temperature)
            terms["ibot"] = ibot_loss(hidden, targets, batch["mask_weight"], images, warm)
        if weights.koleo:
            terms["koleo"] = torch.stack([koleo_loss(view) for view in classes]).sum()
        loss = torch.stack([getattr(weights, name) * value for name, value in terms.items()]).sum()
        return {"loss": loss} | terms | prototype_health(raw.flatten(0, 1), self._temperature)

    def _in_pieces(self, whole: Tensor) -> bool:
        """Whether as many patches as these views can hide are too many to have all their logits at once."""
        images, side = whole.shape[0] * whole.shape[1], self.network.student.patch_size
        return images * (whole[0, 0, 0].numel() // side**2) * self._head["prototypes"] > 4 * AT_ONCE

    def after_step(self) -> None:
        """The teacher follows the student."""
        self.network.follow(self._momentum)

    @staticmethod
    def encoder(network: nn.Module) -> nn.Module:
        """The teacher of ``network`` (or of a copy of it), which is the product."""
        return network.teacher  # type: ignore[return-value]

    def identity(self) -> dict[str, Any]:
        """What makes it this pretraining and no other."""
        student = self.network.student
        return {
            "method": "self-distillation",
            "student": student.name,
            "channels": student.channels,
            "registers": student.model.num_reg_tokens,
            "drop_path": student.drop_path,
            "head": self._head,
            "losses": repr(self.weights),
            "schedules": repr(self.schedules),
            "corpus_sha256": self.corpus_sha256,
        }

    def export(self, path: Path, network: nn.Module | None = None, record: Mapping[str, Any] | None = None) -> None:
        """Write the teacher's ViT alone, no head, as a file that ``sonodistill distill --teacher`` takes.

        Args:
            record: further fields of the header: recipe, metrics, licences of the corpus, version of the code.
        """
        vit: Any = self.encoder(network or self.network)
        write_teacher(path, vit, self.crops.size, self.corpus_sha256, self.licence_notice, record)
