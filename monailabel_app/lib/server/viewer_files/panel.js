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

export const servicesForPanel = (services, libraries) => {
  const labelmaps = new Labelmaps(services, libraries);
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

  /** Points that were set on other images say nothing of this one. */
  const dropOtherPoints = () => {
    const { state } = libraries.cornerstoneTools.annotation;
    state
      .getAllAnnotations()
      .filter(({ metadata }) => metadata.toolName === POINTS && metadata.referencedImageId !== image)
      .forEach(({ annotationUID }) => state.removeAnnotation(annotationUID));
  };

  const cornerstoneViewportService = withMembers(services.cornerstoneViewportService, {
    getViewportInfo: id => {
      dropOtherPoints();
      // Slice 0 is this image; a point of another one, which the panel kept, lies on another slice, and is left out.
      const { imageData } = activeViewport(services).getImageData();
      const worldToIndex = point => imageData.worldToIndex(point);
      return withMembers(services.cornerstoneViewportService.getViewportInfo(id), {
        viewportData: { data: [{ volume: { imageData: { worldToIndex } } }] },
      });
    },
  });

  return { ...services, displaySetService, segmentationService, cornerstoneViewportService };
};
