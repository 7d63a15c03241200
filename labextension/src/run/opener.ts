/** Opens runs in the main area, each once; in Notebook 7, which has one document there, at the right. */
import type { JupyterFrontEnd } from '@jupyterlab/application';
import { MainAreaWidget, WidgetTracker } from '@jupyterlab/apputils';
import type { INotebookTracker } from '@jupyterlab/notebook';
import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import type { Gateway } from '../gateway/rest';
import { skyliftIcon } from '../sidebar/icon';
import { RunView } from './run-view';

export class RunOpener {
  readonly tracker = new WidgetTracker<MainAreaWidget<RunView>>({ namespace: 'skylift-run' });

  constructor(
    private readonly _app: JupyterFrontEnd,
    private readonly _gateway: Gateway,
    private readonly _notebooks: INotebookTracker | null,
    private readonly _rendermime: IRenderMimeRegistry,
    private readonly _area: 'main' | 'right',
  ) {}

  open(callId: string): void {
    const { shell } = this._app;
    let widget = this.tracker.find((one) => one.content.callId === callId);
    if (!widget) {
      const content = new RunView({
        callId,
        app: this._app,
        gateway: this._gateway,
        notebooks: this._notebooks,
        rendermime: this._rendermime,
      });
      widget = new MainAreaWidget({ content });
      widget.toolbar.hide();
      widget.id = `jp-skylift-run-${callId}`;
      widget.title.icon = skyliftIcon;
      widget.title.closable = true;
      void this.tracker.add(widget);
    }
    if (!widget.isAttached) {
      shell.add(widget, this._area, { rank: 900 });
    }
    shell.activateById(widget.id);
  }
}
