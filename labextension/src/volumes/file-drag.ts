/** Files that are dragged out of the tree: into cells, where they become the code that opens them. */
import type { INotebookTracker } from '@jupyterlab/notebook';
import type { CodeTarget } from './code';
import { insertionAt, codeFor } from './code';
import { mountsOf } from './mounts';
import type { Row } from './tree-rows';

const TYPE = 'application/x-skylift-file';

/** Begin to drag a line. */
export function startFileDrag(event: DragEvent, row: Row): void {
  const target = targetOf(row);
  if (!event.dataTransfer || !target) {
    event.preventDefault();
    return;
  }
  event.dataTransfer.effectAllowed = 'copy';
  event.dataTransfer.setData(TYPE, JSON.stringify(target));
  // For any other place that takes text.
  event.dataTransfer.setData('text/plain', codeFor(target, []).expression);
}

/** What a line stands for in code, or null. */
export function targetOf(row: Row): CodeTarget | null {
  if (row.kind !== 'file' && row.kind !== 'link' && row.kind !== 'dir' && row.kind !== 'volume') {
    return null;
  }
  return {
    volume: row.place.volume,
    version: row.place.version,
    path: row.place.path,
    folder: row.kind === 'dir' || row.kind === 'volume',
  };
}

/** Cells take files of the tree. Returns what ends that. */
export function acceptFileDrags(notebooks: INotebookTracker): () => void {
  const cellUnder = (event: DragEvent) => {
    if (!event.dataTransfer?.types.includes(TYPE) || !(event.target instanceof Node)) {
      return null;
    }
    const node = event.target;
    for (const panel of openNotebooks(notebooks)) {
      if (panel.content.node.contains(node)) {
        const index = panel.content.widgets.findIndex((cell) => cell.node.contains(node));
        const cell = panel.content.widgets[index];
        return cell?.editor && cell.model.type === 'code' ? { panel, index, cell } : null;
      }
    }
    return null;
  };
  const over = (event: DragEvent) => {
    if (cellUnder(event) && event.dataTransfer) {
      event.preventDefault();
      event.dataTransfer.dropEffect = 'copy';
    }
  };
  const drop = (event: DragEvent) => {
    const found = cellUnder(event);
    const data = event.dataTransfer?.getData(TYPE);
    if (!found || !data) {
      return;
    }
    // The editor would insert the text of the drag.
    event.preventDefault();
    event.stopPropagation();
    const { panel, index, cell } = found;
    const editor = cell.editor;
    if (!editor) {
      return;
    }
    const text = cell.model.sharedModel.getSource();
    const position = editor.getPositionForCoordinate({
      left: event.clientX,
      right: event.clientX,
      top: event.clientY,
      bottom: event.clientY,
      x: event.clientX,
      y: event.clientY,
      width: 0,
      height: 0,
    } as DOMRect);
    const offset = position ? editor.getOffsetAt(position) : text.length;
    insertInto(panel.content, index, offset, JSON.parse(data) as CodeTarget);
  };
  document.addEventListener('dragover', over, true);
  document.addEventListener('drop', drop, true);
  return () => {
    document.removeEventListener('dragover', over, true);
    document.removeEventListener('drop', drop, true);
  };
}

type Notebook = NonNullable<INotebookTracker['currentWidget']>['content'];

function openNotebooks(notebooks: INotebookTracker) {
  const open: NonNullable<INotebookTracker['currentWidget']>[] = [];
  notebooks.forEach((panel) => open.push(panel));
  return open;
}

/** Insert the code into a cell, and go on writing after it. */
export function insertInto(
  notebook: Notebook,
  index: number,
  offset: number,
  target: CodeTarget,
): void {
  const cell = notebook.widgets[index];
  const source = cell.model.sharedModel.getSource();
  const { at, text } = insertionAt(source, offset, target, mountsOf(source));
  cell.model.sharedModel.updateSource(at, at, text);
  notebook.activeCellIndex = index;
  notebook.mode = 'edit';
  const editor = cell.editor;
  if (editor) {
    editor.focus();
    const position = editor.getPositionAt(at + text.length);
    if (position) {
      editor.setCursorPosition(position);
    }
  }
}

/** Insert the code into the cell that is being written. Returns what is in the way, or "". */
export function insertIntoActive(notebooks: INotebookTracker | null, target: CodeTarget): string {
  const notebook = notebooks?.currentWidget?.content;
  if (!notebook) {
    return 'Open a notebook first: the code goes into its active cell.';
  }
  const cell = notebook.activeCell;
  if (!cell || cell.model.type !== 'code' || !cell.editor) {
    return 'Choose a code cell of the notebook first: the code goes into it.';
  }
  const offset = cell.editor.getOffsetAt(cell.editor.getCursorPosition());
  // A cell that was just selected has its cursor at the beginning, where the magic line is.
  insertInto(notebook, notebook.activeCellIndex, offset, target);
  return '';
}
