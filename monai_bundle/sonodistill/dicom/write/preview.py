"""Shows what was found to people: a presentation state to lay over the images, or a picture with the outlines drawn."""

from __future__ import annotations

import math
from itertools import groupby
from typing import Literal

import cv2
import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from PIL import ImageCms
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import (
    ColorSoftcopyPresentationStateStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
)
from pydicom.valuerep import format_number_as_ds

from sonodistill.dicom.errors import ResultError
from sonodistill.dicom.findings import Findings, Structure
from sonodistill.dicom.source import Source
from sonodistill.dicom.write.aspect import aspect_ratio
from sonodistill.dicom.write.common import base_dataset, clean
from sonodistill.dicom.write.report import closed, frame_reference, largest, tracking
from sonodistill.frames.regions import regions_of
from sonodistill.frames.sector import NoSectorError, find_sector, image_boxes
from sonodistill.frames.sector_shapes import rasterized

WORDS = "AI - research use only"
"""In every preview."""

# Of Okabe and Ito, told apart also by the colour blind; the segments take turns.
_COLOURS = ((240, 228, 66), (86, 180, 233), (230, 159, 0), (0, 158, 115), (213, 94, 0), (204, 121, 167))
_RESCALE, _WINDOW = ("RescaleIntercept", "RescaleSlope"), ("WindowCenter", "WindowWidth")
_SURE = 0.9  # agreement of a sector that holds no text beside the image; those seen to hold some reach 0.8
_STRIP = 22  # pixels of the strip that holds the words
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.5


def preview(findings: Findings, kind: Literal["gsps", "sc"], frame_image: NDArray[np.uint8] | None = None) -> Dataset:
    """The outlines of the structures, as people see them.

    "gsps" is a presentation state (PS3.3 A.33) with outlines on every frame: grayscale for monochrome sources, colour
    for RGB, YBR and palette ones. It holds no pixels, and its tracking UIDs are the report's. "sc" is a secondary
    capture (A.8) of one frame in RGB with its outlines; pixels outside the insonified region, where names are, are
    black, and a strip beneath says what it is. Text within the region stays: a picture is no less identifying than its
    source.

    Args:
        findings: what to show.
        kind: of object.
        frame_image: "sc" alone: (H, W) or (H, W, 3) uint8 of frame ``preview_frame(findings)``.

    Errors: ResultError when "sc" does not know which pixels show the patient's inside.
    """
    if kind == "gsps":
        return _presentation_state(findings)
    if frame_image is None:
        raise ValueError("a secondary capture needs the image of its frame")
    return _capture(findings, frame_image)


def preview_frame(findings: Findings) -> int:
    """The frame, counted from 0, in which the structures are largest together; the first where there is none."""
    areas = np.zeros(findings.source.frames, np.int64)
    for structure in findings.structures:
        areas[structure.frame] += structure.pixels
    return int(areas.argmax())


def _presentation_state(findings: Findings) -> Dataset:
    source = findings.source
    gray = str(source.ds.PhotometricInterpretation).startswith("MONOCHROME")
    sop_class = GrayscaleSoftcopyPresentationStateStorage if gray else ColorSoftcopyPresentationStateStorage
    ds = base_dataset(findings, sop_class, "gsps")
    ds.Laterality = None  # type 2C: unknown
    ds.ContentLabel, ds.ContentDescription, ds.ContentCreatorName = "AI_OUTLINES", WORDS, None
    series, area = Dataset(), Dataset()
    series.SeriesInstanceUID = source.series_uid
    series.ReferencedImageSequence = [_reference(source)]
    ds.ReferencedSeriesSequence = [series]
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [source.columns, source.rows]
    # It replaces what the source says of it.
    area.PresentationSizeMode, area.PresentationPixelAspectRatio = "SCALE TO FIT", aspect_ratio(source) or [1, 1]
    ds.DisplayedAreaSelectionSequence = [area]
    if gray:
        _add_shades(ds, source)
    else:
        ds.ICCProfile, ds.ColorSpace = _srgb(), "SRGB"
    _add_outlines(ds, findings)
    return ds


def _add_outlines(ds: Dataset, findings: Findings) -> None:
    """The Graphic Annotation and Graphic Layer modules (PS3.3 C.10.5, C.10.7): a layer for each segment."""
    notice = hd.pr.GraphicLayer("NOTICE", 1, "what the outlines are", _lab(_colour(1)))
    layers = [
        hd.pr.GraphicLayer(f"SEGMENT_{number}", number + 1, clean(segment.label), _lab(_colour(number)))
        for number, segment in enumerate(findings.algorithm.segments, start=1)
    ]
    ds.GraphicLayerSequence = [notice, *layers]
    listed = largest(findings)
    left_out = len(findings.structures) - len(listed)
    words = WORDS if listed else f"{WORDS}: no structure found"
    words += f" ({left_out} smaller structures not shown)" if left_out else ""
    everywhere = Dataset()
    everywhere.GraphicLayer = notice.GraphicLayer
    everywhere.TextObjectSequence = [
        hd.pr.TextObject(words, "DISPLAY", bounding_box=(0.01, 0.01, 0.6, 0.05), text_justification="LEFT")
    ]
    ds.GraphicAnnotationSequence = [everywhere]
    for (frame, segment), group in groupby(listed, key=lambda each: (each.frame, each.segment)):
        item = Dataset()
        item.ReferencedImageSequence = [_reference(findings.source, frame)]
        item.GraphicLayer = layers[segment - 1].GraphicLayer
        item.GraphicObjectSequence = [_outline(findings, structure) for structure in group]
        ds.GraphicAnnotationSequence.append(item)


