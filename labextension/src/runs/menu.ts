/** The menu of a run in the list. */
import { CommandRegistry } from '@lumino/commands';
import { Menu } from '@lumino/widgets';
import type { CallRow } from '../gateway/types';
import { showCell } from '../notebook/show_cell';
import type { IActionContext } from '../run/actions';
import {
  attach,
  cancelAfterAsking,
  canAttach,
  canCancel,
  canRetry,
  copyId,
  retry,
  told,
} from '../run/actions';

/** Opens it at a place of the page. */
export function openRunMenu(
  context: IActionContext,
  row: CallRow,
  openRun: (callId: string) => void,
  x: number,
  y: number,
): void {
  const commands = new CommandRegistry();
  const menu = new Menu({ commands });
  menu.addClass('jp-skylift-run-menu');
  const add = (
    command: string,
    label: string,
    execute: () => unknown,
    enabled = true,
    caption = '',
  ) => {
    commands.addCommand(command, { label, caption, isEnabled: () => enabled, execute });
    menu.addItem({ command });
  };
  add('open', 'Open', () => openRun(row.call_id));
  add(
    'show-cell',
    'Show the Cell',
    () => told(showCell(context.app, context.notebooks, row)),
    row.cell !== '',
  );
  menu.addItem({ type: 'separator' });
  add('cancel', 'Cancel', () => told(cancelAfterAsking(context, row)), canCancel(row));
  add(
    'retry',
    'Run the Cell Again',
    () => told(retry(context, row)),
    canRetry(row),
    'Cells only: the arguments of a function are known where it was called, and nowhere else',
  );
  add('attach', 'Attach in the Notebook', () => told(attach(context, row)), canAttach(row));
  menu.addItem({ type: 'separator' });
  add('copy-id', 'Copy ID', () => copyId(row));
  menu.aboutToClose.connect(() => {
    // What was chosen is carried out after it has closed.
    setTimeout(() => menu.dispose());
  });
  menu.open(x, y);
}
