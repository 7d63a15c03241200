/** What browsers have and jsdom lacks. */
const { TextDecoder, TextEncoder } = require('node:util');

globalThis.TextDecoder ??= TextDecoder;
globalThis.TextEncoder ??= TextEncoder;
globalThis.Request ??= class {};
globalThis.Headers ??= Map;
globalThis.fetch ??= () => Promise.reject(new Error('There is no network in these tests.'));
globalThis.DragEvent ??= class DragEvent extends MouseEvent {};
globalThis.ResizeObserver ??= class {
  observe() {}
  unobserve() {}
  disconnect() {}
};
globalThis.matchMedia ??= () => ({ matches: false, addListener() {}, removeListener() {} });