def _outline(findings: Findings, structure: Structure) -> Dataset:
    # The origin of PIXEL units is the outer corner of the first pixel, as a contour's is (PS3.3 C.10.5).
    identifier, uid = tracking(findings, structure)
    return hd.pr.GraphicObject(
        "POLYLINE", closed(structure.contour), "PIXEL", tracking_id=clean(identifier), tracking_uid=uid
    )


def _add_shades(ds: Dataset, source: Source) -> None:
    """How the source's stored values become gray (Modality LUT, Softcopy VOI LUT, Softcopy Presentation LUT).

    A presentation state replaces what the source says of it, so that it has to be said again.
    """
    rescale, window = (_numbers(source.ds, keywords) for keywords in (_RESCALE, _WINDOW))
    if rescale:
        ds.RescaleIntercept, ds.RescaleSlope = rescale
        ds.RescaleType = "US"  # unspecified
    if window:
        item = Dataset()
        item.WindowCenter, item.WindowWidth = window
        if str(source.ds.get("VOILUTFunction") or "") in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
            item.VOILUTFunction = source.ds.VOILUTFunction
        ds.SoftcopyVOILUTSequence = [item]
    ds.PresentationLUTShape = "INVERSE" if source.ds.PhotometricInterpretation == "MONOCHROME1" else "IDENTITY"


def _numbers(ds: Dataset, keywords: tuple[str, str]) -> tuple[str, str] | None:
    """The first value of each attribute, as decimal strings; None when one is missing or no number."""
    values = []
    for keyword in keywords:
        value = ds.get(keyword)
        try:
            number = float(value[0] if isinstance(value, MultiValue) else value)
        except (TypeError, ValueError, IndexError, OverflowError):
            return None
        if not math.isfinite(number):
            return None
        values.append(format_number_as_ds(number))
    return values[0], values[1]


def _capture(findings: Findings, image: NDArray[np.uint8]) -> Dataset:
    source = findings.source
    if image.shape[:2] != (source.rows, source.columns):
        raise ValueError(f"an image of {image.shape[:2]} for a source of {source.rows} x {source.columns}")
    frame = preview_frame(findings)
    picture = _drawn(findings, frame, image)
    ds = base_dataset(findings, SecondaryCaptureImageStorage, "sc")
    ds.ConversionType = "WSD"
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.DerivationDescription = f"{WORDS}: outlines drawn, pixels outside the ultrasound image blackened"
    ds.SourceImageSequence = [_reference(source, frame)]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.Rows, ds.Columns = picture.shape[:2]
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    data = picture.tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB"
    return ds


def _drawn(findings: Findings, frame: int, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H + strip, W or wider, 3) RGB."""
    source = findings.source
    rgb = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.uint8) if image.ndim == 3 else image
    (words, _), _ = cv2.getTextSize(WORDS, _FONT, _FONT_SCALE, 1)
    picture = np.zeros((source.rows + _STRIP, max(source.columns, words + 8), 3), np.uint8)
    shown = _insonified(source, gray)
    picture[: source.rows, : source.columns][shown] = rgb[shown]
    for structure in findings.structures:
        if structure.frame == frame:
            picture[: source.rows, : source.columns][_line(structure, gray.shape)] = _colour(structure.segment)
    cv2.putText(picture, WORDS, (4, source.rows + _STRIP - 7), _FONT, _FONT_SCALE, (255, 255, 255), 1, cv2.LINE_AA)
    return picture


def _line(structure: Structure, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """(H, W) bool: the pixels on both sides of the outline, which runs between pixels."""
    inside = rasterized(structure.contour.astype(np.float64), (shape[0], shape[1])).astype(np.uint8)
    box = np.ones((3, 3), np.uint8)
    inner = cv2.erode(inside, box, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return (cv2.dilate(inside, box) > 0) & (inner == 0)


def _insonified(source: Source, gray: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(H, W) bool: the sector in each 2D region, or the whole region where none is found in it, or else the sector."""
    boxes = image_boxes(regions_of(source.ds, source.rows, source.columns), gray.shape)
    shown = np.zeros(gray.shape, bool)
    for top, left, bottom, right in boxes:
        try:
            region = {"box": [top, left, bottom, right], "format": 1, "data_type": 1}
            shown |= find_sector(gray, regions=[region]).mask(gray.shape)
        except NoSectorError:
            shown[top:bottom, left:right] = True
    if boxes:
        return shown
    try:
        sector = find_sector(gray)
        if sector.agreement >= _SURE:
            return sector.mask(gray.shape)
        why = f"the sector in the image is not certain (agreement {sector.agreement:.2f}, needed {_SURE})"
    except NoSectorError as error:
        why = error.message
    raise ResultError(
        f"a preview might show text outside the ultrasound image: the file has no valid 2D region, and {why}",
        path=source.path,
        remedy='use the preview "gsps" or "none" for such images',
    )


def _reference(source: Source, frame: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.sop_class, source.sop_uid
    if frame is not None and (number := frame_reference(source, frame)):
        item.ReferencedFrameNumber = number[0]
    return item


def _colour(segment: int) -> tuple[int, int, int]:
    """RGB of a segment, counted from 1."""
    return _COLOURS[(segment - 1) % len(_COLOURS)]


def _lab(rgb: tuple[int, int, int]) -> hd.color.CIELabColor:
    lab = cv2.cvtColor(np.array([[rgb]], np.float32) / 255, cv2.COLOR_RGB2Lab)[0, 0]
    return hd.color.CIELabColor(*(float(value) for value in lab))


def _srgb() -> bytes:
    """An ICC profile of sRGB as a colour space (PS3.3 C.11.15); Pillow's is that of a monitor."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[12:16] = b"spac"
    return bytes(profile)
