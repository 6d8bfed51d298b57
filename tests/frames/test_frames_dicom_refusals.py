"""DICOM files that are damaged, hostile or of another kind are refused by name, mostly before a decoder sees them."""

from __future__ import annotations

import io
import sys
import warnings

import numpy as np
import pytest
from dicom_factory import jpeg
from pydicom import uid
from pydicom.encaps import generate_frames

from sonodistill.errors import UnreadableFileError, UnsupportedFormatError
from sonodistill.frames import read


def images(path) -> np.ndarray:
    return np.stack([frame.image for frame in read(path)])


def test_a_damaged_frame_is_named_and_the_ones_before_are_yielded(factory, tmp_path, speckle):
    encoded = [jpeg(frame) for frame in speckle]
    encoded[2] = encoded[2][:40] + b"\0" * 40
    path = factory.save(
        factory.encapsulated(factory.ultrasound(speckle), uid.JPEGBaseline8Bit, encoded), tmp_path / "x.dcm"
    )
    frames = read(path)
    assert [next(frames).index, next(frames).index] == [0, 1]
    with pytest.raises(UnreadableFileError, match="frame 3 of 4"):
        next(frames)


def test_a_missing_frame_is_named(factory, tmp_path, speckle):
    # Five fragments pass the header's check of four frames, but they make two images.
    encoded = [jpeg(frame) for frame in speckle[:2]]
    half = len(encoded[0]) // 2 // 2 * 2
    pieces = [encoded[0][:half], encoded[0][half:], encoded[1][:8], encoded[1][8:16], encoded[1][16:]]
    ds = factory.encapsulated(factory.ultrasound(speckle), uid.JPEGBaseline8Bit, pieces, offset_table=False)
    frames = read(factory.save(ds, tmp_path / "m.dcm"))
    assert [next(frames).index, next(frames).index] == [0, 1]
    with pytest.raises(UnreadableFileError, match="frame 3 of 4 is missing"):
        next(frames)


class Panic(BaseException):
    """Like pyo3's PanicException."""


@pytest.mark.parametrize("error", [Panic, MemoryError, RecursionError, StopIteration])
def test_whatever_a_decoder_raises_becomes_a_named_error(factory, tmp_path, speckle, monkeypatch, error):
    def broken(*_):
        raise error("inside the decoder")

    monkeypatch.setattr("sonodistill.frames.dicom_pixels.luma", broken)
    colour = np.repeat(speckle[..., None], 3, axis=-1)
    path = factory.save(factory.ultrasound(colour, photometric="RGB"), tmp_path / "e.dcm")
    with pytest.raises(UnreadableFileError, match="frame 1 of 4"):
        next(read(path))


def test_gdcm_is_never_used():
    assert "gdcm" not in sys.modules


def _changed(**attributes):
    return lambda ds: [setattr(ds, keyword, value) for keyword, value in attributes.items()]


