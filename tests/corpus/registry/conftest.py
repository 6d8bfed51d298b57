"""Miniature data sets: a builder for published layouts, and what every adapter has to fulfil on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sonodistill.frames as frames


class Builder:
    """Writes the files of a miniature; every image is distinct, so that none is a copy of another."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._count = 0

    def image(self, name: str, size=(40, 48), value: int | None = None, box=None, colour=False) -> Path:
        """A speckled image, or one of a constant value; ``box`` (top, left, bottom, right) is set to 255."""
        self._count += 1
        pixels = np.random.default_rng(self._count).integers(20, 200, size, np.uint8)
        if value is not None:
            pixels[:] = value
        if box is not None:
            pixels[box[0] : box[2], box[1] : box[3]] = 255
        return self._save(name, np.repeat(pixels[..., None], 3, 2) if colour else pixels)

    def mask(self, name: str, size=(40, 48), box=(10, 12, 20, 30), value=255, background=0) -> Path:
        """A mask image; ``value`` may be a gray value or an (R, G, B) colour."""
        colour = isinstance(value, tuple)
        pixels = np.full((*size, 3) if colour else size, background, np.uint8)
        if box is not None:
            pixels[box[0] : box[2], box[1] : box[3]] = value
        return self._save(name, pixels)

    def text(self, name: str, text: str) -> Path:
        path = self._place(name)
        path.write_text(text, encoding="utf-8")
        return path

    def volume(self, name: str, array, spacing=None) -> Path:
        """A volume in numpy order (slowest axis first), by SimpleITK."""
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(np.asarray(array))
        if spacing is not None:
            image.SetSpacing(tuple(reversed(spacing)))
        path = self._place(name)
        sitk.WriteImage(image, str(path))
        return path

    def video(self, name: str, count=3, size=(48, 64), fps=25) -> Path:
        """An MPEG-4 clip of speckle in the container that the name's suffix says."""
        import av

        path = self._place(name)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=fps)
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            for number in range(count):
                self._count += 1
                gray = np.random.default_rng(self._count).integers(0, 255, size, np.uint8)
                gray[: 4 + number] = 0
                frame = av.VideoFrame.from_ndarray(np.repeat(gray[..., None], 3, 2), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    def _save(self, name: str, pixels) -> Path:
        path = self._place(name)
        Image.fromarray(pixels).save(path, **({"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg") else {}))
        return path

    def _place(self, name: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@pytest.fixture
def folder(tmp_path) -> Builder:
    """An empty miniature, one level below a folder of its own."""
    return Builder(tmp_path / "parent" / "data set")


@pytest.fixture
def conforms():
    """``conforms(data_set, root, unexpected=())`` asserts what every adapter must fulfil, and returns the items."""

    def assert_conforms(data, root, unexpected=()):
        items = data.items(root)
        assert [item.file for item in items] == sorted(
            (item.file for item in items), key=lambda file: file.relative_to(data.locate(root).base).as_posix()
        )
        assert items == data.items(root)
        assert len({item.file for item in items}) == len(items) > 0
        assert all(item.group for item in items)
        for item in items:
            for frame in frames.read(item.file, axis=item.axis, only=item.only):
                if item.mask is not None and (item.mask.frames is None or frame.index in item.mask.frames):
                    mask = item.mask.load(frame.image.shape, frame.index)
                    assert mask.shape == frame.image.shape
                    assert mask.dtype == np.uint8
        report = data.check(root)
        assert report.unexpected == tuple(unexpected)
        # Whatever is reported missing is missing only because a miniature is small.
        assert all(" published" in line for line in report.missing), report.missing
        # Another data set beside it, and one folder more above it, change nothing.
        beside = root.parent / "another data set"
        beside.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(beside / "unrelated picture of nothing.tiff")
        assert data.items(root.parent) == items
        return items

    return assert_conforms


@pytest.fixture
def notices():
    """``notices(data_set, root, lost, says)``: a file that is lost is reported missing, a stray one as unexpected."""

    def assert_notices(data, root, lost, says):
        stray = root / "stray folder" / "stray.qqq"
        stray.parent.mkdir()
        stray.touch()
        base = data.locate(root).base
        assert data.check(root).unexpected == (stray.relative_to(base).as_posix(),)
        before = data.check(root).missing
        (root / lost).unlink()
        after = [line for line in data.check(root).missing if line not in before]
        assert any(says in line for line in after), after

    return assert_notices
