"""USFM's checkpoint gives the features of its BEiT, whose blocks share one table of relative positions."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from sonodistill.errors import WeightsError
from sonodistill_training.evaluate.encoders.load import load_encoder
from sonodistill_training.evaluate.encoders.usfm import usfm_state

SIDE = 224  # the grid of the published table
MEAN, STD = ((torch.tensor(v).view(1, 3, 1, 1)) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
PATH = Path("USFM_latest.pth")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(
        "beit_base_patch16_224",
        num_classes=0,
        global_pool="token",
        use_shared_rel_pos_bias=True,
        use_rel_pos_bias=False,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            # What half precision holds, so that the file can be half as large.
            parameter.copy_((parameter + torch.randn_like(parameter) * 0.05).half())
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(network: nn.Module, tmp_path_factory: pytest.TempPathFactory):
    # USFM_latest.pth: flat; what is BEiT's own is named as in BEiT, with what only the pre-training uses
    names = {f"blocks.{i}.{key}" for i in range(12) for key in ("gamma_1", "gamma_2", "attn.q_bias", "attn.v_bias")}
    state = {key: value.half() for key, value in network.state_dict().items()}
    assert names | {"rel_pos_bias.relative_position_bias_table", "norm.weight"} <= state.keys()
    assert "pos_embed" not in state
    state |= {
        "mask_token": torch.zeros(1, 1, 768),
        "rel_pos_bias.relative_position_index": torch.zeros(197, 197).long(),
    }
    path = tmp_path_factory.mktemp("usfm") / "USFM_latest.pth"
    torch.save(state, path)
    yield path
    path.unlink()


def test_usfm_as_published(checkpoint: Path, network: nn.Module) -> None:
    x = torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    kept = []
    handles = [network.blocks[i].register_forward_hook(lambda _m, _i, out: kept.append(out)) for i in (3, 5, 7, 11)]
    encoder = load_encoder(f"USFM={checkpoint}", input_size=SIDE).eval()
    with torch.no_grad():
        network.forward_features((x - MEAN) / STD)
        expected = [network.norm(t)[:, 1:].transpose(1, 2).reshape(1, 768, 14, 14) for t in kept]
        maps = encoder.pyramid(x)
    for handle in handles:
        handle.remove()
    assert all(m.std() > 0.1 for m in expected)
    torch.testing.assert_close(maps, expected, atol=2e-4, rtol=2e-4)
    # One table a block, as USFM's own fine-tuning has it.
    assert sum("relative_position_bias_table" in name for name, _ in encoder.named_parameters()) == 12


def test_the_table_is_resampled_to_another_input_size_which_is_then_the_only_one(checkpoint: Path) -> None:
    encoder = load_encoder(f"USFM={checkpoint}", input_size=64)
    encoder(torch.rand(1, 1, 64, 64)).mean().backward()
    tables = {p.shape for name, p in encoder.named_parameters() if "bias_table" in name}
    assert tables == {(7 * 7 + 3, 12)}
    with pytest.raises(ValueError, match="built for 64 pixels"):
        encoder(torch.rand(1, 1, 96, 96))


def tiny(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"cls_token": torch.zeros(1), "blocks.0.gamma_1": torch.zeros(1), "blocks.1.gamma_1": torch.zeros(1), **more}


def test_tables_of_the_blocks_own_are_kept() -> None:
    own = {f"blocks.{i}.attn.relative_position_bias_table": torch.full((1,), float(i)) for i in range(2)}
    state = usfm_state(tiny(**own), PATH)
    assert {key: state[key] for key in own} == own


def test_copies_of_the_shared_table_can_be_trained_apart() -> None:
    state = usfm_state(tiny(**{"rel_pos_bias.relative_position_bias_table": torch.ones(3)}), PATH)
    first, second = (state[f"blocks.{i}.attn.relative_position_bias_table"] for i in range(2))
    assert torch.equal(first, second) and first.data_ptr() != second.data_ptr()
    assert "rel_pos_bias.relative_position_bias_table" not in state


def test_the_norm_of_a_classifier_with_mean_pooling_is_the_final_norm() -> None:
    shared = {"rel_pos_bias.relative_position_bias_table": torch.ones(3)}
    norm = {"fc_norm.weight": torch.ones(2), "fc_norm.bias": torch.zeros(2), "head.weight": torch.zeros(2, 2)}
    state = usfm_state(tiny(**shared, **norm), PATH)
    assert {"norm.weight", "norm.bias"} <= state.keys() and not {"fc_norm.weight", "head.weight"} & state.keys()


def test_a_vit_without_relative_positions_is_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), tmp_path / "vit.pth")
    with pytest.raises(WeightsError, match="for USFM ViT-B/16: holds no relative_position_bias_table") as caught:
        load_encoder(f"USFM={tmp_path / 'vit.pth'}", input_size=64)
    assert "openmedlab/USFM" in caught.value.remedy
