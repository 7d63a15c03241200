/** What completion offers, from lists that are watched while somebody types in a `%%gpu` line. */
import type { IDisposable } from '@lumino/disposable';
import type { Gateway } from '../gateway/rest';
import type { HostView, ListTopic, SessionView } from '../gateway/types';

/** After so long without a question the lists are not watched any more. */
const KEPT = 60_000;
/** So long the first question waits for them. */
const PATIENCE = 400;

/** The lists, as they are now. */
export interface Lists {
  hosts: HostView[] | null;
  sessions: SessionView[] | null;
  volumes: string[] | null;
}

export class KnownLists {
  private _lists: Lists = { hosts: null, sessions: null, volumes: null };
  private _watches: IDisposable[] = [];
  private _timer = 0;
  private _complete: Promise<void> = Promise.resolve();

  constructor(private readonly _gateway: Gateway) {}

  /** What there is; the first time it waits a little for it, and gives what has come. */
  async get(): Promise<Lists> {
    window.clearTimeout(this._timer);
    this._timer = window.setTimeout(() => this._close(), KEPT);
    if (this._watches.length === 0) {
      this._open();
    }
    if (this._gateway.live.state === 'connected') {
      await Promise.race([
        this._complete,
        new Promise((done) => window.setTimeout(done, PATIENCE)),
      ]);
    }
    return this._lists;
  }

  private _open(): void {
    this._complete = Promise.all([
      this._watch('hosts', (rows) => (this._lists = { ...this._lists, hosts: rows as HostView[] })),
      this._watch(
        'sessions',
        (rows) => (this._lists = { ...this._lists, sessions: rows as SessionView[] }),
      ),
      this._watch('volumes', (rows) => {
        this._lists = {
          ...this._lists,
          volumes: (rows as { name: string }[]).map((row) => row.name),
        };
      }),
    ]).then(() => undefined);
  }

  private _watch(topic: ListTopic, take: (rows: unknown[]) => void): Promise<void> {
    return new Promise((come) => {
      this._watches.push(
        this._gateway.live.watch(
          { topic },
          {
            frame: (frame) => {
              if (frame.type === 'list') {
                take(frame.rows);
                come();
              }
            },
            error: () => come(),
          },
        ),
      );
    });
  }

  private _close(): void {
    this._watches.forEach((watch) => watch.dispose());
    this._watches = [];
    this._lists = { hosts: null, sessions: null, volumes: null };
  }
}
