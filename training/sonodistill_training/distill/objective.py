"""Token alignment between student and teacher (paper A, Eq. 6)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def token_mse(student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    """Mean squared error between (B, D, h, w) token maps, in float32.

    Returns:
        ``loss``: the mean over batch, tokens and channels, which is minimised.
        ``eq6``: the paper's Eq. 6, the squared distance summed over channels: exactly ``D`` times ``loss``.
        ``target_variance``: mean variance of the teacher's channels, what ``loss`` would be for a constant student.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"student tokens {tuple(student.shape)} and teacher tokens {tuple(teacher.shape)} differ")
    target = teacher.float()
    loss = functional.mse_loss(student.float(), target)
    return {
        "loss": loss,
        "eq6": loss.detach() * student.shape[1],
        "target_variance": target.var(dim=(0, 2, 3)).mean(),
    }
