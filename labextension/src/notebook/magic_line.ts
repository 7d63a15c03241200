/**
 * The `%%gpu` line of a cell, as text: found, read and edited.
 *
 * `magics/options.py` says what the line means; here only what has to be known to change it is read, and all else in
 * it stays as it was written.
 */
import { takesValue } from './options';

/** A word of the line and where it stands in the cell. */
export interface Word {
  /** Without its quotes. */
  text: string;
  start: number;
  end: number;
}

/** The line of a cell. */
export interface MagicLine {
  /** Where the line begins in the cell. */
  start: number;
  /** Where it ends, before its line break. */
  end: number;
  /** Where `%%gpu` ends. */
  afterName: number;
  words: Word[];
}

/** What the picker puts into the line. */
export interface Choice {
  /** `"H100"`, `"any"` or `"cpu"`. */
  gpu: string;
  count: number;
}

const MAGIC = /^[ \t]*%%gpu(?=\s|$)/;
const OTHER_MAGIC = /^[ \t]*%%\w/;

/**
 * The `%%gpu` line of a cell, or null. It is the first line with something on it; other cell magics, such as `%%time`,
 * may stand above it.
 */
export function findMagicLine(source: string): MagicLine | null {
  let start = 0;
  while (start <= source.length) {
    const lineBreak = source.indexOf('\n', start);
    const end = lineBreak < 0 ? source.length : lineBreak;
    const text = source.slice(start, end);
    const match = MAGIC.exec(text);
    if (match) {
      const afterName = start + match[0].length;
      return { start, end, afterName, words: splitWords(source.slice(afterName, end), afterName) };
    }
    if (text.trim() && !OTHER_MAGIC.test(text)) {
      return null;
    }
    start = end + 1;
  }
  return null;
}

/** What the line asks for, as it is written, such as `"H100:2,L4"`; "" where it names none. */
export function gpuOf(line: MagicLine): string {
  return gpuWords(line)
    .map((word) => word.text)
    .join('')
    .replace(/\s+/g, '');
}

/** The line's first choice, or null where it names none. */
export function choiceOf(line: MagicLine): Choice | null {
  const first = gpuOf(line).split(',')[0];
  if (!first) {
    return null;
  }
  const [name, count] = first.split(':');
  return { gpu: name.replace(/!$/, ''), count: Math.max(1, Number.parseInt(count, 10) || 1) };
}

/** The cell with a `%%gpu` line that asks for this, its other options kept. */
export function withGpu(source: string, choice: Choice): string {
  const line = findMagicLine(source);
  if (!line) {
    return `%%gpu ${gpuText(choice)}\n${source}`;
  }
  const words = gpuWords(line);
  const text = gpuText(choice, sameModelExact(line, choice));
  if (words.length === 0) {
    return `${source.slice(0, line.afterName)} ${text}${source.slice(line.afterName)}`;
  }
  // What is between the words of a list, as in "H100, L4", goes with them. Options in between stay.
  let result = source;
  for (const word of words.slice(1).reverse()) {
    const before = result.slice(0, word.start).replace(/[ \t]+$/, '');
    result = before + result.slice(word.end);
  }
  return result.slice(0, words[0].start) + text + result.slice(words[0].end);
}

/** The cell without its `%%gpu` line. */
export function withoutGpu(source: string): string {
  const line = findMagicLine(source);
  return line ? source.slice(0, line.start) + source.slice(line.end + 1) : source;
}

/** As it is written behind `%%gpu`: `"H100:8"`. */
export function gpuText(choice: Choice, exact = false): string {
  const name = choice.gpu + (exact ? '!' : '');
  return choice.gpu === 'cpu' || choice.count <= 1 ? name : `${name}:${choice.count}`;
}

/** The words of a shell-like line; `offset` is where it begins in the cell. */
export function splitWords(text: string, offset = 0): Word[] {
  const words: Word[] = [];
  const pattern = /(?:\\.|"(?:\\.|[^"\\])*(?:"|$)|'[^']*(?:'|$)|[^\s"'\\]|\\$)+/g;
  for (const match of text.matchAll(pattern)) {
    const start = offset + match.index;
    words.push({ text: unquoted(match[0]), start, end: start + match[0].length });
  }
  return words;
}

/** The words that name GPUs: neither options nor the values of options. */
export function gpuWords(line: MagicLine): Word[] {
  const found: Word[] = [];
  let value = false;
  for (const word of line.words) {
    if (value) {
      value = false;
    } else if (word.text.startsWith('-')) {
      value = !word.text.includes('=') && takesValue(word.text);
    } else {
      found.push(word);
    }
  }
  return found;
}

/** `H100!` stays one when only its count changes. */
function sameModelExact(line: MagicLine, choice: Choice): boolean {
  const [name] = gpuOf(line).split(',')[0].split(':');
  return name.endsWith('!') && name.slice(0, -1).toLowerCase() === choice.gpu.toLowerCase();
}

function unquoted(text: string): string {
  return text.replace(
    /\\(.)|"((?:\\.|[^"\\])*)"?|'([^']*)'?/g,
    (_, escaped?: string, double?: string, single?: string) =>
      escaped ?? double?.replace(/\\(["\\])/g, '$1') ?? single ?? '',
  );
}
