/** Images of ultrasound in Cornerstone: which one is in view, what the server calls it, and where its labelmap is. */

export const SEGMENTATION = '1'; // the one that MONAI Label's panel makes
const LABELMAP = 'Labelmap';

/** The libraries that OHIF is built on: { cornerstone, cornerstoneTools }. */
export const librariesOf = extensionManager =>
  extensionManager
    .getModuleEntry('@ohif/extension-cornerstone.utilityModule.common')
    .exports.getCornerstoneLibraries();

/**
 * Give each ultrasound image a plane of its own, one unit behind the one before, in this viewer alone.
 *
 * Ultrasound has no position in the patient. Cornerstone tells by position which labelmap belongs to which image, and
 * takes one labelmap for all frames of a cine where there is none. The position is never stored nor sent.
 */
export const addPlanes = ({ metaData }) => {
  const places = new Map();
  let asking = false;
  metaData.addProvider((type, imageId) => {
    if (type !== 'imagePlaneModule' || asking || typeof imageId !== 'string' || imageId.startsWith('derived:')) {
      return undefined;
    }
    asking = true;
    try {
      const plane = metaData.get(type, imageId);
      const instance = metaData.get('instance', imageId);
      if (!plane || instance?.Modality !== 'US' || instance.ImagePositionPatient) {
        return undefined;
      }
      if (!places.has(imageId)) {
        places.set(imageId, places.size);
      }
      return {
        ...plane,
        rowCosines: [1, 0, 0],
        columnCosines: [0, 1, 0],
        imageOrientationPatient: [1, 0, 0, 0, 1, 0],
        imagePositionPatient: [0, 0, places.get(imageId)],
      };
    } finally {
      asking = false;
    }
  }, 100000);
};

/** The viewport that is active, and the id of the image in it; undefined where there is none. */
export const activeViewport = services =>
  services.cornerstoneViewportService.getCornerstoneViewport(services.viewportGridService.getActiveViewportId());

export const imageInView = services => activeViewport(services)?.getCurrentImageId?.();

/** What the server calls an image: the instance, or a frame of one as <instance>.f00012, counted from 0. */
export const nameOf = (imageId, { metaData }) => {
  const instance = metaData.get('instance', imageId);
  const frame = Number(/\/frames\/(\d+)$/.exec(imageId)?.[1] ?? 1);
  return instance.NumberOfFrames > 1
    ? `${instance.SOPInstanceUID}.f${String(frame - 1).padStart(5, '0')}`
    : instance.SOPInstanceUID;
};

/** The labelmaps of the panel's segmentation. */
export class Labelmaps {
  constructor(services, { cornerstone, cornerstoneTools }) {
    this.services = services;
    this.cornerstone = cornerstone;
    this.segmentation = cornerstoneTools.segmentation;
    this.modified = cornerstoneTools.Enums.Events.SEGMENTATION_DATA_MODIFIED;
  }

  /** Whether the panel has made a segmentation, which it does when it connects. */
  get ready() {
    return Boolean(this._data());
  }

  /** Its segments: [{ segmentIndex, label }]. */
  get segments() {
    return Object.values(this.segmentation.state.getSegmentation(SEGMENTATION)?.segments ?? {});
  }

  /** The labels (Uint8Array) of an image, to be read and written; made where there are none. */
  of(imageId) {
    if (!this._find(imageId)) {
      const shown = activeViewport(this.services)?.getImageIds() ?? [];
      this._add((shown.includes(imageId) ? shown : [imageId]).filter(each => !this._find(each)));
    }
    return this._find(imageId).voxelManager.getScalarData();
  }

  /** Draw what was written. */
  show() {
    const viewportId = this.services.viewportGridService.getActiveViewportId();
    this.services.segmentationService.addSegmentationRepresentation(viewportId, { segmentationId: SEGMENTATION });
    const { eventTarget, triggerEvent } = this.cornerstone;
    triggerEvent(eventTarget, this.modified, { segmentationId: SEGMENTATION });
  }

  _data() {
    return this.segmentation.state.getSegmentation(SEGMENTATION)?.representationData;
  }

  _find(imageId) {
    return (this._data()?.[LABELMAP]?.imageIds ?? [])
      .map(id => this.cornerstone.cache.getImage(id))
      .find(labelmap => labelmap?.referencedImageId === imageId);
  }

  _add(imageIds) {
    const held = this._data();
    const added = this.cornerstone.imageLoader.createAndCacheDerivedLabelmapImages(imageIds).map(each => each.imageId);
    const labelmap = { ...held[LABELMAP], imageIds: [...held[LABELMAP].imageIds, ...added] };
    this.segmentation.updateSegmentations([
      { segmentationId: SEGMENTATION, payload: { representationData: { ...held, [LABELMAP]: labelmap } } },
    ]);
  }
}
