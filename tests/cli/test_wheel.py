"""A wheel has what a checkout has: the bundle with its configs and models, and the MONAI Label app."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from sonodistill import home

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
OUTSIDE = ("monai_bundle/sonodistill/", "monailabel_app/model/")  # a package; what the app writes


def test_every_file_outside_the_packages_is_named_for_the_wheel():
    listed = subprocess.run(
        ["git", "ls-files", "monai_bundle", "monailabel_app"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("no checkout of git")
    wanted = {name for name in listed.stdout.split() if not name.startswith(OUTSIDE) and ".gitignore" not in name}
    assert len(wanted) > 100
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    named = {}
    for folder, patterns in data.items():
        for pattern in patterns:
            found = [path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern) if path.is_file()]
            assert found, pattern
            named |= {name: f"{folder}/{Path(name).name}" for name in found}
    assert {name for name in wanted if name not in named} == set()
    assert all(named[name] == f"share/sonodistill/{name}" for name in wanted)


def test_a_checkout_is_its_own_bundle():
    assert home.bundle() == ROOT / "monai_bundle" and home.label_app() == ROOT / "monailabel_app"


@pytest.mark.slow
def test_a_wheel_by_itself_has_configs_models_and_the_app(tmp_path, monkeypatch):
    source = tmp_path / "source"  # setuptools leaves what it built beside its sources
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", ROOT.as_uri(), str(source)], check=True)
    made = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    if subprocess.run(made, check=False, capture_output=True).returncode:
        pytest.skip("no wheel can be built: setuptools comes from the package index")
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    # Everything else that is installed here, without this checkout, which only a .pth file leads to.
    packages = [next((tmp_path / "venv").glob("lib/*/site-packages")), sysconfig.get_path("purelib")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, packages)))
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run([*install, "--force-reinstall"], check=True)
    code = (
        "from sonodistill import home, models; from sonodistill.bundle import package_bundle; "
        "import sys; sys.stdout.write('\\n'.join(map(str, [home.__file__, package_bundle(), home.label_app(), "
        "models.resolve('resnet18-us')])))"
    )
    said = subprocess.run([str(python), "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    places = [Path(line) for line in said.stdout.split("\n")]
    assert all(place.is_relative_to(tmp_path / "venv") and place.exists() for place in places), places
    assert (places[1] / "configs" / "recipes" / "local.yaml").is_file() and (places[2] / "main.py").is_file()
    sample = places[1] / "sample_data" / "images"
    predict = [str(python.with_name("sonodistill")), "predict", "breast-lesion.int8.onnx", str(sample), "--out"]
    subprocess.run([*predict, str(tmp_path / "masks")], cwd=tmp_path, check=True, capture_output=True)
    assert len(list((tmp_path / "masks").rglob("*.png"))) == len(list(sample.iterdir()))
