"""Headers whose values lie in another file."""

from __future__ import annotations

import numpy as np
import pytest

from sonodistill.errors import UnsupportedFormatError
from sonodistill.frames import read

VALUES = np.arange(2 * 3 * 4, dtype=np.uint8)
META = "ObjectType = Image\nNDims = 3\nDimSize = 4 3 2\nElementType = MET_UCHAR\nElementDataFile = {}\n"
NRRD = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4 3 2\nencoding: raw\ndata file: {}\n\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "inner").mkdir()
    for place in (tmp_path / "secret.raw", tmp_path / "inner" / "beside.raw"):
        place.write_bytes(VALUES.tobytes())
    return tmp_path / "inner"


@pytest.mark.parametrize(("name", "header"), [("v.mhd", META), ("v.nhdr", NRRD)])
def test_values_beside_the_header_are_read(folder, name, header):
    (folder / name).write_text(header.format("beside.raw"))
    np.testing.assert_array_equal([frame.image for frame in read(folder / name)], VALUES.reshape(2, 3, 4))


@pytest.mark.parametrize(("name", "header"), [("v.mhd", META), ("v.mha", META), ("v.nhdr", NRRD), ("v.nrrd", NRRD)])
@pytest.mark.parametrize("target", ["../secret.raw", "{root}/secret.raw", "C:\\secret.raw", "LIST\n../secret.raw"])
def test_values_from_elsewhere_are_refused(folder, name, header, target):
    (folder / name).write_text(header.format(target.replace("{root}", str(folder.parent))))
    with pytest.raises(UnsupportedFormatError, match="outside of its folder"):
        list(read(folder / name))


def test_a_long_header_does_not_hide_the_name(folder):
    many = "".join(f"Seq_Frame{n:04d}_Timestamp = {n}\n" for n in range(2000))
    (folder / "v.mhd").write_text(META.replace("ElementDataFile", many + "ElementDataFile").format("../secret.raw"))
    with pytest.raises(UnsupportedFormatError, match="outside of its folder"):
        list(read(folder / "v.mhd"))


@pytest.mark.parametrize(
    "line",
    [
        "ElementDataFile: {}",
        "  ElementDataFile = {}",
        "Comment = ElementDataFile = LOCAL\nElementDataFile = {}",
        "Comment = LIST ElementDataFile LIST\nElementDataFile: {}",
        "elementdatafile = LOCAL\nElementDataFile = {}",
        "ElementDataFile\0 = {}",
    ],
)
def test_a_header_that_only_itk_understands_is_refused(folder, line):
    header = META.rpartition("ElementDataFile")[0] + line.format(folder.parent / "secret.raw") + "\n"
    (folder / "v.mha").write_text(header)
    with pytest.raises(UnsupportedFormatError, match="outside of its folder"):
        list(read(folder / "v.mha"))


@pytest.mark.parametrize(("name", "header", "comment"), [("v.mha", META, "Comment = "), ("v.nrrd", NRRD, "# ")])
def test_a_header_without_an_end_is_refused(folder, name, header, comment):
    many = (comment + "x" * 10_000 + "\n") * 1800
    first, _, rest = header.format(folder.parent / "secret.raw").partition("\n")
    (folder / name).write_text(f"{first}\n{rest.splitlines()[0]}\n{many}{chr(10).join(rest.splitlines()[1:])}\n\n")
    with pytest.raises(UnsupportedFormatError, match="no end"):
        list(read(folder / name))


@pytest.mark.parametrize("word", ["LOCAL", "Local"])
def test_values_that_follow_the_header_are_read_whatever_they_spell(folder, word):
    values = VALUES.copy()
    values[:15] = np.frombuffer(b"ElementDataFile", np.uint8)
    (folder / "v.mha").write_bytes(META.format(word).encode() + values.tobytes())
    np.testing.assert_array_equal([frame.image for frame in read(folder / "v.mha")], values.reshape(2, 3, 4))
