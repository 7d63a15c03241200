/** The commands that say what a cell runs on. */
import { Dialog, ReactWidget, showErrorMessage } from '@jupyterlab/apputils';
import type { ICodeCellModel } from '@jupyterlab/cells';
import { isCodeCellModel } from '@jupyterlab/cells';
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import { NotebookActions } from '@jupyterlab/notebook';
import type { CommandRegistry } from '@lumino/commands';
import React from 'react';
import type { Gateway } from '../gateway/rest';
import { runOnIcon } from './icon';
import { choiceOf, findMagicLine, gpuOf, withGpu, withoutGpu } from './magic_line';
import type { Picked } from './picker';
import { Picker } from './picker';

export const CommandIDs = {
  /** Picks what the active cell runs on. With `gpu` (and `count`) there is no question. */
  runOn: 'skylift:run-on',
  /** Takes the `%%gpu` line of the active cell away. */
  runHere: 'skylift:run-here',
} as const;

const LOAD = '%load_ext skylift';
const LOADS = /^[ \t]*%(?:load_ext|reload_ext)[ \t]+skylift\b/m;

/** Adds both commands. */
export function addCommands(
  commands: CommandRegistry,
  notebooks: INotebookTracker,
  gateway: Gateway,
): void {
  const active = () => activeCell(notebooks);
  commands.addCommand(CommandIDs.runOn, {
    label: (args) => (args['toolbar'] ? '' : 'Run on…'),
    caption: 'Choose the GPU that this cell runs on (%%gpu)',
    icon: (args) => (args['toolbar'] || args['isPalette'] !== true ? runOnIcon : undefined),
    isEnabled: () => active() !== null,
    describedBy: {
      args: {
        type: 'object',
        properties: {
          gpu: {
            type: 'string',
            description: 'What is put into the %%gpu line, such as H100 or cpu',
          },
          count: { type: 'integer', minimum: 1, description: 'How many GPUs' },
        },
      },
    },
    execute: async (args) => {
      const cell = active();
      const panel = notebooks.currentWidget;
      if (!cell || !panel) {
        return;
      }
      if (typeof args['gpu'] === 'string') {
        apply(panel, cell, {
          choice: { gpu: args['gpu'], count: Number(args['count'] ?? 1) },
          load: false,
        });
        return;
      }
      await choose(panel, cell, gateway);
    },
  });
  commands.addCommand(CommandIDs.runHere, {
    label: 'Run here (remove %%gpu)',
    caption: 'Run this cell in the notebook’s own kernel',
    isEnabled: () => {
      const cell = active();
      return cell !== null && findMagicLine(cell.sharedModel.source) !== null;
    },
    describedBy: { args: { type: 'object', properties: {} } },
    execute: () => {
      const cell = active();
      const panel = notebooks.currentWidget;
      if (cell && panel) {
        apply(panel, cell, { choice: 'here', load: false });
      }
    },
  });
  const changed = () => {
    commands.notifyCommandChanged(CommandIDs.runOn);
    commands.notifyCommandChanged(CommandIDs.runHere);
  };
  notebooks.activeCellChanged.connect(changed);
  notebooks.currentChanged.connect(changed);
}

/** The active cell, where it holds code that can be changed. */
function activeCell(notebooks: INotebookTracker): ICodeCellModel | null {
  const model = notebooks.activeCell?.model;
  if (!model || !isCodeCellModel(model) || model.getMetadata('editable') === false) {
    return null;
  }
  return model;
}

async function choose(panel: NotebookPanel, cell: ICodeCellModel, gateway: Gateway): Promise<void> {
  const line = findMagicLine(cell.sharedModel.source);
  let picked: Picked | null = null;
  const body = ReactWidget.create(
    React.createElement(Picker, {
      gateway,
      current: line && choiceOf(line),
      currentText: line ? gpuOf(line) : '',
      offersLoad: !loadsSkylift(panel),
      picked: (now: Picked | null) => {
        picked = now;
      },
    }),
  );
  const put = Dialog.okButton({ label: 'Put into cell', ariaLabel: 'Put into cell' });
  const run = Dialog.okButton({
    label: 'Put and run',
    ariaLabel: 'Put into cell and run it',
    className: 'jp-skylift-run',
  });
  const dialog = new Dialog<unknown>({
    title: 'Run on…',
    body,
    buttons: [Dialog.cancelButton(), run, put],
    defaultButton: 2,
    focusNodeSelector: '.jp-skylift-picker-filter',
  });
  const { button } = await dialog.launch();
  const result = picked as Picked | null;
  if (!button.accept || !result || panel.isDisposed) {
    return;
  }
  const loading = apply(panel, cell, result);
  if (button.label !== run.label) {
    panel.content.activate();
    return;
  }
  const widgets = panel.content.widgets.filter((widget) =>
    [loading, cell.id].includes(widget.model.id),
  );
  try {
    await NotebookActions.runCells(panel.content, widgets, panel.sessionContext);
  } catch (error) {
    await showErrorMessage(
      'The cell was not run',
      error instanceof Error ? error.message : String(error),
    );
  }
}

/** Changes the cell; returns the id of a cell that was put above to load the magics, or "". */
function apply(panel: NotebookPanel, cell: ICodeCellModel, picked: Picked): string {
  const { sharedModel } = cell;
  const source = sharedModel.source;
  const wanted = picked.choice === 'here' ? withoutGpu(source) : withGpu(source, picked.choice);
  const [start, end, text] = difference(source, wanted);
  if (start !== end || text) {
    // Only what differs, so that the cursor stays where it is.
    sharedModel.updateSource(start, end, text);
  }
  if (!picked.load || loadsSkylift(panel)) {
    return '';
  }
  const added = panel.content.model?.sharedModel.insertCell(0, {
    cell_type: 'code',
    source: LOAD,
    metadata: { trusted: true },
  });
  return added?.getId() ?? '';
}

/** What of `from` is replaced by what, to make it `to`. */
export function difference(from: string, to: string): [start: number, end: number, text: string] {
  let start = 0;
  while (start < Math.min(from.length, to.length) && from[start] === to[start]) {
    start++;
  }
  let common = 0;
  while (
    common < Math.min(from.length, to.length) - start &&
    from[from.length - 1 - common] === to[to.length - 1 - common]
  ) {
    common++;
  }
  return [start, from.length - common, to.slice(start, to.length - common)];
}

function loadsSkylift(panel: NotebookPanel): boolean {
  return panel.content.widgets.some((widget) => LOADS.test(widget.model.sharedModel.source));
}
