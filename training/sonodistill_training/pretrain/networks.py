"""The networks of a self-distillation: a ViT that can be masked, and student and teacher with their heads."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from sonodistill.errors import BundleConfigError
from sonodistill.networks.encoder import GrayInput
from sonodistill_training.pretrain.heads import ProjectionHead
from sonodistill_training.pretrain.losses import Balance

_SUBSETS_ABOVE = 0.1  # DINOv2: below it, leaving out whole images saves nothing


class MaskedViT(nn.Module):
    """A timm VisionTransformer over gray images, whose patches can be hidden and whose blocks skip images.

    Args:
        name: timm's.
        model: built with ``dynamic_img_size``, without a classifier and without timm's own stochastic depth.
        mean: of the input in [0, 1], one value or three.
        std: likewise.
        drop_path: share of the images that each residual branch leaves out in training, the same for all blocks.

    Attributes:
        mask_token: (C,) what stands in the place of a hidden patch.
        patch_size: pixels.
        num_features: C.
        licence_notice: what the licence of the weights that it started from asks for.
    """

    licence_notice: str = ""

    def __init__(
        self,
        name: str,
        model: Any,
        mean: float | tuple[float, ...],
        std: float | tuple[float, ...],
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= drop_path < 1:
            raise BundleConfigError(f"drop_path is {drop_path}", remedy="give 0 to less than 1")
        self.name, self.model, self.drop_path = name, model, drop_path
        self.input = GrayInput(mean, std)
        self.channels: int = model.patch_embed.proj.in_channels
        self.patch_size: int = model.patch_embed.patch_size[0]
        self.num_features: int = model.num_features
        self.mask_token = nn.Parameter(torch.zeros(self.num_features))

    def tokens(self, images: Tensor, masks: Tensor | None = None, only: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Class tokens (B, C) and patch tokens (B, N, C) after the final norm.

        Args:
            images: (B, 1, H, W) in [0, 1], H and W multiples of the patch.
            masks: (B, N) bool, True where the mask token stands in the place of a patch; None hides none.
            only: (B, n) the patches that are computed at all, in this order (MAE); None for all N.
        """
        model = self.model
        x = model.patch_embed(self.input(images)[:, : self.channels])  # (B, h, w, C)
        if masks is not None:
            x = torch.where(masks.view(*x.shape[:3], 1), self.mask_token.to(x.dtype), x)
        x = model._pos_embed(x)
        if only is not None:
            prefix, patches = x[:, : model.num_prefix_tokens], x[:, model.num_prefix_tokens :]
            x = torch.cat([prefix, patches.gather(1, only[:, :, None].expand(-1, -1, x.shape[-1]))], dim=1)
        x = model.norm_pre(model.patch_drop(x))
        for block in model.blocks:
            x = self._branch(x, lambda some, block=block: block.ls1(block.attn(block.norm1(some))))
            x = self._branch(x, lambda some, block=block: block.ls2(block.mlp(block.norm2(some))))
        x = model.norm(x)
        return x[:, 0], x[:, model.num_prefix_tokens :]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, H, W) in [0, 1] to the patch tokens as a map (B, C, h, w)."""
        _, patches = self.tokens(images)
        height = images.shape[-2] // self.patch_size
        return patches.transpose(1, 2).unflatten(2, (height, -1))

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """The one map of :meth:`forward`: what a probe of encoders asks for."""
        return [self(images)]

    def _branch(self, x: Tensor, residual: Any) -> Tensor:
        """Stochastic depth: a residual of some of the images alone, which costs nothing for the others (DINOv2)."""
        images = len(x)
        kept = max(1, int(images * (1 - self.drop_path)))
        if not self.training or self.drop_path == 0 or kept == images:
            return x + residual(x)
        if self.drop_path > _SUBSETS_ABOVE:
            chosen = torch.randperm(images, device=x.device)[:kept]
            return torch.index_add(x, 0, chosen, residual(x[chosen]).to(x.dtype), alpha=images / kept)
        keep = torch.rand(images, 1, 1, device=x.device) >= self.drop_path
        return x + residual(x) * keep.to(x.dtype) / (1 - self.drop_path)


class StudentAndTeacher(nn.Module):
    """All that a self-distillation trains or remembers; the teacher has no gradients and stays in eval mode.

    Args:
        student: the teacher starts as a copy of it.
        head: arguments of :class:`ProjectionHead`.
        separate_head: whether patches have a head of their own (DINOv2's larger networks), or that of the class token.
        balance: of the targets, see :class:`Balance`.
        classes: whether there is a loss of class tokens (DINO).
        patches: whether there is one of masked patches (iBOT). What no loss reaches is not trained.
    """

    def __init__(
        self,
        student: MaskedViT,
        head: dict[str, Any] | None = None,
        separate_head: bool = False,
        balance: str = "sinkhorn",
        classes: bool = True,
        patches: bool = True,
    ) -> None:
        super().__init__()
        options = dict(head or {})
        self.student = student
        self.student_head = ProjectionHead(student.num_features, **options)
        self.student_patch_head = ProjectionHead(student.num_features, **options) if separate_head else None
        self.classes, self.patches = classes, patches
        self.teacher = copy.deepcopy(student)
        self.teacher_head = copy.deepcopy(self.student_head)
        self.teacher_patch_head = copy.deepcopy(self.student_patch_head)
        prototypes = self.student_head.prototypes.out_features
        self.balance, self.patch_balance = Balance(prototypes, balance), Balance(prototypes, balance)
        for frozen in (self.teacher, self.teacher_head, self.teacher_patch_head):
            if frozen is not None:
                frozen.requires_grad_(False)
        if not patches:
            student.mask_token.requires_grad_(False)
        for unused, used in ((self.student_head, classes or not separate_head), (self.student_patch_head, patches)):
            if unused is not None and not used:
                unused.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> StudentAndTeacher:
        """The student alone: drop path would make the targets noisy."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(
        self, whole: Tensor, local: Tensor | None, masks: Tensor | None, masked: Tensor, units: bool = False
    ) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor | None]:
        """The student's side.

        Args:
            whole: (G, B, 1, H, W) global views.
            local: (L, B, 1, h, w) local views, or None.
            masks: (G * B, N) bool, or None.
            masked: (M,) where the hidden patches are among the G * B * N.
            units: give the hidden patches' unit vectors, of which :attr:`patch_heads` take cosines later.

        Returns:
            Logits of the global views (G, B, K), of the local ones (L, B, K) and class tokens (G, B, C); logits of the
            hidden patches (M, K). What no loss needs is None.
        """
        shape = whole.shape[:2]
        classes, patches = self.student.tokens(whole.flatten(0, 1), masks)
        logits = self.student_head(classes).unflatten(0, shape) if self.classes else None
        few = None
        if local is not None and self.classes:
            few = self.student_head(self.student.tokens(local.flatten(0, 1))[0]).unflatten(0, local.shape[:2])
        hidden = None
        if self.patches:
            head, _ = self.patch_heads
            hidden = (head.units if units else head)(patches.flatten(0, 1)[masked])
        return logits, few, classes.unflatten(0, shape), hidden

    @property
    def patch_heads(self) -> tuple[ProjectionHead, ProjectionHead]:
        """The student's and the teacher's head of patches."""
        return self.student_patch_head or self.student_head, self.teacher_patch_head or self.teacher_head

    @torch.no_grad()
    def teach(self, whole: Tensor, masked: Tensor, units: bool = False) -> tuple[Tensor, Tensor | None]:
        """The teacher's logits of the whole views (G, B, K) and of the patches that the student does not see (M, K)."""
        classes, patches = self.teacher.tokens(whole.flatten(0, 1))
        _, head = self.patch_heads
        hidden = (head.units if units else head)(patches.flatten(0, 1)[masked]) if self.patches else None
        return self.teacher_head(classes).unflatten(0, whole.shape[:2]), hidden

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """The teacher keeps ``momentum`` of itself and takes the rest from the student (DINO, Eq. after Eq. 3)."""
        for teacher, student in (
            (self.teacher, self.student),
            (self.teacher_head, self.student_head),
            (self.teacher_patch_head, self.student_patch_head),
        ):
            if teacher is not None and student is not None:
                torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - momentum)
