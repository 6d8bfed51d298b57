"""What Slicer's Sequences do to masks if they are let, each trap as it is, and that the store keeps out of it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer_core", reason="needs slicer-core: pip install slicer-core")

from slicer_cines import cine_of, draw_as_segment_editor, square
from UltrasoundSegmentLib.frames.image import matrix_of
from UltrasoundSegmentLib.masks import pixels
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.masks.store import MaskStore

import slicer

SIZE = (48, 64)
SPOT = square(SIZE, 10, 10, 6)


class Plain:
    """A synchronised sequence of segmentations as the Sequences module makes it, with masks on the frames named."""

    def __init__(self, cine, frames=(), save=False):
        self.cine = cine
        self.segment_ids = ("lesion",)
        self.sequence = cine.scene.AddNewNodeByClass("vtkMRMLSequenceNode", "plain")
        self.sequence.SetIndexName(cine.images.GetIndexName())
        self.sequence.SetIndexUnit(cine.images.GetIndexUnit())
        for index in frames:
            node = slicer.vtkMRMLSegmentationNode()
            node.GetSegmentation().SetSourceRepresentationName(pixels.BINARY)
            node.GetSegmentation().AddEmptySegment("lesion", "lesion")
            self.sequence.SetDataNodeAtValue(node, cine.images.GetNthIndexValue(index))
        cine.browser.AddSynchronizedSequenceNode(self.sequence.GetID())
        if save:
            cine.browser.SetSaveChanges(self.sequence, True)
        cine.select(cine.count - 1)
        cine.select(0)

    def segmentation_proxy(self):
        return self.cine.browser.GetProxyNode(self.sequence)

    def shown(self):
        return self.read(self.segmentation_proxy())

    def stored(self, index):
        node = self.sequence.GetDataNodeAtValue(self.cine.images.GetNthIndexValue(index), True)
        return None if node is None else self.read(node)

    def read(self, node):
        return pixels.read(node.GetSegmentation(), self.segment_ids, SIZE, matrix_of(self.cine.volume(0)))


@pytest.fixture
def cine(scene):
    return cine_of(scene)


def test_without_save_changes_an_edit_is_lost(cine):
    plain = Plain(cine, frames=range(6))
    assert not cine.browser.GetSaveChanges(plain.sequence)
    cine.select(2)
    draw_as_segment_editor(plain, SPOT > 0)
    assert plain.shown().any()
    cine.select(3)
    cine.select(2)
    assert not plain.stored(2).any()
    assert not plain.shown().any()

    store = MaskStore.of(cine, ["lesion"])
    assert cine.browser.GetSaveChanges(store.sequence)
    draw_as_segment_editor(store, SPOT > 0)
    cine.select(3)
    np.testing.assert_array_equal(store.mask(2), SPOT)


def test_a_sequence_without_items_shows_one_mask_on_every_frame(cine):
    plain = Plain(cine, frames=[0])
    cine.browser.SetMissingItemMode(plain.sequence, cine.browser.MissingItemIgnore)
    draw_as_segment_editor(plain, SPOT > 0)
    cine.select(4)
    assert plain.shown().any()
    assert plain.stored(4) is None

    store = MaskStore.of(cine, ["lesion"])
    draw_as_segment_editor(store, SPOT > 0)
    cine.select(5)
    np.testing.assert_array_equal(
        pixels.read(store.segmentation_proxy().GetSegmentation(), store.segment_ids, SIZE, matrix_of(cine.volume(5))), 0
    )


def test_visiting_a_frame_stores_a_copy_of_the_mask_before_it(cine):
    plain = Plain(cine, frames=[0], save=True)
    assert cine.browser.GetMissingItemMode(plain.sequence) == cine.browser.MissingItemCreateFromPrevious
    cine.select(0)
    draw_as_segment_editor(plain, SPOT > 0)
    cine.select(4)
    np.testing.assert_array_equal(plain.stored(4), SPOT)

    store = MaskStore.of(cine, ["lesion"])
    assert cine.browser.GetMissingItemMode(store.sequence) == cine.browser.MissingItemCreateFromDefault
    cine.select(0)
    draw_as_segment_editor(store, SPOT > 0)
    cine.select(4)
    np.testing.assert_array_equal(store.mask(4), 0)
    assert store.status(4) is Status.EMPTY


def test_an_item_made_from_default_has_no_segments(cine):
    plain = Plain(cine, frames=[0], save=True)
    cine.browser.SetMissingItemMode(plain.sequence, cine.browser.MissingItemCreateFromDefault)
    cine.select(3)
    assert plain.segmentation_proxy().GetSegmentation().GetNumberOfSegments() == 0

    store = MaskStore.of(cine, ["lesion", "cyst"])
    for index in range(cine.count):
        cine.select(index)
        assert store.segmentation_proxy().GetSegmentation().GetNumberOfSegments() == 2


def test_a_frame_added_later_gets_segments_of_its_own_and_no_mask(cine):
    store = MaskStore.of(cine, ["lesion"])
    cine.select(cine.count - 1)
    store.write(cine.count - 1, SPOT, Status.EDITED, annotator="anna")
    volume = slicer.vtkMRMLScalarVolumeNode()
    volume.CopyContent(cine.volume(0), True)
    cine.images.SetDataNodeAtValue(volume, "9.5")
    again = MaskStore.of(cine, ["lesion"])
    cine.select(cine.count - 1)
    np.testing.assert_array_equal(again.mask(cine.count - 1), 0)
    assert again.status(cine.count - 1) is Status.EMPTY
    np.testing.assert_array_equal(again.mask(cine.count - 2), SPOT)


def test_the_proxys_old_attributes_are_stored_over_the_frames_by_an_edit(cine):
    plain = Plain(cine, frames=range(6), save=True)
    cine.select(2)
    plain.segmentation_proxy().SetAttribute("SonoDistill.status", "predicted")
    plain.sequence.GetNthDataNode(2).SetAttribute("SonoDistill.status", "accepted")
    plain.segmentation_proxy().Modified()
    draw_as_segment_editor(plain, SPOT > 0)
    assert plain.sequence.GetNthDataNode(2).GetAttribute("SonoDistill.status") == "predicted"

    store = MaskStore.of(cine, ["lesion"])
    cine.select(3)
    store.write(3, SPOT, Status.PREDICTED)
    store.mark(3, Status.ACCEPTED, "anna")
    draw_as_segment_editor(store, SPOT > 0)
    cine.select(4)
    assert store.status(3) is Status.ACCEPTED


def test_a_segment_removed_in_one_frame_is_missing_there_alone(cine):
    plain = Plain(cine, frames=range(6), save=True)
    cine.select(2)
    plain.segmentation_proxy().GetSegmentation().RemoveSegment("lesion")
    cine.select(3)
    cine.select(2)
    counts = [plain.sequence.GetNthDataNode(index).GetSegmentation().GetNumberOfSegments() for index in range(6)]
    assert counts == [1, 1, 0, 1, 1, 1]

    store = MaskStore.of(cine, ["lesion"])
    store.watch()
    store.segmentation_proxy().GetSegmentation().RemoveSegment(store.segment_ids[0])
    assert store.segmentation_proxy().GetSegmentation().GetNumberOfSegments() == 1


def test_frames_nearer_than_a_millisecond_keep_masks_of_their_own(scene):
    """A sequence takes index values within its tolerance, of 1 ms if nothing is said, for one."""
    cine = cine_of(scene, count=4, seconds=0.0005)
    store = MaskStore.of(cine, ["lesion"])
    assert store.sequence.GetNumberOfDataNodes() == 4
    for index in range(4):
        store.write(index, square(SIZE, index, 0, 5), Status.EDITED, annotator="anna")
    for index in range(4):
        np.testing.assert_array_equal(store.mask(index), square(SIZE, index, 0, 5))
