import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { INotebookTracker } from '@jupyterlab/notebook';
import type { TranslationBundle } from '@jupyterlab/translation';
import type React from 'react';
import type { Gateway } from '../gateway/rest';

/** What each section of the sidebar is given. */
export interface ISectionProps {
  gateway: Gateway;
  app: JupyterFrontEnd;
  notebooks: INotebookTracker | null;
  openRun(callId: string): void;
  translator: TranslationBundle;
}

/** A section of the sidebar. */
export interface ISection {
  id: 'runs' | 'volumes' | 'machines' | 'spend';
  title: string;
  Component: React.FC<ISectionProps>;
  /** Shown beside the title. */
  toolbar?: React.FC<ISectionProps>;
}
