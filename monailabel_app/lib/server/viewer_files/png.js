/** Gray PNG of 8 bits, whose values are numbers of labels: what a canvas writes has colours. */

const CRC = Uint32Array.from({ length: 256 }, (_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit += 1) {
    value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  }
  return value >>> 0;
});

const crcOf = bytes => ~bytes.reduce((value, byte) => CRC[(value ^ byte) & 0xff] ^ (value >>> 8), 0xffffffff) >>> 0;

const chunk = (type, data) => {
  const bytes = new Uint8Array(data.length + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(new TextEncoder().encode(type), 4);
  bytes.set(data, 8);
  view.setUint32(data.length + 8, crcOf(bytes.subarray(4, data.length + 8)));
  return bytes;
};

/** The PNG (Blob) of (rows, columns) values, row after row. */
export const encodedPng = async (values, rows, columns) => {
  const header = new Uint8Array(13);
  new DataView(header.buffer).setUint32(0, columns);
  new DataView(header.buffer).setUint32(4, rows);
  header[8] = 8; // bits, and the type of colour is 0, gray
  const lines = new Uint8Array(rows * (columns + 1)); // each after its filter, 0
  for (let row = 0; row < rows; row += 1) {
    lines.set(values.subarray(row * columns, (row + 1) * columns), row * (columns + 1) + 1);
  }
  const packed = await new Response(new Blob([lines]).stream().pipeThrough(new CompressionStream('deflate'))).arrayBuffer();
  const signature = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
  const parts = [signature, chunk('IHDR', header), chunk('IDAT', new Uint8Array(packed)), chunk('IEND', new Uint8Array())];
  return new Blob(parts, { type: 'image/png' });
};

/** The values (Uint8Array) of a gray PNG. Errors: another size. */
export const decodedPng = async (blob, rows, columns) => {
  const image = await createImageBitmap(blob, { colorSpaceConversion: 'none', premultiplyAlpha: 'none' });
  if (image.height !== rows || image.width !== columns) {
    throw new Error(`a label of ${image.height} x ${image.width} for an image of ${rows} x ${columns}`);
  }
  const canvas = new OffscreenCanvas(columns, rows);
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, columns, rows);
  return Uint8Array.from({ length: rows * columns }, (_, index) => data[4 * index]);
};
