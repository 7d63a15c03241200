/** The Python that opens a file of a volume. */
import { baseName, joinPath, pythonString } from './names';
import type { Mount } from './mounts';

/** A file or a folder of a volume. */
export interface CodeTarget {
  volume: string;
  /** An older one, or null for the newest. */
  version: number | null;
  path: string;
  folder: boolean;
}

/** Code for it. */
export interface FileCode {
  /** Lines that import what `expression` needs. */
  imports: string[];
  /** What opens it. */
  expression: string;
  /** A name for what comes of it, or "" where it is best shown. */
  variable: string;
}

interface Opener {
  imports: string[];
  /** From the path or the file object, which `source` is. */
  open(source: string, path: boolean): string;
  /** It is for looking at. */
  shows?: boolean;
}

const pandas = (call: string, more = ''): Opener => ({
  imports: ['import pandas as pd'],
  open: (source) => `pd.${call}(${source}${more})`,
});

const image: Opener = {
  imports: ['from PIL import Image'],
  open: (source) => `Image.open(${source})`,
  shows: true,
};

const numpy: Opener = { imports: ['import numpy as np'], open: (source) => `np.load(${source})` };

const torch: Opener = {
  imports: ['import torch'],
  open: (source) => `torch.load(${source}, map_location="cpu")`,
};

const OPENERS: Record<string, Opener> = {
  csv: pandas('read_csv'),
  tsv: pandas('read_csv', ', sep="\\t"'),
  parquet: pandas('read_parquet'),
  feather: pandas('read_feather'),
  jsonl: pandas('read_json', ', lines=True'),
  ndjson: pandas('read_json', ', lines=True'),
  xlsx: pandas('read_excel'),
  npy: numpy,
  npz: numpy,
  pt: torch,
  pth: torch,
  png: image,
  jpg: image,
  jpeg: image,
  gif: image,
  bmp: image,
  tif: image,
  tiff: image,
  webp: image,
  json: {
    imports: ['import json'],
    open: (source, path) => `json.load(${path ? `open(${source})` : source})`,
  },
  ipynb: {
    imports: ['import json'],
    open: (source, path) => `json.load(${path ? `open(${source})` : source})`,
  },
};

const TEXT = new Set([
  'txt',
  'md',
  'py',
  'log',
  'yaml',
  'yml',
  'toml',
  'ini',
  'cfg',
  'html',
  'xml',
  'rst',
  'sh',
  'sql',
  'tex',
]);

/** Where a path of the volume is in a container, or null where no mount shows it. */
export function mountedPath(target: CodeTarget, mounts: readonly Mount[]): string | null {
  if (target.version !== null) {
    // A container has the newest version.
    return null;
  }
  const mount = mounts.find((each) => each.volume === target.volume);
  return mount
    ? joinPath(mount.path.replace(/\/+$/, ''), target.path).replace(/\/+$/, '') || '/'
    : null;
}

/** Code that opens it, in a cell that has these volumes mounted. */
export function codeFor(target: CodeTarget, mounts: readonly Mount[]): FileCode {
  const mounted = mountedPath(target, mounts);
  if (target.folder) {
    return mounted === null
      ? {
          imports: ['import skylift'],
          expression: `${handle(target)}.listdir(${pythonString('/' + target.path)})`,
          variable: '',
        }
      : {
          imports: ['import os'],
          expression: `os.listdir(${pythonString(mounted)})`,
          variable: '',
        };
  }
  const ending = endingOf(target.path);
  const opener = OPENERS[ending];
  if (mounted !== null) {
    const path = pythonString(mounted);
    if (opener) {
      return {
        imports: opener.imports,
        expression: opener.open(path, true),
        variable: opener.shows ? '' : variableFor(target.path),
      };
    }
    return {
      imports: [],
      expression: TEXT.has(ending) ? `open(${path}).read()` : `open(${path}, "rb").read()`,
      variable: variableFor(target.path),
    };
  }
  const bytes = `b"".join(${handle(target)}.read_file(${pythonString('/' + target.path)}))`;
  if (opener) {
    return {
      imports: ['import io', ...opener.imports, 'import skylift'].sort(importOrder),
      expression: opener.open(`io.BytesIO(${bytes})`, false),
      variable: opener.shows ? '' : variableFor(target.path),
    };
  }
  return {
    imports: ['import skylift'],
    expression: TEXT.has(ending) ? `${bytes}.decode()` : bytes,
    variable: variableFor(target.path),
  };
}

