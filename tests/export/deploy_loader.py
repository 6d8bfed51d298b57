"""Run by test_stock_loaders.py where MONAI Deploy App SDK is installed: MODEL IMAGE.npy MASK.npy."""

import sys

import numpy as np
from monai.deploy.core import AppContext, Fragment, Image, IOType
from monai.deploy.operators.monai_bundle_inference_operator import IOMapping, MonaiBundleInferenceOperator

model, image, mask = sys.argv[1:]
found = {}


class Ports:
    """What the scheduler gives to an operator."""

    def receive(self, name):
        assert name == "image"
        spacing = dict.fromkeys(("row_pixel_spacing", "col_pixel_spacing", "depth_pixel_spacing"), 1.0)
        return Image(np.load(image)[None].astype(np.int16), {**spacing, "nifti_affine_transform": np.eye(4)})

    def get(self, name):
        raise KeyError(name)

    def emit(self, value, name):
        found[name] = value


operator = MonaiBundleInferenceOperator(
    Fragment(),
    name="bundle",
    app_context=AppContext({"model": model, "input": ".", "output": "."}),
    input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
    output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
)
operator.compute(Ports(), Ports(), None)
np.save(mask, found["pred"].asnumpy())
