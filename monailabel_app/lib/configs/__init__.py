"""The models of the app, each a thin ``TaskConfig``; clients show them in this order."""

from monailabel.interfaces.config import TaskConfig

from lib.configs.classification import Classification
from lib.configs.embedding import Embedding
from lib.configs.interactive import Interactive
from lib.configs.segmentation import Segmentation

CONFIGS: dict[str, type[TaskConfig]] = {
    "segmentation": Segmentation,
    "interactive": Interactive,
    "classification": Classification,
    "embedding": Embedding,
}

__all__ = ["CONFIGS", "Classification", "Embedding", "Interactive", "Segmentation"]
