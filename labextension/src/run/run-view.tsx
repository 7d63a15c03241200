import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { INotebookTracker } from '@jupyterlab/notebook';
import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { ReactWidget } from '@jupyterlab/ui-components';
import React from 'react';
import type { Gateway } from '../gateway/rest';

export interface IRunViewOptions {
  callId: string;
  app: JupyterFrontEnd;
  gateway: Gateway;
  notebooks: INotebookTracker | null;
  rendermime: IRenderMimeRegistry;
  openRun(callId: string): void;
}

/** One run. */
export class RunView extends ReactWidget {
  constructor(private readonly _options: IRunViewOptions) {
    super();
    this.addClass('jp-skylift-run');
    this.title.label = _options.callId;
  }

  get callId(): string {
    return this._options.callId;
  }

  protected override render(): JSX.Element {
    return <h2>Run {this._options.callId}</h2>;
  }
}
