"""Run by the annotation environment: MONAI Label's own server, with an app of two models that need no weights.

    python stock_main.py FOLDER

It prints a line of JSON with its address when it answers, and ends with its input.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
APP = '''
import tempfile

import SimpleITK as sitk
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType


class Bright(InferTask):
    """What is above a gray value; of a click, the connected part that it is in."""

    def __init__(self, type):
        super().__init__(type=type, labels={"bright": 1}, dimension=3, description="threshold")

    def is_valid(self):
        return True

    def __call__(self, request):
        image = sitk.ReadImage(request["image"])
        mask = sitk.BinaryThreshold(image, 141, 255)
        if self.type == InferType.DEEPGROW:
            parts = sitk.ConnectedComponent(mask)
            chosen = [parts[tuple(point)] for point in request["foreground"]]
            mask = sum((parts == one for one in chosen if one), parts == -1)
        path = tempfile.NamedTemporaryFile(suffix=request.get("result_extension", ".nrrd"), delete=False).name
        sitk.WriteImage(sitk.Cast(mask, sitk.sitkUInt16), path, useCompression=True)
        return path, {"label_names": self.labels}


class MyApp(MONAILabelApp):
    def __init__(self, app_dir, studies, conf):
        super().__init__(app_dir, studies, conf, name="Threshold", description="", version="1")

    def init_infers(self):
        return {"bright": Bright(InferType.SEGMENTATION), "click": Bright(InferType.DEEPGROW)}

    def init_trainers(self):
        return {}

    def init_strategies(self):
        return {}
'''


def main() -> None:
    sys.path.insert(0, str(TESTS / "label"))
    from app_case import serve

    folder = Path(sys.argv[1])
    for name in ("app", "studies"):
        (folder / name).mkdir()
    (folder / "app" / "main.py").write_text(APP)
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(folder / "app")]
    command += ["--studies", str(folder / "studies"), "--host", "127.0.0.1", "--port", "{port}"]
    with serve(folder / "studies", work=folder / "work", command=command) as server:
        sys.stdout.write(json.dumps({"url": server.url, "studies": str(folder / "studies")}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
