/** What is known of an upload, and how it is sent. */
import type { Entry } from './api';

export type UploadState =
  | 'queued'
  | 'checking'
  | 'asking'
  | 'sending'
  | 'waiting'
  | 'storing'
  | 'done'
  | 'failed'
  | 'cancelled'
  | 'skipped';

/** One file. */
export interface Upload {
  readonly id: number;
  readonly volume: string;
  path: string;
  readonly file: File;
  state: UploadState;
  /** Bytes that are there. */
  sent: number;
  /** Bytes that were there already when it began: more than 0 where it goes on with an earlier one. */
  resumed: number;
  /** Bytes a second, lately. */
  speed: number;
  /** What is wrong, or what is asked. */
  problem: string;
}

/** What to do about a file that is there already. */
export type Answer = 'replace' | 'keep both' | 'skip';

/** How files are sent: skylift/uploads of the server extension. */
export interface Transport {
  begin(
    volume: string,
    path: string,
    size: number,
    modified: number,
    signal: AbortSignal,
  ): Promise<{ upload_id: string; offset: number }>;
  put(
    id: string,
    offset: number,
    part: ArrayBuffer,
    signal: AbortSignal,
  ): Promise<{ offset: number }>;
  finish(id: string, signal: AbortSignal): Promise<void>;
  cancel(id: string): Promise<void>;
  /** What is at a path of a volume, or null. */
  stat(volume: string, path: string): Promise<Entry | null>;
  /** Resolves when it may work again: after so many milliseconds, or when the gateway is back. */
  pause(milliseconds: number, signal: AbortSignal): Promise<void>;
}

/** Nothing more happens to it by itself. */
export function isOver(upload: Upload): boolean {
  return ['done', 'failed', 'cancelled', 'skipped'].includes(upload.state);
}

/** It would be lost, or have to be dropped again, if the page were closed. */
export function isUnderWay(upload: Upload): boolean {
  return !isOver(upload);
}
