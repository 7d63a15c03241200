/** What can be done with a run, from the list and from its view. */
import type { JupyterFrontEnd } from '@jupyterlab/application';
import { Clipboard, Dialog, Notification, showDialog } from '@jupyterlab/apputils';
import type { INotebookTracker } from '@jupyterlab/notebook';
import { NotebookActions } from '@jupyterlab/notebook';
import type { Gateway } from '../gateway/rest';
import type { CallRow } from '../gateway/types';
import { showCell } from '../notebook/show_cell';
import { FINAL } from '../runs/filters';

export interface IActionContext {
  app: JupyterFrontEnd;
  gateway: Gateway;
  notebooks: INotebookTracker | null;
}

/** Whether it can be cancelled still. */
export function canCancel(row: CallRow): boolean {
  return !FINAL.has(row.state);
}

/** Whether it can be run again from here: a cell can, a function's arguments are only known where it was called. */
export function canRetry(row: CallRow): boolean {
  return row.kind === 'cell' && row.cell !== '' && FINAL.has(row.state);
}

/** Whether a notebook can stream its output. */
export function canAttach(row: CallRow): boolean {
  return row.kind === 'cell';
}

/** Asks it to end. A cell is interrupted, so that its session and variables stay. Returns why not, or "". */
export async function cancel({ gateway }: IActionContext, row: CallRow): Promise<string> {
  try {
    const mode = row.kind === 'cell' ? 'interrupt' : 'cancel';
    await gateway.post(`v1/calls/${row.call_id}/cancel`, {
      mode,
      reason: 'cancelled in the sidebar',
    });
    return '';
  } catch (error) {
    return (error as Error).message;
  }
}

/** Scrolls to the cell of a run and runs it, as it is there now. Returns why not, or "". */
export async function retry(context: IActionContext, row: CallRow): Promise<string> {
  const problem = await showCell(context.app, context.notebooks, row);
  if (problem) {
    return problem;
  }
  const panel = context.notebooks?.currentWidget;
  if (!panel) {
    return 'There is no notebook here to run it in.';
  }
  await NotebookActions.run(panel.content, panel.sessionContext);
  return '';
}

/** Adds a cell with `%gpu attach` below the active one of the current notebook, and runs it. Returns why not, or "". */
export async function attach(context: IActionContext, row: CallRow): Promise<string> {
  const panel = context.notebooks?.currentWidget;
  if (!panel) {
    return 'Open a notebook first: the output is streamed into a new cell of it.';
  }
  context.app.shell.activateById(panel.id);
  NotebookActions.insertBelow(panel.content);
  panel.content.activeCell!.model.sharedModel.setSource(`%gpu attach ${row.call_id}`);
  await NotebookActions.run(panel.content, panel.sessionContext);
  return '';
}

export function copyId(row: CallRow): void {
  Clipboard.copyToSystem(row.call_id);
}

/** As `cancel`, but asks before it ends what has run for a while. */
export async function cancelAfterAsking(context: IActionContext, row: CallRow): Promise<string> {
  const minutes = row.started ? (Date.now() / 1000 - row.started) / 60 : 0;
  if (minutes >= 1) {
    const answer = await showDialog({
      title: 'Cancel this run?',
      body: `It has run for ${Math.round(minutes)} min. ${
        row.kind === 'cell'
          ? 'Its session and variables stay.'
          : 'What it has not returned yet is lost.'
      }`,
      buttons: [
        Dialog.cancelButton({ label: 'Keep it' }),
        Dialog.warnButton({ label: 'Cancel the run' }),
      ],
    });
    if (!answer.button.accept) {
      return '';
    }
  }
  return cancel(context, row);
}

/** Says what went wrong, if anything. */
export async function told(problem: Promise<string>): Promise<void> {
  const text = await problem;
  if (text) {
    Notification.warning(text, { autoClose: 8000 });
  }
}
