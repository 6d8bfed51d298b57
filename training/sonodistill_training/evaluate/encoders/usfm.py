"""USFM's checkpoint, a BEiT of masked image modelling, in timm's naming."""

from __future__ import annotations

from pathlib import Path

from sonodistill.errors import WeightsError
from sonodistill.weights import StateDict

_SHARED = "rel_pos_bias.relative_position_bias_table"
_OWN = "blocks.{}.attn.relative_position_bias_table"
# Of the pre-training (BEiT's too), or computed from the size of the grid.
_LEFT_OUT = ("mask_token", "lm_head.", "head.", "decoder.")
_INDEX = "relative_position_index"


def usfm_state(state: StateDict, path: Path) -> StateDict:
    """The tensors of the encoder, with one table of relative positions for each block.

    ``USFM_latest.pth`` is a flat state dict: "cls_token", "mask_token", "patch_embed.proj.*", "norm.*", in each block
    "attn.qkv.weight", "attn.q_bias", "attn.v_bias", "gamma_1", "gamma_2" (timm has the same names), no "pos_embed", and
    one "rel_pos_bias.relative_position_bias_table" that all blocks share. USFM's own fine-tuning gives each block a
    copy of it to train, and so does this. A classifier fine-tuned with mean pooling has its final norm as "fc_norm".

    Args:
        path: named in errors.

    Raises:
        WeightsError: there is no table of relative positions: the file is no BEiT.
    """
    kept = {key: value for key, value in state.items() if not key.startswith(_LEFT_OUT) and not key.endswith(_INDEX)}
    depth = len({key.split(".")[1] for key in kept if key.startswith("blocks.")})
    if (table := kept.pop(_SHARED, None)) is not None:
        for i in range(depth):
            kept.setdefault(_OWN.format(i), table.clone())
    if _OWN.format(0) not in kept:
        raise WeightsError(
            f"holds no relative_position_bias_table, which every BEiT has; it starts with {', '.join(list(state)[:3])}",
            path=path,
        )
    if "norm.weight" not in kept:
        kept = {key.replace("fc_norm.", "norm.") if key.startswith("fc_norm.") else key: kept[key] for key in kept}
    return kept
