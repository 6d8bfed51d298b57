"""The PACS documentation against the code: what it lists is all there is, and its samples run as they are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pydicom
import pytest
from dicom_factory import region
from findings_case import clip, public_file, random_findings
from orthanc import free_ports, orthanc
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.presentation import build_context
from scp_server import CALLED, CALLER, scp_thread
from service_case import bright_model, service
from typer.testing import CliRunner

from sonodistill.dicom import settings
from sonodistill.dicom.algorithm import Code
from sonodistill.dicom.commands import app
from sonodistill.dicom.config import read_settings, tomllib  # type: ignore[attr-defined]
from sonodistill.dicom.findings import Findings
from sonodistill.dicom.service.metrics import Snapshot, render
from sonodistill.dicom.service.records import State
from sonodistill.dicom.service.run import DRAIN_SECONDS
from sonodistill.dicom.write.measure import structures_of
from sonodistill.dicom.write.modules import PATIENT_AND_STUDY
from sonodistill.dicom.write.preview import preview
from sonodistill.dicom.write.report import report
from sonodistill.dicom.write.seg import segmentation

DOCS = Path(__file__).parents[2] / "monai_bundle" / "docs"
GUIDE = (DOCS / "dicom.md").read_text(encoding="utf-8")
STATEMENT = (DOCS / "dicom_conformance.md").read_text(encoding="utf-8")
SAMPLES = DOCS / "dicom"
TABLES = {
    "service": settings.Service,
    "scp": settings.Scp,
    "watch": settings.Watch,
    "pull": settings.Pull,
    "http": settings.Http,
    "destination": settings.DestinationSettings,
    "route": settings.RouteSettings,
    "route.outputs": settings.Outputs,
    "route.segments.LABEL": settings.SegmentSettings,
    "code": Code,
    "tls": settings.Tls,
}
UID_CELL = re.compile(r"1\.2\.840\.10008[0-9.]*[0-9]")


def rows(text: str, heading: str = "") -> Iterator[list[str]]:
    """The cells of every row of a table, of one section or of the whole text."""
    if heading:
        level = heading.split(" ", 1)[0]
        text = text.split(f"\n{heading}\n", 1)[1].split(f"\n{level} ", 1)[0]
    for line in text.splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def section(text: str, heading: str, to: str) -> str:
    return text.split(f"\n{heading}\n", 1)[1].split(f"\n{to}", 1)[0]


# -- settings


def shown(value: Any) -> str:
    if value is None:
        return "none"
    if is_dataclass(value):
        return "see below"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{json.dumps(list(value))}`"
    if isinstance(value, dict):
        return "`{" + ", ".join(f'{name} = "{text}"' for name, text in value.items()) + "}`"
    return f'`"{value}"`' if isinstance(value, (str, Path)) else f"`{value}`"


def test_every_setting_is_in_the_tables_with_its_default() -> None:
    documented = {row[0].strip("`"): row[1] for row in rows(GUIDE) if len(row) == 3 and "." in row[0]}
    there = {}
    for prefix, kind in TABLES.items():
        for item in fields(kind):
            made = None if item.default_factory is MISSING else shown(item.default_factory())
            default = shown(item.default) if item.default is not MISSING else made or "required"
            there[f"{prefix}.{item.name}"] = default
    assert {name: default for name, default in documented.items() if name.split(".")[0] in TABLES} == there
    assert {item.name for item in fields(settings.Settings)} <= set(TABLES)


def named(kind: type, found: dict[str, Any], prefix: str) -> Iterator[str]:
    """Names of the settings in a table of a configuration, as the tables of the guide have them."""
    hints = get_type_hints(kind)
    for name, value in found.items():
        yield f"{prefix}.{name}"
        kinds = [each for each in (*get_args(hints[name]), hints[name]) if is_dataclass(each)]
        for each in value.values() if name == "segments" else [value] if isinstance(value, dict) else []:
            for inner in kinds:
                table = next(table for table, of in TABLES.items() if of is inner)
                yield from named(inner, each, table)


def test_the_example_has_every_setting_and_can_be_read(tmp_path: Path) -> None:
    text = GUIDE.split("```toml\n", 1)[1].split("```", 1)[0]
    (tmp_path / "model.onnx").write_bytes(b"not read here")
    (tmp_path / "all.toml").write_text(text)
    read_settings(tmp_path / "all.toml")
    found = tomllib.loads(text)
    seen: set[str] = set()
    for prefix, value in found.items():
        for each in value if isinstance(value, list) else [value]:
            seen.update(named(TABLES[prefix], each, prefix))
    assert {f"{prefix}.{item.name}" for prefix, kind in TABLES.items() for item in fields(kind)} == seen


def test_states_metrics_and_commands_are_those_of_the_program() -> None:
    spool = section(GUIDE, "### The spool", "### ")
    assert {state.value for state in State} <= set(re.findall(r"`(\w+)`", spool))
    metrics = set(re.findall(r"^# HELP (\w+)", render(Snapshot()), re.MULTILINE))
    assert metrics == set(re.findall(r"`(sonodistill_\w+)", GUIDE))
    for command in set(re.findall(r"sonodistill dicom ((?:predict|serve|dead \w+|audit \w+))", GUIDE)):
        assert CliRunner().invoke(app, [*command.split(), "--help"]).exit_code == 0, command


def test_links_lead_somewhere() -> None:
    pages = {name: (DOCS / name).read_text(encoding="utf-8") for name in ("dicom.md", "dicom_conformance.md")}
    for name, text in pages.items():
        for target in re.findall(r"\]\(([^)]+)\)", text):
            file, _, anchor = target.partition("#")
            if file.startswith("http"):
                continue
            path = DOCS / (file or name)
            assert path.exists(), target
            if anchor:
                headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
                assert anchor in [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings], target


# -- conformance statement


def test_the_presentation_contexts_are_those_that_the_server_accepts(tmp_path: Path) -> None:
    text = section(STATEMENT, "#### Presentation contexts accepted", "#### ")
    table = [(cells[0], UID_CELL.findall(" ".join(cells[1:]))) for cells in rows(text)]
    syntaxes = {uids[0] for _, uids in table if len(uids) == 1 and UID(uids[0]).is_transfer_syntax}
    listed = set()
    for _, uids in table:
        if uids and not UID(uids[0]).is_transfer_syntax:
            listed.update((uids[0], syntax) for syntax in (uids[1:] or syntaxes))
    results = {cells[1] for cells in rows(STATEMENT, "#### Presentation contexts proposed")}
    others = {*filter(UID_CELL.fullmatch, results), "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.6.2"}
    unread = {"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.203"}
    images = {kind for kind, _ in listed if kind != "1.2.840.10008.1.1"}
    asked = [*listed, *((kind, each) for kind in images for each in unread)]
    asked += [(kind, "1.2.840.10008.1.2.1") for kind in others]
    with scp_thread(tmp_path) as server:
        accepted = {
            context for at in range(0, len(asked), 100) for context in _accepted(server.port, asked[at : at + 100])
        }
    assert len(syntaxes) > 20 and len(images) == 4
    assert accepted == listed


def _accepted(port: int, contexts: list[tuple[str, str]]) -> set[tuple[str, str]]:
    ae = AE(CALLER)
    ae.acse_timeout = ae.network_timeout = ae.connection_timeout = 20
    association = ae.associate("127.0.0.1", port, contexts=[build_context(*each) for each in contexts], ae_title=CALLED)
    assert association.is_established
    association.release()
    return {(str(each.abstract_syntax), str(each.transfer_syntax[0])) for each in association.accepted_contexts}


def _measured(path: Path) -> Findings:
    found = random_findings(path, overlap=False)
    structures = [each for at, masks in enumerate(found.masks) for each in structures_of(masks, at, found.source.ds)]
    return replace(found, structures=tuple(structures), times_ms=tuple(40.0 * at for at in range(len(found.masks))))


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[pydicom.Dataset]]:
    """Results of every kind, of a calibrated gray cine and of a colour still, by the section that describes them."""
    folder = tmp_path_factory.mktemp("objects")
    regions = [region(0, 0, 95, 63)]
    jpeg = {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": 9,
        "LossyImageCompressionMethod": "ISO_10918_1",
    }
    shades = {
        "PixelAspectRatio": [4, 3],
        "RescaleIntercept": 0,
        "RescaleSlope": 1,
        "WindowCenter": 128,
        "WindowWidth": 256,
    }
    path = clip(folder / "cine.dcm", rows=64, columns=96, SequenceOfUltrasoundRegions=regions, **jpeg, **shades)
    cine, still = _measured(path), _measured(public_file("examples_rgb_color.dcm"))
    image = np.zeros((64, 96), np.uint8)
    return {
        "### 8.2 Segmentation and Label Map Segmentation": [
            segmentation(each, kind) for each in (cine, still) for kind in ("binary", "fractional", "labelmap")
        ],
        "### 8.3 Comprehensive SR": [report(cine, segmentation(cine)), report(still)],
        "### 8.4 Grayscale and Color Softcopy Presentation State": [preview(cine, "gsps"), preview(still, "gsps")],
        "### 8.5 Secondary Capture Image": [preview(cine, "sc", image)],
    }


def test_the_attributes_listed_are_those_of_the_objects(objects) -> None:
    tags = re.compile(r"\(([0-9A-F]{4}),([0-9A-F]{4})\)")

    def listed(heading: str) -> set[str]:
        return {"".join(tag) for cells in rows(STATEMENT, heading) for tag in tags.findall(cells[0])}

    everywhere = listed("### 8.1 In every object")
    dates = {"00080023", "00080033"}
    for heading, made in objects.items():
        there = {f"{e.tag:08X}" for ds in made for e in ds if e.keyword not in PATIENT_AND_STUDY}
        own = listed(heading)
        assert own == there - everywhere - dates, heading
        for ds in made:
            assert everywhere - {f"{e.tag:08X}" for e in ds} <= {"00080005", "00080201"}
        assert not any(e.tag.is_private for ds in made for e in ds.iterall())
        assert dates <= there or "Presentation" in heading


def test_the_classes_listed_are_those_of_the_objects(objects) -> None:
    text = section(STATEMENT, "#### Presentation contexts proposed", "#### ")
    listed = {tuple(cells[1:]) for cells in rows(text) if UID_CELL.fullmatch(cells[1])}
    made = {(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID) for each in objects.values() for ds in each}
    assert listed == made


def test_the_codes_listed_are_those_of_the_objects(objects) -> None:
    """Codes that depend on nothing in the configuration."""
    coded = {
        (item.CodeValue, item.CodingSchemeDesignator)
        for each in objects.values()
        for ds in each
        for element in ds.iterall()
        if element.VR == "SQ"
        for item in element.value
        if "CodeValue" in item
    }
    text = section(STATEMENT, "### 8.6 Coded terms", "Codes of segments")
    listed = set(re.findall(r"\(([^,()]+), (\w+), \"", text)) | set(re.findall(r"\(([^,()]+), (UCUM)\)", text))
    assert len(listed) > 10 and listed <= coded


# -- samples


def test_the_unit_lets_the_service_drain() -> None:
    unit = (SAMPLES / "sonodistill.service").read_text()
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(seconds) > 2 * DRAIN_SECONDS
    assert re.search(r"^KillMode=mixed$", unit, re.MULTILINE)
    memory = settings.Scp(allow=()).memory_mb + settings.Service().decode_memory_mb
    assert int(re.findall(r"^MemoryMax=(\d+)G$", unit, re.MULTILINE)[0]) << 10 > memory


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (apt-get install systemd)")
    program = tmp_path / "sonodistill"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = (SAMPLES / "sonodistill.service").read_text()
    adapted = unit.replace("ExecStart=/opt/sonodistill/bin/sonodistill", f"ExecStart={program}")
    (tmp_path / "sonodistill.service").write_text(adapted)
    command = ["systemd-analyze", "verify", str(tmp_path / "sonodistill.service")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    # Other units of the machine are looked at, too.
    said = [line for line in (done.stdout + done.stderr).splitlines() if "sonodistill.service" in line]
    assert said == []


@pytest.mark.slow
def test_orthanc_and_the_service_work_together_from_the_samples(tmp_path: Path) -> None:
    """Only paths and ports are changed."""
    ours, health, theirs, web = free_ports(4)
    text = (SAMPLES / "sonodistill.toml").read_text()
    changes = {
        "/var/lib/sonodistill/spool": str(tmp_path / "spool"),
        "/etc/sonodistill/model.onnx": str(bright_model(tmp_path / "model.onnx")),
        "port = 11112": f"port = {ours}",
        "port = 8043": f"port = {health}",
        "port = 4242": f"port = {theirs}",
    }
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / "sonodistill.toml").write_text(text)

    sample = json.loads((SAMPLES / "orthanc.json").read_text())
    assert sample["DicomModalities"]["sonodistill"]["Port"] == 11112 and sample["DicomPort"] == 4242
    sample["DicomModalities"]["sonodistill"]["Port"] = ours
    storage = str(tmp_path / "storage")
    places = {"StorageDirectory": storage, "IndexDirectory": storage, "HttpPort": web, "DicomPort": theirs}
    script = {"LuaScripts": [str(SAMPLES / Path(sample["LuaScripts"][0]).name)]}
    with (
        service(tmp_path / "sonodistill.toml", ready=False) as running,
        orthanc(tmp_path, dicom_port=theirs, http_port=web, settings={**sample, **places, **script}) as pacs,
    ):
        running.wait(lambda: _is_ready(health))
        pacs.upload(public_file("examples_ybr_color.dcm"))

        def modalities() -> list[str]:
            return sorted(pacs.get(f"/instances/{each}/tags?simplify")["Modality"] for each in pacs.instances())

        running.wait(lambda: modalities() == ["SEG", "SR", "US"])
        running.wait(lambda: running.counts() == {"done": 1, "d-done": 1})


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=10) as answer:
            return answer.status == 200 and json.loads(answer.read())["checks"]["disk"]
    except OSError:
        return False
