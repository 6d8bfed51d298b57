"""`sonodistill label` where no server is started: its help, and everything that it refuses beforehand."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from certificates import Authority
from PIL import Image

from sonodistill.annotate import pydicom3
from sonodistill.annotate.labels.store import LabelStore
from sonodistill.annotate.model import Status
from sonodistill.annotate.server import serve
from sonodistill.annotate.server import settings as serving
from sonodistill.annotate.server.offline import default_work
from sonodistill.annotate.server.tokens import Tokens
from sonodistill.cli import build
from sonodistill.errors import SonoDistillError

TOKEN = "0123456789abcdef"


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    folder = tmp_path / "studies"
    folder.mkdir()
    Image.fromarray(np.full((30, 40), 80, np.uint8)).save(folder / "one.png")
    return folder


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return written(tmp_path, f"anna:{TOKEN}\n")


def written(folder: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path = folder / "tokens"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


@pytest.fixture
def installed(monkeypatch):
    """As if MONAI Label were there: what is checked before it is imported needs none of it."""
    monkeypatch.setattr(serving, "find_spec", lambda name: SimpleNamespace(name=name))


def run(*arguments: object) -> int:
    command = typer.main.get_command(build())
    try:
        return int(command.main([str(one) for one in arguments], standalone_mode=False) or 0)
    except typer.Exit as stop:
        return int(stop.exit_code)


def refusal(*arguments: object) -> str:
    with pytest.raises(SonoDistillError) as caught:
        run("label", *arguments)
    return str(caught.value)


# The command


def test_help_imports_nothing_heavy():
    code = "import sys; import sonodistill.annotate.commands; sys.exit(any(m in sys.modules for m in sys.argv[1:]))"
    heavy = ["torch", "monai", "monailabel", "pydicom", "cv2", "uvicorn", "fastapi"]
    assert subprocess.run([sys.executable, "-c", code, *heavy], timeout=60).returncode == 0


def test_help_has_an_example_and_the_sub_commands(capsys):
    run("label", "--help")
    shown = capsys.readouterr().out
    assert "sonodistill label --studies" in shown
    assert all(name in shown for name in ("export", "import", "agreement", "--tls-cert", "--tokens"))


def test_without_studies_it_says_what_to_give():
    assert "--studies" in refusal()


@pytest.mark.skipif(find_spec("monailabel") is not None, reason="MONAI Label is installed here")
def test_without_monai_label_it_says_how_to_install_it(studies):
    assert "sonodistill[label]" in refusal("--studies", studies)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "label.example", ""])
def test_another_host_is_refused_without_tokens_and_tls(installed, studies, tokens, tmp_path, host):
    pair = Authority(tmp_path, "authority").issue("server")
    for given in (
        [],
        ["--tokens", tokens],
        ["--tls-cert", pair.certificate, "--tls-key", pair.key],
        ["--tokens", tokens, "--tls-cert", pair.certificate],
    ):
        assert "--tls-key" in refusal("--studies", studies, "--host", host, *given)


def test_a_missing_folder_and_missing_or_wrong_weights_are_named(installed, studies, tmp_path):
    assert "nowhere" in refusal("--studies", tmp_path / "nowhere")
    assert "none.safetensors" in refusal("--studies", studies, "--segmentation", tmp_path / "none.safetensors")
    page = tmp_path / "page.safetensors"
    page.write_text("<html>")
    assert "page.safetensors" in refusal("--studies", studies, "--segmentation", page, "--port", 0)
    assert not (studies / ".sonodistill").exists()


def test_weights_of_another_kind_are_refused(installed, studies, tmp_path):
    from sonodistill.networks.encoder import Encoder
    from sonodistill.weights import save_weights
    from sonodistill.weights_header import WeightsInfo

    path = tmp_path / "encoder.safetensors"
    save_weights(path, Encoder("test_resnet").state_dict(), WeightsInfo("encoder", "test_resnet", input_size=(64, 64)))
    assert "encoder" in refusal("--studies", studies, "--segmentation", path, "--port", 0)


def test_certificates_that_do_not_do_are_named(installed, studies, tmp_path):
    pair, other = (Authority(tmp_path, "authority").issue(name) for name in ("server", "other"))
    assert "other.key" in refusal("--studies", studies, "--tls-cert", pair.certificate, "--tls-key", other.key)
    assert "none.pem" in refusal("--studies", studies, "--tls-cert", tmp_path / "none.pem", "--tls-key", pair.key)
    assert "--tls-key" in refusal("--studies", studies, "--tls-cert", pair.certificate)


def test_a_port_that_is_taken_is_named(installed, studies):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert str(port) in refusal("--studies", studies, "--port", port)


@pytest.mark.parametrize("url", ["http://user:secret@pacs/dicom-web", "https://", "http://pacs/x?y=1"])
def test_a_url_that_cannot_be_used_is_refused_and_no_secret_repeated(installed, url):
    assert "secret" not in refusal("--studies", url)


def test_a_token_of_the_pacs_does_not_travel_in_the_clear(installed, tokens):
    assert "https" in refusal("--studies", "http://pacs.example/dicom-web", "--token-file", tokens)


def test_a_query_that_is_none_is_refused(installed, studies):
    assert "query" in refusal("--studies", studies, "--query", "a=b&&c")


def test_an_app_that_is_not_there_is_named(installed, studies, tmp_path):
    assert "main.py" in str(serving.app_folder() / "main.py") and (serving.app_folder() / "main.py").is_file()
    assert "--app" in refusal("--studies", studies, "--app", tmp_path)


def test_the_settings_of_monai_label_are_the_safe_ones_and_paths_are_whole(studies, tmp_path, monkeypatch):
    import json

    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}x{os.pathsep}")
    monkeypatch.chdir(tmp_path)
    given = serving.Serving("studies", Path("work"), models={"segmentation": Path("m.st")}, tokens=Path("t"))
    found = serve.environment(given, tmp_path / "app")
    assert found["MONAI_LABEL_AUTO_UPDATE_SCORING"] == found["MONAI_LABEL_TRACKING_ENABLED"] == "false"
    assert "*" not in found["MONAI_LABEL_CORS_ORIGINS"]
    assert found["MONAI_LABEL_STUDIES"] == str(studies)
    conf = json.loads(found["MONAI_LABEL_APP_CONF"])
    assert conf["segmentation"] == str(tmp_path / "m.st") and conf["work"] == str(tmp_path / "work")
    assert found["PYTHONPATH"] == f"{tmp_path / 'app'}{os.pathsep}x"  # no empty part: that would be the current folder


# Labels without a server


def test_labels_are_exported_imported_and_compared_without_a_server(studies, tmp_path, capsys):
    work = default_work(str(studies))
    assert "no labels" in refusal("export", "--studies", studies, "--out", tmp_path / "out")
    from sonodistill.annotate.ids import FrameId
    from sonodistill.annotate.studies.catalogue import FolderCatalogue

    catalogue = FolderCatalogue(studies, work)
    store = LabelStore(work / "labels.sqlite", ("lesion", "cyst"), ("normal", "benign"))
    frame = FrameId(catalogue.items()[0].id, 0)
    mask = np.zeros((30, 40), np.uint8)
    mask[5:20, 5:20] = 2
    for name in ("anna", "ben"):
        store.save(frame, mask, status=Status.ACCEPTED, annotator=name, classification="benign")
    store.close()
    catalogue.close()
    assert run("label", "export", "--studies", studies, "--out", tmp_path / "out", "--annotator", "anna") == 0
    assert "1 labels written" in capsys.readouterr().out
    assert run("label", "import", tmp_path / "out", "--studies", studies, "--annotator", "carol") == 0
    assert "1 labels taken over" in capsys.readouterr().out
    assert run("label", "agreement", "--studies", studies) == 0
    shown = capsys.readouterr().out
    assert "anna and ben: 1 frames" in shown and "cyst: Dice 1.000" in shown
    assert "--out" in refusal("export", "--studies", studies)
    assert "--form seg" in refusal("export", "--studies", studies, "--out", tmp_path / "pacs", "--store")
    refused = refusal("export", "--studies", studies, "--out", tmp_path / "pacs", "--form", "seg", "--store")
    assert "no PACS" in refused and not (tmp_path / "pacs").exists()


def test_labels_of_other_statuses_are_exported_and_imported_when_asked_for(studies, tmp_path, capsys):
    from sonodistill.annotate.ids import FrameId
    from sonodistill.annotate.studies.catalogue import FolderCatalogue

    work = default_work(str(studies))
    catalogue = FolderCatalogue(studies, work)
    store = LabelStore(work / "labels.sqlite", ("lesion",), ())
    frame = FrameId(catalogue.items()[0].id, 0)
    store.save(frame, np.ones((30, 40), np.uint8), status=Status.EDITED, annotator="anna")
    catalogue.close()
    for asked, written in (("accepted", 0), ("edited", 1)):
        out = tmp_path / asked
        run("label", "export", "--studies", studies, "--out", out, "--status", asked)
        assert f"{written} labels written" in capsys.readouterr().out
    run("label", "import", out, "--studies", studies, "--annotator", "ben", "--status", "accepted")
    assert [row.status for row in store.rows(annotator="ben")] == [Status.ACCEPTED]
    store.close()


def test_what_could_not_be_taken_over_is_listed_and_the_command_fails(studies, tmp_path, capsys):
    store = LabelStore(default_work(str(studies)) / "labels.sqlite", ("lesion",), ())
    store.close()
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "damaged.nii.gz").write_bytes(b"<html>")
    assert run("label", "import", tmp_path / "labels", "--studies", studies, "--annotator", "anna") == 2
    assert "damaged.nii.gz" in capsys.readouterr().err


# Tokens


def test_a_token_names_its_annotator_and_only_it(tmp_path):
    import hashlib

    digest = hashlib.sha256(b"another-long-token").hexdigest()
    found = Tokens(written(tmp_path, f"# people\n\nanna:{TOKEN}\nben:sha256:{digest}\nanna:second-token-of-anna\n"))
    asked = (TOKEN, "another-long-token", "second-token-of-anna", digest, f"sha256:{digest}", "", TOKEN[:-1], "\udcff")
    assert [found.annotator(token) for token in asked] == ["anna", "ben", "anna", None, None, None, None, None]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nobody\n",
        "anna\n",
        "anna:\n",
        "anna:short\n",
        f"model:{TOKEN}\n",
        f"../x:{TOKEN}\n",
        f":{TOKEN}\n",
        f"anna:{TOKEN} with spaces\n",
        "anna:sha256:abcd\n",
        f"anna:{TOKEN}\nben:{TOKEN}\n",
        b"\xff\xfe\x00",
        b"x" * (2 << 20),
    ],
    ids=range(13),
)
def test_a_file_of_tokens_that_cannot_be_used_is_refused_and_no_token_repeated(tmp_path, text):
    with pytest.raises(SonoDistillError) as caught:
        Tokens(written(tmp_path, text))
    assert TOKEN not in str(caught.value) and "short" not in str(caught.value).split("What to do")[0]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such bits")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_tokens_that_others_may_read_are_refused(tmp_path, mode):
    with pytest.raises(SonoDistillError, match="chmod 600"):
        Tokens(written(tmp_path, f"anna:{TOKEN}\n", mode))


def test_a_missing_file_of_tokens_is_named(installed, studies, tmp_path):
    assert "none" in refusal("--studies", studies, "--tokens", tmp_path / "none")


# pydicom 3


def test_the_missing_module_of_pydicom_is_supplied_once_and_only_for_monai_label():
    code = """
import sys
from sonodistill.annotate import pydicom3
name = "pydicom._storage_sopclass_uids"
assert "pydicom" not in sys.modules
pydicom3.for_monailabel()
assert name not in sys.modules and "pydicom" not in sys.modules
sys.modules["monailabel"] = sys
pydicom3.for_monailabel()
first = sys.modules[name]
pydicom3.supply()
from pydicom._storage_sopclass_uids import SegmentationStorage
assert sys.modules[name] is first and SegmentationStorage == "1.2.840.10008.5.1.4.1.1.66.4"
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_torch_calls_it_when_it_is_imported():
    from importlib.metadata import entry_points

    points = [point for point in entry_points(group="torch.backends") if point.name == "sonodistill_monailabel"]
    assert points and points[0].load() is pydicom3.for_monailabel
