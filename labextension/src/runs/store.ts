/** The runs that the page knows: what the live feed tells, and older ones page by page as they are scrolled to. */
import type { IDisposable } from '@lumino/disposable';
import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';
import type { Gateway } from '../gateway/rest';
import type { CallDetail, CallPage, CallRow } from '../gateway/types';
import type { RunFilter } from './filters';
import { EVERYTHING, FINAL, matches, queryOf } from './filters';

const PAGE = 200;
/** After the gateway was away: so many runs are looked through for what has happened meanwhile. */
const CAUGHT_UP = 1000;
/** And so many are asked for one by one. */
const MOST_ASKED = 50;

type LiveGateway = Pick<Gateway, 'get'> & { live: Pick<Gateway['live'], 'watch'> };

export class RunStore implements IDisposable {
  private readonly _rows = new Map<string, CallRow>();
  /** Their ids, newest first. */
  private _order: string[] = [];
  private _sorted = true;
  /** When a run was last told of by the live feed, as a count of frames. */
  private readonly _told = new Map<string, number>();
  private _frames = 0;
  private _filter = EVERYTHING;
  private _next: string | null = null;
  /** Of the pages of this filter: the oldest run's time. Older ones are not listed, since there are gaps between them. */
  private _reached = Infinity;
  private _complete = false;
  private _loading = false;
  private _turn = 0;
  private _problem = '';
  private _visible: CallRow[] | null = null;
  private _counted = false;
  private readonly _changed = new Signal<this, void>(this);
  private readonly _watch: IDisposable;
  private _disposed = false;

  constructor(private readonly _gateway: LiveGateway) {
    let again = false;
    this._watch = _gateway.live.watch(
      { topic: 'calls' },
      {
        again: () => {
          again = true;
        },
        frame: (frame) => {
          if (frame.type !== 'calls') {
            return;
          }
          this._counted = true;
          this._frames++;
          for (const row of frame.calls) {
            this._told.set(row.call_id, this._frames);
            this._put(row);
          }
          this._emit();
          if (again) {
            again = false;
            void this._catchUp();
          }
        },
        error: (problem) => {
          this._problem = problem.message;
          this._emit();
        },
      },
    );
    void this.more();
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get isDisposed(): boolean {
    return this._disposed;
  }

  get filter(): RunFilter {
    return this._filter;
  }

  set filter(filter: RunFilter) {
    this._filter = filter;
    this._next = null;
    this._reached = Infinity;
    this._complete = false;
    this._loading = false;
    this._turn++;
    this._emit();
    void this.more();
  }

  /** Why the list is not whole, for people; or "". */
  get problem(): string {
    return this._problem;
  }

  /** Whether there is anything to show yet. */
  get known(): boolean {
    return this._counted || this._complete || this._reached < Infinity;
  }

  get loading(): boolean {
    return this._loading;
  }

  /** Whether all of this filter are here. */
  get complete(): boolean {
    return this._complete;
  }

  get(callId: string): CallRow | undefined {
    return this._rows.get(callId);
  }

  /** Notebooks that the runs here are of. */
  get notebooks(): string[] {
    return [...new Set([...this._rows.values()].map((row) => row.notebook).filter(Boolean))];
  }

  /** Runs of this filter, newest first. The same array until something changes. */
  get visible(): CallRow[] {
    if (this._visible) {
      return this._visible;
    }
    if (!this._sorted) {
      this._order = [...this._rows.values()].sort(newestFirst).map((row) => row.call_id);
      this._sorted = true;
    }
    this._visible = this._order
      .map((id) => this._rows.get(id)!)
      .filter(
        (row) =>
          (this._complete ||
            row.queued >= this._reached ||
            !FINAL.has(row.state) ||
            this._told.has(row.call_id)) &&
          matches(row, this._filter),
      );
    return this._visible;
  }

  /** Load the next page, unless that is under way or all are here. */
  async more(): Promise<void> {
    if (this._loading || this._complete || this._disposed) {
      return;
    }
    const turn = this._turn;
    this._loading = true;
    try {
      const page = await this._page(queryOf(this._filter), this._next, PAGE);
      if (turn !== this._turn) {
        return;
      }
      this._problem = '';
      this._next = page.next;
      this._complete = !page.next;
      this._reached = page.calls.reduce(
        (oldest, row) => Math.min(oldest, row.queued),
        this._reached,
      );
    } catch (error) {
      if (turn === this._turn) {
        this._problem = (error as Error).message;
      }
    } finally {
      if (turn === this._turn) {
        this._loading = false;
        this._emit();
      }
    }
  }

  dispose(): void {
    if (!this._disposed) {
      this._disposed = true;
      this._watch.dispose();
      Signal.clearData(this);
    }
  }

  private async _page(query: object, before: string | null, limit: number): Promise<CallPage> {
    const asked = this._frames;
    const page = await this._gateway.get<CallPage>('v1/calls', {
      ...query,
      before: before || undefined,
      limit,
    });
    for (const row of page.calls) {
      // What the feed has told meanwhile is newer.
      if ((this._told.get(row.call_id) ?? -1) <= asked) {
        this._put(row);
      }
    }
    return page;
  }

  /** What began or ended while the gateway was away. */
  private async _catchUp(): Promise<void> {
    const open = [...this._rows.values()].filter((row) => !FINAL.has(row.state));
    try {
      const page = await this._page({}, null, CAUGHT_UP);
      const listed = new Set(page.calls.map((row) => row.call_id));
      for (const row of open.filter((one) => !listed.has(one.call_id)).slice(0, MOST_ASKED)) {
        try {
          this._put((await this._gateway.get<CallDetail>(`v1/calls/${row.call_id}`)).call);
        } catch (error) {
          if ((error as { status?: number }).status === 404) {
            this._rows.delete(row.call_id);
            this._sorted = false;
          }
        }
      }
      this._problem = '';
    } catch (error) {
      this._problem = (error as Error).message;
    }
    this._emit();
    void this.more();
  }

  private _put(row: CallRow): void {
    const known = this._rows.get(row.call_id);
    // A call that is over stays so: an answer may be older than what the feed has told.
    if (known && FINAL.has(known.state) && !FINAL.has(row.state)) {
      return;
    }
    this._rows.set(row.call_id, row);
    this._sorted &&= known !== undefined;
  }

  private _emit(): void {
    this._visible = null;
    if (!this._disposed) {
      this._changed.emit();
    }
  }
}

function newestFirst(a: CallRow, b: CallRow): number {
  return b.queued - a.queued || (a.call_id < b.call_id ? 1 : a.call_id > b.call_id ? -1 : 0);
}
