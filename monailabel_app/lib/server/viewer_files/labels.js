/** Labels between the viewer and the server: save, accept or skip the image in view; show what was saved. */
import { activeViewport, imageInView, Labelmaps, nameOf } from './images.js';
import { decodedPng, encodedPng } from './png.js';

const ROUTE = '/sonodistill';
const COMMAND = 'sonodistillLabel';

const button = (id, icon, label, options) => ({
  id,
  uiType: 'ohif.radioGroup',
  props: {
    icon,
    label,
    tooltip: label,
    commands: { commandName: COMMAND, commandOptions: options },
    evaluate: 'evaluate.action',
  },
});

const brush = (id, icon, label, toolName) => ({
  id,
  uiType: 'ohif.radioGroup',
  props: {
    icon,
    label,
    tooltip: label,
    commands: { commandName: 'setToolActiveToolbar', commandOptions: { toolName, toolGroupIds: ['default'] } },
    evaluate: { name: 'evaluate.cornerstoneTool', toolNames: [toolName] },
  },
});

export const BUTTONS = [
  brush('SonoDistillBrush', 'icon-tool-brush', 'Brush', 'CircularBrush'),
  brush('SonoDistillEraser', 'icon-tool-eraser', 'Eraser', 'CircularEraser'),
  button('SonoDistillLoad', 'eye-visible', 'Show the labels that were saved', { action: 'load' }),
  button('SonoDistillSave', 'row-edit', 'Save the label of this image, unfinished', { action: 'edited' }),
  button('SonoDistillAccept', 'circled-checkmark', 'Accept the label of this image', { action: 'accepted' }),
  button('SonoDistillSkip', 'status-untracked', 'Skip this image: it is not to be labelled', { action: 'skipped' }),
];

const asked = async (path, options = {}) => {
  const response = await fetch(ROUTE + path, options);
  if (!response.ok) {
    const said = await response.json().catch(() => ({}));
    throw new Error(said.detail ?? `the server answered ${response.status}`);
  }
  return response;
};

export const commandsOf = (services, libraries) => {
  const { cornerstone } = libraries;
  const labelmaps = new Labelmaps(services, libraries);

  const say = (type, message) => services.uiNotificationService.show({ title: 'Label', message, type, duration: 4000 });

  /** [number on the server, number in the viewer] by the names of the labels. */
  const numbers = async () => {
    const { labels } = await (await asked('/items?limit=1')).json();
    const shown = new Map(labelmaps.segments.map(({ label, segmentIndex }) => [label, segmentIndex]));
    return labels.map((label, index) => [index + 1, shown.get(label)]);
  };

  const sizeOf = imageId => {
    const { rows, columns } = cornerstone.metaData.get('imagePlaneModule', imageId);
    return [rows, columns];
  };

  const save = async status => {
    const imageId = imageInView(services);
    const name = nameOf(imageId, cornerstone);
    if (status === 'skipped') {
      const body = JSON.stringify({ status });
      const headers = { 'Content-Type': 'application/json' };
      await asked(`/label/${name}/status`, { method: 'POST', body, headers });
      return;
    }
    const known = new Map((await numbers()).map(([server, viewer]) => [viewer, server]));
    const mask = labelmaps.of(imageId).map(value => (value === 0 ? 0 : (known.get(value) ?? 255)));
    if (mask.includes(255)) {
      throw new Error('it has a segment that is no label of the server');
    }
    const body = await encodedPng(mask, ...sizeOf(imageId));
    const headers = { 'Content-Type': 'image/png' };
    await asked(`/label/${name}?status=${status}`, { method: 'PUT', body, headers });
  };

  /** Fill the labelmaps that are empty, of the images of the stack, with what was saved of them. */
  const load = async () => {
    const known = new Map(await numbers());
    const shown = new Map(activeViewport(services).getImageIds().map(imageId => [nameOf(imageId, cornerstone), imageId]));
    const instances = new Set([...shown.keys()].map(name => name.replace(/\.f\d+$/, '')));
    let count = 0;
    for (const instance of instances) {
      const item = await (await asked(`/items/${instance}`)).json();
      for (const { id, status } of item.frames) {
        const imageId = shown.get(id) ?? shown.get(instance);
        if (!status || status === 'skipped' || !imageId || labelmaps.of(imageId).some(Boolean)) {
          continue;
        }
        const response = await asked(`/label/${id}`);
        if (response.status === 200) {
          const mask = await decodedPng(await response.blob(), ...sizeOf(imageId));
          labelmaps.of(imageId).set(mask.map(value => (value === 0 ? 0 : (known.get(value) ?? 0))));
          count += 1;
        }
      }
    }
    labelmaps.show();
    return count;
  };

  const run = async ({ action }) => {
    try {
      if (!labelmaps.ready) {
        throw new Error('connect the MONAI Label panel to the server first');
      }
      if (action === 'load') {
        say('success', `${await load()} labels are shown`);
      } else {
        await save(action);
        say('success', `This image is ${action}`);
      }
    } catch (error) {
      say('error', error.message);
    }
  };

  return { definitions: { [COMMAND]: { commandFn: run } }, actions: {}, defaultContext: 'SONODISTILL' };
};
