"""An exported model.ts in the loaders that others wrote: torch's, MONAI's, MONAI Label's and MONAI Deploy's.

What a package does to load a model is repeated here; the package itself is installed and asked in the slow tests.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor, load_net_with_metadata
from monai.transforms import SaveImaged

from sonodistill.bundle import package_bundle
from sonodistill.frames import Frame, read
from sonodistill.inference.exported import FILE, from_text
from sonodistill.inference.predictor import Predictor
from sonodistill_training.export.export import Exported, Source

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def exported(torchscript: Exported) -> Exported:
    return torchscript


@pytest.fixture(scope="module")
def bundle(exported: Exported, source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle's configs beside the exported model, as a site would hand it to MONAI Label."""
    folder = tmp_path_factory.mktemp("site") / "breast_segmentation"
    shutil.copytree(package_bundle() / "configs", folder / "configs")
    config = folder / "configs" / "inference.yaml"
    text, lines = re.subn("(?m)^input_size: .*$", f"input_size: {list(source.size)}", config.read_text())
    assert lines == 1
    config.write_text(text)
    (folder / "models").mkdir()
    shutil.copyfile(exported.path, folder / "models" / "model.ts")
    return folder


@pytest.fixture(scope="module")
def frame(cine: Path) -> Frame:
    return next(read(cine, only={5}))


@pytest.fixture(scope="module")
def mask(exported: Exported, frame: Frame) -> np.ndarray:
    """(H, W) bool: our own answer."""
    return Predictor(exported.path, runtime="torch").predict_one(frame).masks[0]


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


def test_torch_and_monai_load_the_network_and_its_metadata(exported: Exported, source: Source) -> None:
    images = torch.from_numpy(np.stack(source.frames.check[:3]))
    with torch.no_grad():
        wanted = source.network(images)
        plain = torch.jit.load(exported.path)(images)
        network, metadata, files = load_net_with_metadata(str(exported.path), more_extra_files=(FILE,))
        torch.testing.assert_close(network(images), wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))
        torch.testing.assert_close(plain, network(images))
    assert from_text(files[FILE] if isinstance(files[FILE], str) else files[FILE].decode()) == exported.info
    image, pred = metadata["network_data_format"]["inputs"]["image"], metadata["network_data_format"]["outputs"]["pred"]
    assert (image["num_channels"], image["spatial_shape"]) == (1, list(source.size))
    assert pred["channel_def"] == {"0": "background", "1": source.info.labels[0]}


def test_monai_label_runs_the_bundle_with_it(bundle: Path, cine: Path, frame: Frame, mask: np.ndarray) -> None:
    # monailabel 0.8.5, tasks/infer/bundle.py (BundleInferTask) and tasks/infer/basic_infer.py (_get_network)
    assert not (bundle / "models" / "model.pt").exists()  # it would be taken in place of model.ts
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.yaml"))
    parser.config.update({"bundle_root": str(bundle), "device": "cpu", "use_click": False})
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())["network_data_format"]
    key_image, key_pred = next(iter(metadata["inputs"])), next(iter(metadata["outputs"]))
    network = torch.jit.load(str(bundle / "models" / "model.ts"), map_location=torch.device("cpu")).eval()

    data = {"image": str(cine), "image_path": str(cine), "frame": frame.index}
    for transform in parser.get_parsed_content("preprocessing", instantiate=True).transforms:
        data = transform(data)
    with torch.no_grad():
        data[key_pred] = parser.get_parsed_content("inferer", instantiate=True)(data[key_image][None], network)[0]
    parser.config.update({"output_dir": str(bundle / "masks")})
    for transform in parser.get_parsed_content("postprocessing", instantiate=True).transforms:
        if not isinstance(transform, SaveImaged) and type(transform).__name__ != "SaveMaskd":
            data = transform(data)
    assert data[key_pred].shape == (1, *frame.image.shape)
    np.testing.assert_array_equal(data[key_pred][0].numpy() > 0, mask)


