"""The teachers users name: each builds with the width, grid, normalisation and licence notice that are documented."""

from __future__ import annotations

import pytest
import torch

from sonodistill_training.distill.teacher import load_teacher

WIDTHS = {"small": 384, "base": 768, "large": 1024}
CASES = [
    *((f"vit_{size}_patch16_dinov3.lvd1689m", 2 * width, 16) for size, width in WIDTHS.items()),
    *((f"vit_{size}_patch14_dinov2.lvd142m", 2 * width, 14) for size, width in WIDTHS.items()),
    *((f"vit_{size}_patch14_reg4_dinov2.lvd142m", 2 * width, 14) for size, width in WIDTHS.items()),
    ("convnext_tiny.dinov3_lvd1689m", 384 + 768, 32),
    ("convnext_small.dinov3_lvd1689m", 384 + 768, 32),
    ("convnext_base.dinov3_lvd1689m", 512 + 1024, 32),
]


@pytest.mark.parametrize(("name", "dim", "patch"), CASES, ids=[case[0] for case in CASES])
def test_a_named_teacher_has_its_documented_target(name: str, dim: int, patch: int) -> None:
    with torch.device("meta"):  # shapes without memory: ViT-L has 300 M parameters
        teacher = load_teacher(name, random=True, input_size=224)
        target = teacher(torch.rand(1, 1, 224, 224))
    assert (teacher.dim, teacher.patch_size, teacher.input_multiple) == (dim, patch, patch)
    assert target.shape == (1, dim, 224 // patch, 224 // patch)
    assert teacher.input.normalisation == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert teacher.licence_notice.startswith("Built with DINOv3." if "dinov3" in name else "Distilled from DINOv2")
