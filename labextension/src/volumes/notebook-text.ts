/** What is shown of a notebook's text. */
import type * as nbformat from '@jupyterlab/nbformat';

/** More cells are only counted. */
const MOST_CELLS = 500;

/** One cell. */
export interface CellText {
  kind: 'code' | 'markdown' | 'raw';
  source: string;
  count: number | null;
  outputs: nbformat.IOutput[];
}

/** What is shown of a notebook. */
export interface NotebookText {
  language: string;
  cells: CellText[];
  /** Cells that are not shown. */
  more: number;
}

/** Reads a notebook's text; null where it is none. */
export function notebookOf(text: string): NotebookText | null {
  let read: Partial<nbformat.INotebookContent>;
  try {
    read = JSON.parse(text) as Partial<nbformat.INotebookContent>;
  } catch {
    return null;
  }
  if (typeof read !== 'object' || read === null || !Array.isArray(read.cells)) {
    return null;
  }
  const language = read.metadata?.language_info?.name ?? read.metadata?.kernelspec?.language;
  const cells = read.cells.filter((cell) => typeof cell === 'object' && cell !== null).map(cellOf);
  return {
    language: typeof language === 'string' ? language : 'python',
    cells: cells.slice(0, MOST_CELLS),
    more: Math.max(0, cells.length - MOST_CELLS),
  };
}

function cellOf(cell: nbformat.ICell): CellText {
  const source = joined(cell.source);
  const kind = cell.cell_type === 'code' || cell.cell_type === 'markdown' ? cell.cell_type : 'raw';
  const outputs =
    kind === 'code' && Array.isArray(cell.outputs) ? (cell.outputs as nbformat.IOutput[]) : [];
  return {
    kind,
    source,
    count: typeof cell.execution_count === 'number' ? cell.execution_count : null,
    outputs: outputs.filter((output) => typeof output?.output_type === 'string'),
  };
}

function joined(text: unknown): string {
  return Array.isArray(text) ? text.join('') : typeof text === 'string' ? text : '';
}

/** A block of Markdown that shows code, whatever is in it. */
export function fenced(code: string, language: string): string {
  const longest = Math.max(2, ...[...code.matchAll(/`+/g)].map((match) => match[0].length));
  const fence = '`'.repeat(longest + 1);
  return `${fence}${/^[\w+-]*$/.test(language) ? language : ''}\n${code}\n${fence}`;
}
