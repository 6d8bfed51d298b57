"""Run by test_stock_loaders.py where MONAI Label is installed: BUNDLE IMAGE FRAME MASK.npy."""

import sys
import types

import numpy as np
import pydicom.uid

# pydicom_seg 0.4.1, which MONAI Label 0.8.5 imports, asks pydicom 3 for a module that is no more
moved = types.ModuleType("pydicom._storage_sopclass_uids")
moved.SegmentationStorage = pydicom.uid.SegmentationStorage
sys.modules[moved.__name__] = moved

from monailabel.tasks.infer.bundle import BundleInferTask  # noqa: E402

from sonodistill.transforms.dictionary import SaveMaskd  # noqa: E402

bundle, image, frame, mask = sys.argv[1:]
task = BundleInferTask(bundle, {"preload": "false"}, post_filter=[SaveMaskd])
assert task.is_valid() and task.network is None
request = {"image": image, "frame": int(frame), "device": "cpu", "result_write_to_file": False}
result = {}
task.writer = lambda data, **_: (result.update(data), {})
task(request)
np.save(mask, result["pred"][0].numpy())
