/** The services of OHIF as MONAI Label's panel is to see them: the image in view as a volume of one slice. */
import { activeViewport, imageInView, Labelmaps, nameOf, SEGMENTATION } from './images.js';

const POINTS = 'ProbeMONAILabel'; // the panel's tool

/** `target` with some of its members replaced; the others stay bound to it. */
const withMembers = (target, members) =>
  new Proxy(target, {
    get(_, name) {
      if (name in members) {
        return members[name];
      }
      const value = target[name];
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });

/**
 * Which image each point of the panel was set on.
 *
 * The panel keeps the points of all labels, and of all images, by their place in the patient, which is one for all
 * frames of a cine. It sends those of one slice: slice 0 is the image in view here, and -1 any other.
 */
class Points {
  constructor({ cornerstone, cornerstoneTools }) {
    this.state = cornerstoneTools.annotation.state;
    this.images = new Map();
    const { ANNOTATION_ADDED, ANNOTATION_MODIFIED, ANNOTATION_COMPLETED } = cornerstoneTools.Enums.Events;
    for (const event of [ANNOTATION_ADDED, ANNOTATION_MODIFIED, ANNOTATION_COMPLETED]) {
      cornerstone.eventTarget.addEventListener(event, ({ detail }) => this._note(detail.annotation));
    }
  }

  sliceOf(point, image) {
    return (this.images.get(String(point))?.has(image) ?? true) ? 0 : -1;
  }

  /** Take away those of the label at hand that are not on `image`. */
  drop(image) {
    this.state
      .getAllAnnotations()
      .filter(({ metadata }) => metadata.toolName === POINTS && metadata.referencedImageId !== image)
      .forEach(({ annotationUID }) => this.state.removeAnnotation(annotationUID));
  }

  _note({ metadata, data }) {
    if (metadata.toolName === POINTS) {
      const key = String(data.handles.points[0]);
      this.images.set(key, (this.images.get(key) ?? new Set()).add(metadata.referencedImageId));
    }
  }
}

export const servicesForPanel = (services, libraries) => {
  const labelmaps = new Labelmaps(services, libraries);
  const points = new Points(libraries);
  let image = null; // that the panel asked about last: its answer belongs there, whatever is in view by then

  const displaySetService = withMembers(services.displaySetService, {
    getDisplaySetByUID: uid => {
      const displaySet = services.displaySetService.getDisplaySetByUID(uid);
      image = imageInView(services) ?? null;
      const slice = image && { SeriesInstanceUID: nameOf(image, libraries.cornerstone), numImageFrames: 1 };
      return slice && displaySet ? withMembers(displaySet, slice) : displaySet;
    },
  });

  const segmentationService = withMembers(services.segmentationService, {
    getLabelmapVolume: id => {
      if (id !== SEGMENTATION || !image) {
        return services.segmentationService.getLabelmapVolume(id);
      }
      const labels = labelmaps.of(image);
      return {
        voxelManager: {
          getCompleteScalarDataArray: () => labels,
          setCompleteScalarDataArray: values => {
            if (values.length !== labels.length) {
              throw new Error(`${values.length} labels for an image of ${labels.length} pixels`);
            }
            labels.set(values);
            labelmaps.show();
          },
        },
      };
    },
  });

  const cornerstoneViewportService = withMembers(services.cornerstoneViewportService, {
    getViewportInfo: id => {
      points.drop(image);
      const { imageData } = activeViewport(services).getImageData();
      const worldToIndex = point => [...imageData.worldToIndex(point).slice(0, 2), points.sliceOf(point, image)];
      return withMembers(services.cornerstoneViewportService.getViewportInfo(id), {
        viewportData: { data: [{ volume: { imageData: { worldToIndex } } }] },
      });
    },
  });

  return { ...services, displaySetService, segmentationService, cornerstoneViewportService };
};
