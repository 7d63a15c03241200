/** Finds the cell that a run came from, opens its notebook where that is not open, and scrolls to it. */
import type { JupyterFrontEnd } from '@jupyterlab/application';
import { PageConfig } from '@jupyterlab/coreutils';
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { CallRow } from '../gateway/types';
import { pathsOf } from './notebook_paths';

const SHOWN_FOR = 1500;

/**
 * Scrolls to the cell of a run and makes it the active one.
 *
 * Returns "" when it is shown, else why it cannot be, for people.
 */
export async function showCell(
  app: JupyterFrontEnd,
  notebooks: INotebookTracker | null,
  call: Pick<CallRow, 'notebook' | 'cell'>,
): Promise<string> {
  if (!call.cell) {
    return 'This run was not started by a cell.';
  }
  if (!notebooks) {
    return 'There is no notebook here to show it in.';
  }
  const open: NotebookPanel[] = [];
  notebooks.forEach((panel) => open.push(panel));
  const paths = pathsOf(call.notebook, PageConfig.getOption('serverRoot'));
  // The id of a cell is its own; "In[3]" is known in its notebook alone.
  const [ofNotebook, others] = split(open, (panel) => paths.includes(panel.context.path));
  for (const panel of [...ofNotebook, ...(isNumbered(call.cell) ? [] : others)]) {
    if (await showIn(app, panel, call.cell)) {
      return '';
    }
  }
  if (ofNotebook.length > 0) {
    return `${ofNotebook[0].context.path} has this cell no more.`;
  }
  const panel = await openFirst(app, paths);
  if (!panel) {
    return `Its notebook, ${call.notebook}, is not to be found here. It may have been moved or renamed.`;
  }
  return (await showIn(app, panel, call.cell))
    ? ''
    : `${panel.context.path} has this cell no more.`;
}

/** The position of a cell by its id, or by the number of its run (`"In[3]"`); -1 where there is none. */
export function findCell(panel: NotebookPanel, cell: string): number {
  const cells = panel.content.model?.cells;
  for (let index = 0; cells && index < cells.length; index++) {
    const model = cells.get(index);
    const number = (model.sharedModel as { execution_count?: number | null }).execution_count;
    if (model.id === cell || (isNumbered(cell) && `In[${number}]` === cell)) {
      return index;
    }
  }
  return -1;
}

async function showIn(app: JupyterFrontEnd, panel: NotebookPanel, cell: string): Promise<boolean> {
  await panel.context.ready;
  await panel.revealed;
  const index = findCell(panel, cell);
  if (index < 0) {
    return false;
  }
  app.shell.activateById(panel.id);
  const notebook = panel.content;
  notebook.deselectAll();
  notebook.activeCellIndex = index;
  notebook.mode = 'command';
  await notebook.scrollToItem(index, 'center');
  notebook.activate();
  const node = notebook.widgets[index].node;
  node.classList.add('jp-skylift-shown');
  window.setTimeout(() => node.classList.remove('jp-skylift-shown'), SHOWN_FOR);
  return true;
}

async function openFirst(app: JupyterFrontEnd, paths: string[]): Promise<NotebookPanel | null> {
  const { contents } = app.serviceManager;
  for (const path of paths) {
    try {
      await contents.get(path, { content: false });
    } catch {
      continue;
    }
    const widget: unknown = await app.commands.execute('docmanager:open', {
      path,
      factory: 'Notebook',
    });
    return (widget as NotebookPanel | undefined) ?? null;
  }
  return null;
}

function isNumbered(cell: string): boolean {
  return cell.startsWith('In[');
}

function split<T>(values: T[], first: (value: T) => boolean): [T[], T[]] {
  return [values.filter(first), values.filter((value) => !first(value))];
}
