/**
 * OHIF 3.10, as MONAI Label 0.8.5 ships it, configured for ultrasound.
 *
 * Its MONAI Label mode takes CT and MR only, opens them as volumes, and its panel sends series and reads volumes back.
 * Ultrasound is no volume: here the mode opens stacks, and the panel is handed the image in view, a still or one frame
 * of a cine. Neither OHIF nor the panel is changed: both are configured through what they offer for it.
 */
import { addPlanes, librariesOf } from './images.js';
import { commandsOf, BUTTONS } from './labels.js';
import { servicesForPanel } from './panel.js';

const ID = '@sonodistill/extension-ultrasound';

/** A lazy view of `make()`'s members: services are registered later than panels. */
const later = make => {
  let made = null;
  return new Proxy({}, { get: (_, name) => (made ??= make())[name] });
};

const extension = stock => ({
  id: ID,

  preRegistration: ({ servicesManager, extensionManager }) => {
    const { cornerstone, cornerstoneTools } = librariesOf(extensionManager);
    addPlanes(cornerstone);
    // The player asks a stack for its volumes, which ends the viewport, unless it is told that it has none.
    servicesManager.services.cineService.setServiceImplementation({
      playClip: (element, options) => {
        const dynamicCineEnabled = cornerstone.getEnabledElement(element).viewport.type !== 'stack';
        return cornerstoneTools.utilities.cine.playClip(element, { dynamicCineEnabled, ...options });
      },
    });
  },

  getPanelModule: managers => {
    const { servicesManager, extensionManager } = managers;
    const services = later(() => servicesForPanel(servicesManager.services, librariesOf(extensionManager)));
    return stock.getPanelModule({ ...managers, servicesManager: { services } });
  },

  getCommandsModule: ({ servicesManager, extensionManager }) =>
    commandsOf(servicesManager.services, librariesOf(extensionManager)),
});

const mode = stock => ({
  ...stock,
  modeFactory: options => {
    const made = stock.modeFactory(options);
    const rightPanels = [`${ID}.panelModule.monailabel`];
    return {
      ...made,
      isValidMode: ({ modalities }) => ({
        valid: modalities.split('\\').includes('US'),
        description: 'For ultrasound',
      }),
      hangingProtocol: 'default',
      onModeEnter: managers => {
        made.onModeEnter(managers);
        const { toolbarService } = managers.servicesManager.services;
        toolbarService.addButtons(BUTTONS);
        toolbarService.createButtonSection('primary', BUTTONS.map(({ id }) => id)); // after those that are there
      },
      routes: made.routes.map(route => ({
        ...route,
        layoutTemplate: context => {
          const layout = route.layoutTemplate(context);
          return { ...layout, props: { ...layout.props, rightPanels } };
        },
      })),
    };
  },
});

/** What OHIF reads as window.config. */
export const configuration = async load => ({
  routerBasename: '/ohif/',
  showStudyList: true,
  extensions: [extension(await load('@ohif/extension-monai-label'))],
  modes: [mode(await load('@ohif/mode-monai-label'))], // of the same id, which is taken before the stock one
  groupEnabledModesFirst: true,
  showWarningMessageForCrossOrigin: true,
  showCPUFallbackMessage: true,
  showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true,
  useSharedArrayBuffer: 'FALSE',
  defaultDataSourceName: 'dicomweb',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'dicomweb',
      configuration: {
        friendlyName: 'The PACS of the annotation server',
        name: 'dicomweb',
        qidoRoot: '/proxy/dicom/qido',
        wadoRoot: '/proxy/dicom/wado',
        wadoUriRoot: '/proxy/dicom/wado',
        qidoSupportsIncludeField: true,
        supportsReject: false,
        dicomUploadEnabled: false,
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors',
        enableStudyLazyLoad: false,
        supportsFuzzyMatching: false,
        supportsWildcard: true,
        bulkDataURI: { enabled: true },
      },
    },
  ],
});
