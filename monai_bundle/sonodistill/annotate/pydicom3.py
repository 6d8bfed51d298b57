"""MONAI Label 0.8.5 with pydicom 3: the private module that its ``pydicom_seg`` still asks for.

pydicom 3 moved ``pydicom._storage_sopclass_uids`` to ``pydicom.uid``. ``pydicom_seg`` 0.4.1, the last one, imports it,
so ``monailabel.app`` cannot be imported (MONAILabel#1841, pydicom-seg#60). This is the one place that helps.

``monailabel.app`` is imported before the app's own ``main.py``, so the stock ``monailabel start_server`` leaves no line
of ours in between. PyTorch calls the entry points of the group ``torch.backends`` at the end of ``import torch``, and
MONAI Label imports torch before ``pydicom_seg``: ``for_monailabel`` is such an entry point. It has to be free, and must
never fail, in every other program that imports torch. With ``TORCH_DEVICE_BACKEND_AUTOLOAD=0`` it is not called.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType

_MISSING = "pydicom._storage_sopclass_uids"


def supply() -> None:
    """Put the module where ``pydicom_seg`` finds it, unless pydicom has it itself. May be called again."""
    if _MISSING in sys.modules or find_spec("pydicom") is None or find_spec(_MISSING) is not None:
        return
    from pydicom.uid import SegmentationStorage

    module = ModuleType(_MISSING, "SOP classes that pydicom 3 moved to pydicom.uid, for pydicom_seg.")
    module.SegmentationStorage = SegmentationStorage  # type: ignore[attr-defined]
    sys.modules[_MISSING] = module


def for_monailabel() -> None:
    """``supply`` in a process of MONAI Label; nothing in any other."""
    if "monailabel" in sys.modules:
        supply()