def test_monai_deploy_finds_its_configs_in_the_archive(exported: Exported) -> None:
    # monai-deploy-app-sdk 4.0.0, core/models/torch_model.py (accept) and operators/monai_bundle_inference_operator.py
    # (get_bundle_config): the folder in the archive has to be named like the file, or inference.json stays unread.
    root = exported.path.stem
    with zipfile.ZipFile(exported.path) as archive:
        names = set(archive.namelist())
    assert {f"{root}/data.pkl", f"{root}/extra/metadata.json", f"{root}/extra/inference.json"} <= names
    assert any(name.startswith(f"{root}/code/") for name in names)
    assert any(name.startswith((f"{root}/constants/", f"{root}/constants.pkl")) for name in names)


def test_monai_deploy_segments_a_frame_with_what_it_finds_there(
    exported: Exported, frame: Frame, mask: np.ndarray, tmp_path: Path
) -> None:
    # monai-deploy-app-sdk 4.0.0, operators/monai_bundle_inference_operator.py (_init_config, compute, _send_output)
    parser, root = ConfigParser(), exported.path.stem
    with zipfile.ZipFile(exported.path) as archive:
        parser.read_meta(f=json.loads(archive.read(f"{root}/extra/metadata.json")))
        parser.read_config([archive.extract(f"{root}/extra/inference.json", tmp_path)])
    parser.parse()
    parser["device"] = "cpu"
    before, after = (parser.get_parsed_content(name) for name in ("preprocessing", "postprocessing"))
    network = torch.jit.load(exported.path, map_location="cpu").eval()

    volume = np.swapaxes(frame.image[None].astype(np.int16), 0, 2)  # (D, H, W) of a DICOM series to (W, H, D)
    inputs = {"image": MetaTensor(torch.from_numpy(volume.copy()), meta={"original_channel_dim": "no_channel"})}
    with torch.no_grad():
        inputs = before(inputs)
        output = parser.get_parsed_content("inferer")(inputs=inputs["image"][None], network=network)
        found = after({"pred": output[0], **inputs})["pred"]
    found = np.squeeze(np.asarray(found), 0).astype(np.uint8)
    assert found.shape == frame.image.shape
    assert set(np.unique(found)) == {0, 1}
    assert dice(found > 0, mask) > 0.999

    with pytest.raises(RuntimeError):  # rather than the first slice of a volume
        before({"image": MetaTensor(torch.zeros(320, 240, 2))})


@pytest.mark.slow
def test_real_monai_deploy_segments_a_frame(exported: Exported, frame: Frame, mask: np.ndarray, tmp_path: Path) -> None:
    import monai

    python = environment(tmp_path, "monai-deploy-app-sdk==4.0.0")
    # monai.deploy is a folder inside of monai's, so both have to lie in one place
    install(python, "--no-deps", "--ignore-installed", f"monai=={monai.__version__}")
    np.save(tmp_path / "image.npy", frame.image)
    ask(python, "deploy_loader.py", exported.path, tmp_path / "image.npy", tmp_path / "mask.npy")
    found = np.load(tmp_path / "mask.npy")
    assert found.shape == frame.image.shape
    assert dice(found > 0, mask) > 0.999


@pytest.mark.slow
def test_real_monai_label_segments_a_frame(bundle: Path, cine: Path, mask: np.ndarray, tmp_path: Path) -> None:
    python = environment(tmp_path, "monailabel==0.8.5", "numpy<2", "setuptools<81")
    ask(python, "label_loader.py", bundle, cine, 5, tmp_path / "mask.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "mask.npy") > 0, mask)


def environment(folder: Path, *packages: str) -> Path:
    """The Python of an own environment that sees this one's packages behind those that are installed into it."""
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True, timeout=120)
    python = folder / "venv" / "bin" / "python"
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    paths = [path for path in sys.path if path.endswith("site-packages")]
    lines = [f"import site; site.addsitedir({path!r})" for path in paths]
    (site / "zz_tests.pth").write_text("\n".join(lines) + "\n")
    install(python, *packages)
    return python


def install(python: Path, *arguments: str) -> None:
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *arguments], capture_output=True, text=True, timeout=900
    )
    if done.returncode:
        pytest.skip(f"cannot be installed here: {done.stderr.strip().splitlines()[-1][:200]}")


def ask(python: Path, script: str, *arguments: object) -> None:
    command = [str(python), str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