def _transfer_syntax(value: str):
    return lambda ds: setattr(ds.file_meta, "TransferSyntaxUID", value)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (_changed(NumberOfFrames=5), UnreadableFileError, "truncated"),
        (_changed(NumberOfFrames=-5), UnreadableFileError, "-5 frames"),
        (_changed(NumberOfFrames=10**9), UnreadableFileError, "1000000000 frames"),
        (_changed(Rows=0), UnreadableFileError, "0 rows"),
        (_changed(Columns=65535), UnreadableFileError, "65535 columns"),
        (_changed(BitsAllocated=32, BitsStored=32), UnsupportedFormatError, "32 bits"),
        (_changed(PhotometricInterpretation="CMYK"), UnsupportedFormatError, "CMYK"),
        (_changed(PhotometricInterpretation="PALETTE COLOR"), UnreadableFileError, "lookup table"),
        (_changed(NumberOfFrames=3), UnreadableFileError, "states 3 frames, the file holds 4"),
        (lambda ds: ds.__delattr__("NumberOfFrames"), UnreadableFileError, "states 1 frames, the file holds 4"),
        (_changed(BitsStored=6, HighBit=7), UnsupportedFormatError, "lowest bits"),
        (_changed(SOPClassUID="1.2.840.10008.5.1.4.1.1.6.2"), UnsupportedFormatError, "Enhanced US Volume"),
        (
            _changed(SOPClassUID="1.2.840.113543.6.6.1.3.10002"),
            UnsupportedFormatError,
            "Philips private ultrasound volume",
        ),
        (_changed(SOPClassUID="1.2.3.4.5"), UnsupportedFormatError, "private SOP class 1.2.3.4.5"),
        (_changed(SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4"), UnsupportedFormatError, "Segmentation Storage"),
        (lambda ds: ds.__delattr__("PixelData"), UnreadableFileError, "no pixel data"),
        (lambda ds: ds.__delattr__("Rows"), UnsupportedFormatError, "holds no image"),
    ],
)
def test_the_header_is_refused_before_any_decoding(factory, tmp_path, speckle, change, error, message):
    ds = factory.ultrasound(speckle)
    change(ds)
    with pytest.raises(error, match=message):
        next(read(factory.save(ds, tmp_path / "bad.dcm")))


def test_unknown_transfer_syntax_is_named(factory, tmp_path, speckle):
    path = factory.save(
        factory.encapsulated(factory.ultrasound(speckle), uid.JPEG2000, [b"12"] * 4), tmp_path / "u.dcm"
    )
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.4.91", b"1.2.840.10008.1.2.4.99"))
    with pytest.raises(UnsupportedFormatError, match=r"unknown \(1\.2\.840\.10008\.1\.2\.4\.99\)"):
        next(read(path))


def test_truncated_files_are_refused(factory, tmp_path, speckle):
    whole = factory.save(factory.ultrasound(speckle), tmp_path / "whole.dcm").read_bytes()
    for kept in (len(whole) - 100, 600, 200):
        (tmp_path / "cut.dcm").write_bytes(whole[:kept])
        with pytest.raises((UnreadableFileError, UnsupportedFormatError)):
            next(read(tmp_path / "cut.dcm"))


def test_fewer_fragments_than_frames_are_refused(factory, tmp_path, speckle):
    ds = factory.encapsulated(factory.ultrasound(speckle), uid.JPEGBaseline8Bit, [jpeg(f) for f in speckle[:3]])
    with pytest.raises(UnreadableFileError, match="promises 4 frames, the file holds 3 fragments"):
        next(read(factory.save(ds, tmp_path / "f.dcm")))


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.RLELossless])
@pytest.mark.parametrize("stated", [1, 3])
def test_more_pictures_than_frames_are_refused(factory, tmp_path, speckle, syntax, stated):
    speckle = np.tile(speckle, (1, 2, 2))  # JPEG 2000 needs 32 x 32
    if syntax == uid.JPEGBaseline8Bit:
        encoded = [jpeg(frame) for frame in speckle]
    else:
        ds = factory.ultrasound(speckle)
        plugin = {uid.JPEGLSLossless: "pyjpegls", uid.RLELossless: "pydicom"}.get(syntax, "pylibjpeg")
        ds.compress(syntax, encoding_plugin=plugin)
        encoded = list(generate_frames(ds.PixelData, number_of_frames=4))
    ds = factory.encapsulated(factory.ultrasound(speckle), syntax, encoded, offset_table=False)
    assert sum(1 for _ in read(factory.save(ds, tmp_path / "all.dcm"))) == 4
    ds.NumberOfFrames = stated
    with pytest.raises(UnreadableFileError, match=f"states {stated} frames, the file holds 4"):
        next(read(factory.save(ds, tmp_path / "fewer.dcm")))


def test_bytes_beyond_the_last_frame_that_make_no_frame_are_padding(factory, tmp_path, speckle):
    ds = factory.ultrasound(speckle)
    ds.PixelData += bytes(100)
    np.testing.assert_array_equal(images(factory.save(ds, tmp_path / "p.dcm")), speckle)


