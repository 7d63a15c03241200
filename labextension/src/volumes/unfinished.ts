/** Uploads that broke off with their page: so that it can be said which files to drop again. */
import { Signal } from '@lumino/signaling';
import type { ISignal } from '@lumino/signaling';

/** One of them. */
export interface Unfinished {
  /** The server's id of it. */
  id: string;
  volume: string;
  path: string;
  size: number;
  /** Of the file, in milliseconds. */
  modified: number;
  sent: number;
}

/** Where texts are kept by name. */
export type TextStore = Pick<Storage, 'getItem' | 'setItem' | 'removeItem'>;

const MOST = 50;

/** Kept in the browser, for one Jupyter server. */
export class UnfinishedUploads {
  constructor(
    private readonly store: TextStore,
    private readonly name: string,
  ) {
    try {
      const kept: unknown = JSON.parse(store.getItem(name) ?? '[]');
      this._all = Array.isArray(kept) ? kept.filter(isUnfinished) : [];
    } catch {
      this._all = [];
    }
    // Those of this page are on their way; only what was there before is unfinished.
    this._before = new Set(this._all.map((each) => each.id));
  }

  /** The list has changed. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** Those that an earlier page began. */
  get left(): readonly Unfinished[] {
    return this._all.filter((each) => this._before.has(each.id));
  }

  /** Remember how far it is. It is on its way now. */
  set(upload: Unfinished): void {
    const known = this._before.delete(upload.id);
    this._all = [...this._all.filter((each) => each.id !== upload.id), upload].slice(-MOST);
    this.keep();
    if (known) {
      this._changed.emit();
    }
  }

  /** It has arrived, or is given up. */
  delete(id: string): void {
    const known = this._before.delete(id);
    if (this._all.some((each) => each.id === id)) {
      this._all = this._all.filter((each) => each.id !== id);
      this.keep();
    }
    if (known) {
      this._changed.emit();
    }
  }

  private keep(): void {
    try {
      if (this._all.length) {
        this.store.setItem(this.name, JSON.stringify(this._all));
      } else {
        this.store.removeItem(this.name);
      }
    } catch {
      // A browser that keeps nothing: the same file dropped again goes on all the same.
    }
  }

  private _all: Unfinished[];
  private _before: Set<string>;
  private _changed = new Signal<this, void>(this);
}

function isUnfinished(value: unknown): value is Unfinished {
  const given = value as Unfinished;
  return (
    typeof value === 'object' &&
    value !== null &&
    [given.id, given.volume, given.path].every((each) => typeof each === 'string') &&
    [given.size, given.modified, given.sent].every((each) => typeof each === 'number')
  );
}
