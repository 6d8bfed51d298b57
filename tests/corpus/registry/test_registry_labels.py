"""What comes with images: masks of every published kind, and text from strangers that is read safely."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sonodistill.frames as frames
from sonodistill.errors import DatasetError
from sonodistill_training.corpus.registry.labels import (
    FramePolygons,
    ImageMask,
    PolygonMask,
    VolumeMask,
    fill_polygons,
    json_polygon,
    svg_polygons,
)
from sonodistill_training.corpus.registry.parse import read_json, read_lines, read_rows, read_sheet, read_xml

# Masks


def test_class_codes_follow_gray_values_and_colours(folder):
    gray = folder.mask("gray.png", value=7)
    colour = folder.mask("colour.png", value=(0, 250, 3))
    assert set(np.unique(ImageMask((gray,), codes={7: 1, 8: 2}).load((40, 48)))) == {0, 1}
    near = ImageMask((colour,), codes={(0, 255, 0): 1, (255, 0, 0): 2}, tolerance=10)
    assert (near.load((40, 48)) == 1).sum() == 10 * 18
    assert not ImageMask((colour,), codes={(0, 255, 0): 1}).load((40, 48)).any()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_a_white_region_is_annotated_however_it_is_stored(tmp_path, mode):
    white = np.zeros((8, 10), np.uint8)
    white[2:5, 3:7] = 255
    image = Image.fromarray(white)
    if mode == "I;16":
        image = Image.fromarray(white.astype(np.uint16) * 257)
    elif mode == "P":
        image = Image.fromarray(white // 255, "P")
        image.putpalette([0, 0, 0, 255, 255, 255])
    else:
        image = image.convert(mode)
    image.save(path := tmp_path / "m.png")
    assert np.array_equal(ImageMask((path,), above=127).load((8, 10)), white)


def test_palette_indices_are_class_codes(tmp_path):
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    image = Image.fromarray(indices, "P")
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    image.save(path := tmp_path / "m.png")
    assert np.array_equal(ImageMask((path,), codes={1: 1, 2: 2}).load((3, 4)), indices)


def test_a_mask_of_another_shape_is_refused_unless_it_is_to_be_resized(folder):
    path = folder.mask("m.png", size=(20, 24), box=(5, 5, 10, 10))
    with pytest.raises(DatasetError, match="24 x 20"):
        ImageMask((path,)).load((40, 48))
    assert (ImageMask((path,), resize=True).load((40, 48)) > 0).sum() == 4 * 25


def test_outlines_are_filled_and_an_ellipse_is_closed_where_the_image_ends(tmp_path):
    import cv2

    whole, outline = np.zeros((80, 100), np.uint8), np.zeros((80, 100), np.uint8)
    cv2.ellipse(whole, ((85.0, 40.0), (60.0, 40.0), 15.0), 255, -1)
    cv2.ellipse(outline, ((85.0, 40.0), (60.0, 40.0), 15.0), 255, 1)
    cv2.imwrite(str(path := tmp_path / "o.png"), outline)
    filled = ImageMask((path,), fill="ellipse").load((80, 100)) > 0
    assert (filled & (whole > 0)).sum() / (filled | (whole > 0)).sum() > 0.97
    leaking = ImageMask((path,), fill="outline").load((80, 100)) > 0
    assert leaking.sum() < 0.9 * filled.sum()


def test_polygons_are_filled_merged_and_refused_outside(folder):
    path = folder.text("p.json", "[[[0, 0], [9, 0], [9, 9], [0, 9]], [[20, 20], [24, 20], [24, 24]]]")
    mask = PolygonMask(path, json_polygon).load((40, 48))
    assert mask[5, 5] == 255 == mask[21, 23]
    assert mask[30:, :].sum() == 0
    with pytest.raises(DatasetError, match="outside"):
        fill_polygons((8, 8), [([(20.0, 20.0), (30.0, 20.0), (30.0, 30.0)], 1)], path)
    with pytest.raises(DatasetError, match="is no list"):
        json_polygon(folder.text("q.json", '{"shapes": 1}'))


def test_only_annotated_frames_load():
    mask = FramePolygons(Path("t.csv"), {4: [([(1.0, 1.0), (6.0, 1.0), (6.0, 6.0)], 2)]})
    assert mask.frames == {4}
    assert mask.load((8, 8), 4).max() == 2
    with pytest.raises(DatasetError, match="frame 3 is not annotated"):
        mask.load((8, 8), 3)


def test_slices_of_a_label_volume_match_the_frames_of_its_image(folder):
    labels = np.zeros((4, 6, 8), np.uint8)
    labels[2, 1:3, 4:6] = 3
    path = folder.volume("l.nii.gz", labels)
    image = folder.volume("i.nii.gz", np.where(labels, 200, 10).astype(np.uint8))
    for axis in (0, 1, 2):
        mask = VolumeMask((path,), axis=axis, codes={3: 1})
        for frame in frames.read(image, axis=axis):
            assert np.array_equal(mask.load(frame.image.shape, frame.index) > 0, frame.image > 100)
    with pytest.raises(DatasetError, match="no slice 9"):
        VolumeMask((path,)).load((6, 8), 9)


def test_half_an_outline_and_stray_clicks_are_no_mask(folder):
    square = '[{"points": [{"x": 1, "y": 1}, {"x": 5, "y": 1}, {"x": 5, "y": 5}]}, {"points": [{"x": 1, "y": 1}]}]'
    marks = "".join(
        f"<mark><image>{number}</image><svg>{svg}</svg></mark>"
        for number, svg in enumerate((square, square[:30], ""), start=1)
    )
    found = svg_polygons(read_xml(folder.text("1.xml", f"<case>{marks}</case>")))
    assert found == {1: [[(1.0, 1.0), (5.0, 1.0), (5.0, 5.0)]]}


# Text from strangers


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        '<?xml version="1.0"?>\n<!doctype a SYSTEM "file:///etc/passwd"><a/>',
        '<?xml version="1.0" encoding="UTF-7"?><a/>',
        "<a>\0</a>",
        "<a>",
    ],
)
def test_xml_that_could_do_harm_is_refused(folder, text):
    with pytest.raises(DatasetError):
        read_xml(folder.text("x.xml", text))


def test_xml_in_utf_16_is_refused_with_its_hidden_entities(folder):
    path = folder.text("x.xml", "")
    path.write_bytes('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'.encode("utf-16"))
    with pytest.raises(DatasetError, match="UTF-8"):
        read_xml(path)


def test_files_beyond_the_limits_are_not_read(folder):
    path = folder.text("x.xml", "")
    with path.open("wb") as file:
        file.truncate((4 << 20) + 1)
    with pytest.raises(DatasetError, match="larger"):
        read_xml(path)


def test_deeply_nested_json_ends_in_an_error_of_ours(folder):
    with pytest.raises(DatasetError):
        read_json(folder.text("x.json", "[" * 200_000))


def test_csv_keeps_quoted_commas_and_fills_short_rows(folder):
    path = folder.text("x.csv", '\ufeffa,b,c\n"1,5",2\n\n')
    assert read_rows(path) == [{"a": "1,5", "b": "2", "c": ""}]


def test_lines_are_text_in_utf_8(folder):
    assert read_lines(folder.text("x.txt", "a b\n\n  c\r\n")) == ["a b", "c"]
    path = folder.text("y.txt", "")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DatasetError, match="UTF-8"):
        read_lines(path)


def workbook(path, rows):
    cells = "".join(
        f'<row r="{y}">'
        + "".join(
            f'<c r="{chr(65 + x)}{y}" t="s"><v>{rows_text(rows).index(text)}</v></c>'
            for x, text in enumerate(row)
            if text
        )
        + "</row>"
        for y, row in enumerate(rows, start=1)
    )
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    strings = "".join(f"<si><t>{text}</t></si>" for text in rows_text(rows))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("xl/sharedStrings.xml", f"<sst {space}>{strings}</sst>")
        book.writestr("xl/worksheets/sheet1.xml", f"<worksheet {space}><sheetData>{cells}</sheetData></worksheet>")


def rows_text(rows):
    return sorted({text for row in rows for text in row if text})


def test_a_workbook_reads_as_a_table_with_its_empty_cells(tmp_path):
    workbook(path := tmp_path / "x.xlsx", [("a", "b"), ("1", "2"), ("", "3")])
    assert read_sheet(path) == [{"a": "1", "b": "2"}, {"a": "", "b": "3"}]


def test_a_workbook_that_unpacks_to_too_much_is_refused(tmp_path):
    with zipfile.ZipFile(path := tmp_path / "x.xlsx", "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("xl/worksheets/sheet1.xml", b" " * (33 << 20))
    with pytest.raises(DatasetError, match="more than 32 MiB"):
        read_sheet(path)