def test_a_video_of_more_frames_than_stated_is_refused_after_those(factory, tmp_path):
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as output:
        stream = output.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shades in np.random.default_rng(0).integers(0, 256, (5, 48, 64), np.uint8):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(shades, format="gray")))
        output.mux(stream.encode())
    data = buffer.getvalue() + b"\0" * (len(buffer.getvalue()) % 2)
    ds = factory.ultrasound(np.zeros((4, 48, 64, 3), np.uint8), photometric="YBR_PARTIAL_420")
    ds = factory.encapsulated(ds, "1.2.840.10008.1.2.4.100", [data], offset_table=False)
    path = factory.save(ds, tmp_path / "v.dcm")
    frames = read(path)
    assert [next(frames).index for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(UnreadableFileError, match="states 4 frames, the file holds more"):
        next(frames)
    assert [frame.index for frame in read(path, only=[1, 3])] == [1, 3]
    ds.NumberOfFrames = 6
    with pytest.raises(UnreadableFileError, match="frame 6 of 6 is missing"):
        list(read(factory.save(ds, path)))


def test_native_ybr_full_422_of_an_odd_width_is_refused(factory, tmp_path):
    ds = factory.ultrasound(np.zeros((1, 24, 31, 3), np.uint8), photometric="YBR_FULL_422")
    ds.PixelData = bytes(24 * 32 * 2)
    with pytest.raises(UnsupportedFormatError, match="even number of columns"):
        next(read(factory.save(ds, tmp_path / "odd.dcm")))


def test_an_offset_table_that_denies_the_header_is_refused(factory, tmp_path, speckle):
    ds = factory.encapsulated(factory.ultrasound(speckle), uid.JPEGBaseline8Bit, [jpeg(f) for f in speckle])
    ds.NumberOfFrames = 1
    with pytest.raises(UnreadableFileError, match="states 1 frames, its offset table 4"):
        next(read(factory.save(ds, tmp_path / "o.dcm")))


def test_a_jpeg_of_another_size_than_the_header_is_refused(factory, tmp_path, speckle):
    ds = factory.encapsulated(factory.ultrasound(speckle[:1]), uid.JPEGBaseline8Bit, [jpeg(speckle[0, :10])])
    with pytest.raises(UnreadableFileError, match="its JPEG is 10 x 31"):
        next(read(factory.save(ds, tmp_path / "s.dcm")))


def test_malformed_headers_are_named_errors_that_never_quote_the_patient(factory, tmp_path, speckle, capfd):
    ds = factory.ultrasound(speckle, SequenceOfUltrasoundRegions=[factory.region(0, 0, 30, 23)])
    whole = factory.save(ds, tmp_path / "a.dcm").read_bytes()
    rng = np.random.default_rng(7)
    outcomes = set()
    for _ in range(150):
        data = bytearray(whole)
        for position in rng.integers(132, len(whole) - speckle.nbytes, 6):
            data[position] = rng.integers(256)
        (tmp_path / "b.dcm").write_bytes(data)
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                outcomes.add(sum(1 for _ in read(tmp_path / "b.dcm")))
        except (UnreadableFileError, UnsupportedFormatError) as error:
            outcomes.add(type(error).__name__)
            assert "Secret" not in str(error) and "SECRET" not in str(error)
        printed = "".join([*capfd.readouterr(), *(str(warning.message) for warning in warned)])
        assert "Secret" not in printed and "SECRET" not in printed
    assert {"UnreadableFileError", "UnsupportedFormatError"} <= outcomes


def test_a_text_file_named_dcm_is_no_dicom_file(tmp_path):
    (tmp_path / "note.dcm").write_text("dear radiologist " * 50)
    with pytest.raises(UnreadableFileError, match="not a DICOM file"):
        next(read(tmp_path / "note.dcm"))
