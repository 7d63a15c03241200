import { Token } from '@lumino/coreutils';
import type { Gateway } from './gateway/rest';
import type { ISection } from './sidebar/section';

/** What Skylift's plugins share. */
export interface ISkylift {
  /** The one gateway of this page. */
  readonly gateway: Gateway;
  /** Opens a run in the main area (Notebook 7: at the right). */
  openRun(callId: string): void;
  /** Shows a section of the sidebar. */
  showSection(id: ISection['id']): void;
}

export const ISkylift = new Token<ISkylift>(
  'skylift:ISkylift',
  'The gateway that runs, volumes and machines come from.',
);
