/** What Skylift adds to notebooks: "Run on…", completion in the `%%gpu` line, the live status line. */
import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { ICompletionProviderManager } from '@jupyterlab/completer';
import { INotebookTracker } from '@jupyterlab/notebook';
import { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { ISkylift } from '../tokens';
import { FollowedCalls } from './calls';
import { MagicCompletion } from './completion';
import { KnownLists } from './known';
import { addCommands, CommandIDs } from './run_on';
import { statusLineFactory } from './status_line';

export { showCell } from './show_cell';

/** The toolbar button, the shortcut and the entry of the cell's menu are in schema/notebook.json. */
const notebook: JupyterFrontEndPlugin<void> = {
  id: 'skylift:notebook',
  description: 'Says what a cell runs on: the command "Run on…" for the %%gpu line.',
  autoStart: true,
  requires: [ISkylift, INotebookTracker],
  optional: [ICommandPalette],
  activate: (
    app: JupyterFrontEnd,
    skylift: ISkylift,
    notebooks: INotebookTracker,
    palette: ICommandPalette | null,
  ) => {
    addCommands(app.commands, notebooks, skylift.gateway);
    for (const command of [CommandIDs.runOn, CommandIDs.runHere]) {
      palette?.addItem({
        command,
        category: 'Notebook Cell Operations',
        args: { isPalette: true },
      });
    }
  },
};

const completion: JupyterFrontEndPlugin<void> = {
  id: 'skylift:completion',
  description: 'Completes the %%gpu line.',
  autoStart: true,
  requires: [ISkylift, ICompletionProviderManager],
  activate: (_app: JupyterFrontEnd, skylift: ISkylift, completions: ICompletionProviderManager) => {
    completions.registerProvider(new MagicCompletion(new KnownLists(skylift.gateway)));
  },
};

const status: JupyterFrontEndPlugin<void> = {
  id: 'skylift:status-line',
  description: 'Keeps the status line of a %%gpu cell live, with a button that stops it.',
  autoStart: true,
  requires: [ISkylift, IRenderMimeRegistry],
  activate: (_app: JupyterFrontEnd, skylift: ISkylift, rendermime: IRenderMimeRegistry) => {
    rendermime.addFactory(
      statusLineFactory({
        gateway: skylift.gateway,
        calls: new FollowedCalls(skylift.gateway),
        openRun: (callId) => skylift.openRun(callId),
      }),
    );
  },
};

export const notebookPlugins: JupyterFrontEndPlugin<void>[] = [notebook, completion, status];
