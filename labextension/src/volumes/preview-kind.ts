/** How a file is looked at. */
import { endingOf } from './code';

export type PreviewKind = 'image' | 'table' | 'notebook' | 'text' | 'unknown';

const MEBIBYTE = 1024 * 1024;

/** Bytes that are read of a file to show it. */
export const READ: Record<Exclude<PreviewKind, 'image'>, number> = {
  table: 4 * MEBIBYTE,
  notebook: 20 * MEBIBYTE,
  text: MEBIBYTE,
  unknown: MEBIBYTE,
};

/** A larger image is not loaded unasked. */
export const LARGEST_IMAGE = 50 * MEBIBYTE;

/** Rows of a table that are shown. */
export const MOST_ROWS = 10_000;

const IMAGES = new Set(['png', 'jpg', 'jpeg', 'gif', 'webp', 'bmp', 'svg', 'ico', 'avif']);
const TABLES = new Set(['csv', 'tsv']);
const TEXTS = new Set(
  (
    'txt md markdown rst log py pyi ipy r jl c h cc cpp hpp cu cuh go rs java js mjs ts tsx jsx css html htm xml json ' +
    'jsonl ndjson yaml yml toml ini cfg conf env sh bash zsh fish sql tex bib lua rb pl swift kt scala proto diff patch ' +
    'gitignore dockerfile makefile csvs srt vtt'
  ).split(' '),
);

/** By a file's name. What is unknown is text where its bytes are. */
export function previewKind(name: string): PreviewKind {
  const ending = endingOf(name);
  if (IMAGES.has(ending)) {
    return 'image';
  }
  if (TABLES.has(ending)) {
    return 'table';
  }
  if (ending === 'ipynb') {
    return 'notebook';
  }
  return TEXTS.has(ending) ? 'text' : 'unknown';
}

/** Bytes as text: UTF-8 or else, where no NUL is among them, Windows-1252; null where they are no text. */
export function decodeText(
  bytes: Uint8Array,
  cut: boolean,
): { text: string; encoding: string } | null {
  if (
    bytes.length >= 2 &&
    ((bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes[0] === 0xfe && bytes[1] === 0xff))
  ) {
    const encoding = bytes[0] === 0xff ? 'utf-16le' : 'utf-16be';
    return { text: new TextDecoder(encoding).decode(bytes), encoding: 'UTF-16' };
  }
  if (bytes.subarray(0, 64 * 1024).includes(0)) {
    return null;
  }
  try {
    // With `stream` a character that is cut off at the end is no error.
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes, { stream: cut });
    return { text, encoding: 'UTF-8' };
  } catch {
    const control = bytes
      .subarray(0, 4096)
      .filter((byte) => byte < 32 && ![9, 10, 12, 13, 27].includes(byte)).length;
    if (control > 0) {
      return null;
    }
    return { text: new TextDecoder('windows-1252').decode(bytes), encoding: 'Windows-1252' };
  }
}
