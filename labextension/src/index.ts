/** Skylift in JupyterLab and Notebook 7: the sidebar, the view of a run, and what it adds to notebooks. */
import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ILabShell, ILayoutRestorer } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { INotebookTracker } from '@jupyterlab/notebook';
import { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { Gateway } from './gateway/rest';
import { machinesSection } from './machines';
import { notebookPlugins } from './notebook';
import { RunOpener } from './run/opener';
import { runsSection } from './runs';
import type { ISection } from './sidebar';
import { Sidebar, skyliftIcon } from './sidebar';
import { spendSection } from './spend';
import { ISkylift } from './tokens';
import { volumePlugins, volumesSection } from './volumes';

const SECTIONS = [runsSection, volumesSection, machinesSection, spendSection];
const SHOW = 'skylift:show';
const OPEN_RUN = 'skylift:open-run';

const sidebar: JupyterFrontEndPlugin<ISkylift> = {
  id: 'skylift:sidebar',
  description: 'Runs, volumes, machines and spend of Skylift.',
  autoStart: true,
  provides: ISkylift,
  requires: [IRenderMimeRegistry],
  optional: [INotebookTracker, ILabShell, ILayoutRestorer, ITranslator, ICommandPalette],
  activate: (
    app: JupyterFrontEnd,
    rendermime: IRenderMimeRegistry,
    notebooks: INotebookTracker | null,
    labShell: ILabShell | null,
    restorer: ILayoutRestorer | null,
    translator: ITranslator | null,
    palette: ICommandPalette | null,
  ): ISkylift => {
    const gateway = new Gateway(app.serviceManager.serverSettings);
    const area = labShell ? 'main' : 'right';
    const opener = new RunOpener(app, gateway, notebooks, rendermime, area);
    const openRun = (callId: string) => opener.open(callId);
    const widget = new Sidebar(SECTIONS, {
      gateway,
      app,
      notebooks,
      openRun,
      translator: (translator ?? nullTranslator).load('skylift'),
    });
    widget.id = 'jp-skylift-sidebar';
    widget.title.icon = skyliftIcon;
    widget.title.caption = 'Skylift';
    widget.node.setAttribute('role', 'region');
    widget.node.setAttribute('aria-label', 'Skylift');
    app.shell.add(widget, 'left', { rank: 300, type: 'Skylift' });
    restorer?.add(widget, widget.id);

    const showSection = (id: ISection['id']) => {
      widget.shown = id;
      app.shell.activateById(widget.id);
    };
    for (const { id, title } of SECTIONS) {
      const command = `${SHOW}-${id}`;
      app.commands.addCommand(command, {
        label: `Show ${title}`,
        icon: skyliftIcon,
        execute: () => showSection(id),
      });
      palette?.addItem({ command, category: 'Skylift' });
    }
    app.commands.addCommand(OPEN_RUN, {
      label: 'Open Run',
      describedBy: {
        args: { type: 'object', properties: { callId: { type: 'string' } }, required: ['callId'] },
      },
      execute: (args) => openRun(args['callId'] as string),
    });
    if (restorer && labShell) {
      void restorer.restore(opener.tracker, {
        command: OPEN_RUN,
        args: (run) => ({ callId: run.content.callId }),
        name: (run) => run.content.callId,
      });
    }
    return { gateway, openRun, showSection };
  },
};

export default [sidebar, ...volumePlugins, ...notebookPlugins];
