"""The package holds every file: CMake configures it, and the module is imported from what was copied."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("slicer_core", reason="needs slicer-core: pip install slicer-core")
pytest.importorskip("cmake", reason="needs CMake: pip install cmake")

ROOT = Path(__file__).resolve().parents[2]
EXTENSION = ROOT / "slicer_extension"
MODULES = ("UltrasoundSegment", "SegmentEditorUltrasound")
INSTALLED = Path("lib") / "Slicer-5.12" / "qt-scripted-modules"

CONFIG = """\
# What an extension asks of Slicer, for scripted modules: listed files are copied as they are listed, nothing else is.
set(Slicer_USE_FILE ${CMAKE_CURRENT_LIST_DIR}/UseSlicer.cmake)
set(Slicer_EXTENSION_GENERATE_CONFIG ${CMAKE_CURRENT_LIST_DIR}/Noted.cmake)
set(Slicer_EXTENSION_CPACK ${CMAKE_CURRENT_LIST_DIR}/Noted.cmake)
"""
USE = """\
# FindThreads and ITKPlatformSpecificChecks, which Slicer's own file comes to, stop without these.
get_property(languages GLOBAL PROPERTY ENABLED_LANGUAGES)
if(NOT "C" IN_LIST languages OR NOT "CXX" IN_LIST languages)
  message(FATAL_ERROR "C and CXX are not enabled")