/** The same as lines, without the imports that the cell has already. */
export function statements(code: FileCode, cell: string): string {
  const have = new Set(cell.split('\n').map((line) => line.trim()));
  const imports = code.imports.filter((line) => !have.has(line));
  const last = code.variable ? `${code.variable} = ${code.expression}` : code.expression;
  return [...imports, ...(imports.length ? [''] : []), last].join('\n');
}

function handle(target: CodeTarget): string {
  const version = target.version === null ? '' : `.at(${target.version})`;
  return `skylift.Volume.from_name(${pythonString(target.volume)})${version}`;
}

function importOrder(one: string, other: string): number {
  const rank = (line: string) => (line === 'import io' || line === 'import json' ? 0 : 1);
  return rank(one) - rank(other) || (one.split(' ')[1] < other.split(' ')[1] ? -1 : 1);
}

/** A file's ending, in small letters: "csv". */
export function endingOf(path: string): string {
  const name = baseName(path);
  const dot = name.lastIndexOf('.');
  return dot > 0 ? name.slice(dot + 1).toLowerCase() : '';
}

const TAKEN = new Set(
  (
    'False None True and as assert async await break class continue def del elif else except finally for from global ' +
    'if import in is lambda nonlocal not or pass raise return try while with io json np os pd torch skylift Image open'
  ).split(' '),
);

/** A name of Python that looks like the file's. */
export function variableFor(path: string): string {
  const name = baseName(path);
  const dot = name.indexOf('.', 1);
  const stem = (dot > 0 ? name.slice(0, dot) : name)
    .toLowerCase()
    .replace(/[^a-z0-9_]+/g, '_')
    .replace(/^_+|_+$/g, '');
  if (!stem) {
    return 'data';
  }
  const begun = /^[0-9]/.test(stem) ? `data_${stem}` : stem;
  return TAKEN.has(begun) ? `${begun}_` : begun;
}

/** What to insert at a place in a cell, and where. */
export interface Insertion {
  /** Offset in the cell's text. */
  at: number;
  text: string;
}

/**
 * Where the code goes: in a call or an assignment that is being written only what opens the file, or its path where
 * that is enough; otherwise lines of their own, below a magic line and never in the middle of another one.
 */
export function insertionAt(
  cell: string,
  offset: number,
  target: CodeTarget,
  mounts: readonly Mount[],
): Insertion {
  const code = codeFor(target, mounts);
  const begin = cell.lastIndexOf('\n', offset - 1) + 1;
  const found = cell.indexOf('\n', offset);
  const end = found < 0 ? cell.length : found;
  const line = cell.slice(begin, end);
  const before = cell.slice(begin, offset);
  const magic = begin === 0 && line.startsWith('%%');
  const mounted = mountedPath(target, mounts);
  if (!magic && mounted !== null && inString(before)) {
    return { at: offset, text: pythonString(mounted).slice(1, -1) };
  }
  if (!magic && !inString(before)) {
    if (/[([,]\s*$/.test(before)) {
      return { at: offset, text: mounted === null ? code.expression : pythonString(mounted) };
    }
    if (/[^=]=\s*$/.test(before) && !line.slice(before.length).trim()) {
      return { at: offset, text: code.expression };
    }
  }
  const indent = /^[ \t]*/.exec(line)?.[0] ?? '';
  const text = statements(code, cell)
    .split('\n')
    .map((each, number) => (each && number ? indent + each : each))
    .join('\n');
  if (!magic && !line.trim()) {
    const rest = cell.slice(end);
    return { at: end, text: text + (rest.trim() && !rest.startsWith('\n') ? '\n' : '') };
  }
  return { at: end, text: `\n${magic ? '' : indent}${text}` };
}

/** Whether a line so far has an open string. */
function inString(before: string): boolean {
  let open = '';
  for (let at = 0; at < before.length; at++) {
    const letter = before[at];
    if (open) {
      if (letter === '\\') {
        at++;
      } else if (letter === open) {
        open = '';
      }
    } else if (letter === '"' || letter === "'") {
      open = letter;
    } else if (letter === '#') {
      return false;
    }
  }
  return open !== '';
}
