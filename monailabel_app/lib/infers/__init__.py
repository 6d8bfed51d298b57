"""Inference tasks: the models of the workbench as MONAI Label asks for them."""

from lib.infers.classification import Classification
from lib.infers.embedding import Embedding
from lib.infers.interactive import Interactive
from lib.infers.segmentation import Segmentation

__all__ = ["Classification", "Embedding", "Interactive", "Segmentation"]