endif()
function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MODULE "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(MODULE_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "unknown: ${MODULE_UNPARSED_ARGUMENTS}")
  endif()
  foreach(file IN LISTS MODULE_SCRIPTS MODULE_RESOURCES)
    if(NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${file}")
      message(FATAL_ERROR "listed but not there: ${file}")
    endif()
    get_filename_component(folder "${file}" DIRECTORY)
    file(COPY "${CMAKE_CURRENT_SOURCE_DIR}/${file}" DESTINATION "${CMAKE_BINARY_DIR}/@INSTALLED@/${folder}")
  endforeach()
  set_property(GLOBAL APPEND PROPERTY STUB_MODULES "${MODULE_NAME}")
endfunction()
function(slicer_add_python_unittest)
  cmake_parse_arguments(TEST "" "SCRIPT" "" ${ARGN})
  if(NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${TEST_SCRIPT}")
    message(FATAL_ERROR "a test is not there: ${TEST_SCRIPT}")
  endif()
  set_property(GLOBAL APPEND PROPERTY STUB_TESTS "${TEST_SCRIPT}")
endfunction()
""".replace("@INSTALLED@", INSTALLED.as_posix())
NOTED = """\
get_property(modules GLOBAL PROPERTY STUB_MODULES)
get_property(tests GLOBAL PROPERTY STUB_TESTS)
foreach(name HOMEPAGE CONTRIBUTORS DESCRIPTION ICONURL SCREENSHOTURLS DEPENDS)
  if(NOT EXTENSION_${name})
    message(FATAL_ERROR "EXTENSION_${name} is not set")
  endif()
endforeach()
file(WRITE "${CMAKE_BINARY_DIR}/noted.txt" "${PROJECT_NAME}|${modules}|${tests}")
"""
IMPORT = """\
import sys
from pathlib import Path
from types import SimpleNamespace
tree, tests, temporary = map(Path, sys.argv[1:4])
sys.path[:0] = [str(tests), str(tree)]
import slicer
from conftest import new_scene
scene, logics = new_scene(slicer, temporary)
slicer.mrmlScene, slicer.modules = scene, SimpleNamespace()
from qt_shim.application import installed, make_widget
with installed(slicer, [tree], temporary):
    slicer.modules.ultrasoundsegment = SimpleNamespace(path=str(tree / "UltrasoundSegment.py"))
    widget = make_widget("UltrasoundSegment")
    import importlib, pkgutil
    for package in ("UltrasoundSegmentLib", "UltrasoundSegmentWidgets"):
        for found in pkgutil.walk_packages([str(tree / package)], package + "."):
            importlib.import_module(found.name)
    import SegmentEditorUltrasound
    outside = [m.__file__ for n, m in sys.modules.items()
               if n.split(".")[0].startswith(("UltrasoundSegment", "SegmentEditorUltrasound"))
               and not Path(m.__file__).is_relative_to(tree)]
    assert not outside, outside
    widget.cleanup()
print("imported")
"""


def configure(source: Path, build: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Configure a source tree against the stub."""
    stub = build / "stub"
    stub.mkdir(parents=True)
    for name, text in (("SlicerConfig.cmake", CONFIG), ("UseSlicer.cmake", USE), ("Noted.cmake", NOTED)):
        (stub / name).write_text(text, encoding="utf-8")
    from cmake import CMAKE_BIN_DIR

    command = [str(Path(CMAKE_BIN_DIR) / "cmake"), "-S", str(source), "-B", str(build / "out"), f"-DSlicer_DIR={stub}"]
    # Nothing is compiled: any program stands in for the compilers.
    for language in ("C", "CXX"):
        said = {"": sys.executable, "_FORCED": "ON", "_ID": "GNU", "_ID_RUN": "ON", "_VERSION": "12"}
        command += [f"-DCMAKE_{language}_COMPILER{name}={value}" for name, value in said.items()]
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)


def left_out(extension: Path, installed: Path) -> list[str]:
    """Files of the modules' code and resources that were not copied."""
    wanted = [
        path.relative_to(extension / module)
        for module in MODULES
        for path in (extension / module).rglob("*")
        if path.is_file()
        and path.name != "CMakeLists.txt"
        and not any(part.startswith((".", "__pycache__")) for part in path.parts[len(extension.parts) :])
        and path.relative_to(extension / module).parts[0] != "Testing"
    ]
    return sorted(str(path) for path in wanted if not (installed / path).is_file())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = tmp_path_factory.mktemp("build")
    done = configure(ROOT, build, "-DBUILD_TESTING=ON")
    assert done.returncode == 0, done.stdout + done.stderr
    return build / "out"


def test_the_root_configures_with_the_languages_that_slicer_needs(built: Path) -> None:
    project, modules, tests = (built / "noted.txt").read_text(encoding="utf-8").split("|")
    assert project == "SonoDistill"
    assert modules.split(";") == list(MODULES)
    assert set(tests.split(";")) == {
        "UltrasoundSegment.py",
        "UltrasoundSegmentModuleTest.py",
        "SegmentEditorUltrasound.py",
    }


def test_every_file_is_listed(built: Path) -> None:
    assert left_out(EXTENSION, built / INSTALLED) == []


def test_a_file_that_is_not_listed_is_found(tmp_path: Path) -> None:
    copy = tmp_path / "slicer_extension"
    shutil.copytree(EXTENSION, copy, ignore=shutil.ignore_patterns("__pycache__", ".*", "Screenshots"))
    (copy / "UltrasoundSegment" / "UltrasoundSegmentLib" / "forgotten.py").write_text('"""New."""\n', encoding="utf-8")
    done = configure(copy, tmp_path / "build")
    assert done.returncode == 0, done.stderr
    installed = tmp_path / "build" / "out" / INSTALLED
    assert left_out(copy, installed) == [str(Path("UltrasoundSegmentLib") / "forgotten.py")]


def test_a_listed_file_that_is_gone_stops_the_build(tmp_path: Path) -> None:
    copy = tmp_path / "slicer_extension"
    shutil.copytree(EXTENSION, copy, ignore=shutil.ignore_patterns("__pycache__", ".*", "Screenshots"))
    (copy / "UltrasoundSegment" / "UltrasoundSegmentLib" / "signal.py").unlink()
    done = configure(copy, tmp_path / "build")
    assert done.returncode != 0
    assert "signal.py" in done.stderr


def test_the_module_is_imported_from_the_package(built: Path, tmp_path: Path) -> None:
    pytest.importorskip("PySide6", reason="needs PySide6: pip install pyside6-essentials")
    script = tmp_path / "imports.py"
    script.write_text(IMPORT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), str(built / INSTALLED), str(Path(__file__).parent), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        env={"QT_QPA_PLATFORM": "offscreen", "PATH": "", "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
    )
    assert "imported" in done.stdout, done.stdout + done.stderr
