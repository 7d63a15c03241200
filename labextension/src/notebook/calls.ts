/** What the gateway tells of the calls whose cells are on the page. */
import type { IDisposable } from '@lumino/disposable';
import { DisposableDelegate } from '@lumino/disposable';
import type { Gateway } from '../gateway/rest';
import type { CallDetail, CallRow } from '../gateway/types';
import type { SeenCall } from './status';

const ENDED = ['done', 'failed', 'cancelled', 'timeout'];

/**
 * One watch for all calls that are followed; there is none while all of them are over.
 *
 * A call that is not in the list of those that are not over is asked for once, since it is over then: the list has told
 * of it, or its end came while the gateway was away.
 */
export class FollowedCalls {
  private readonly _followers = new Map<string, Set<(call: SeenCall) => void>>();
  private readonly _seen = new Map<string, SeenCall>();
  private readonly _asked = new Set<string>();
  private _watch: IDisposable | null = null;
  private _listed = false;

  constructor(
    private readonly _gateway: Gateway,
    private readonly _now: () => number = () => Date.now() / 1000,
  ) {}

  /** What was told last, or null. */
  get(callId: string): SeenCall | null {
    return this._seen.get(callId) ?? null;
  }

  /** Calls `changed` with what is told of the call from now on; at once, if something was. */
  follow(callId: string, changed: (call: SeenCall) => void): IDisposable {
    const followers = this._followers.get(callId) ?? new Set();
    this._followers.set(callId, followers.add(changed));
    const known = this._seen.get(callId);
    if (known) {
      changed(known);
    }
    this._open();
    this._ask(callId);
    return new DisposableDelegate(() => {
      followers.delete(changed);
      if (followers.size === 0 && this._followers.get(callId) === followers) {
        this._followers.delete(callId);
        this._seen.delete(callId);
        this._asked.delete(callId);
      }
      this._close();
    });
  }

  private _open(): void {
    if (this._watch || !this._anyRuns()) {
      return;
    }
    this._listed = false;
    this._watch = this._gateway.live.watch(
      { topic: 'calls' },
      {
        again: () => {
          this._listed = false;
          this._asked.clear();
        },
        frame: (frame) => {
          if (frame.type !== 'calls') {
            return;
          }
          this._listed = true;
          for (const row of frame.calls) {
            this._take(row);
          }
          for (const callId of this._followers.keys()) {
            this._ask(callId);
          }
          this._close();
        },
      },
    );
  }

  private _close(): void {
    if (this._watch && !this._anyRuns()) {
      this._watch.dispose();
      this._watch = null;
      this._listed = false;
    }
  }

  private _anyRuns(): boolean {
    return [...this._followers.keys()].some((callId) => {
      const known = this._seen.get(callId);
      return known ? !ENDED.includes(known.row.state) : !this._asked.has(callId);
    });
  }

  private _take(row: CallRow): void {
    const followers = this._followers.get(row.call_id);
    if (!followers) {
      return;
    }
    const call = { row, seen: this._now() };
    this._seen.set(row.call_id, call);
    this._asked.add(row.call_id);
    for (const changed of [...followers]) {
      changed(call);
    }
  }

  /** Where the list does not have it. */
  private _ask(callId: string): void {
    const known = this._seen.get(callId);
    if (!this._listed || this._asked.has(callId) || (known && ENDED.includes(known.row.state))) {
      return;
    }
    this._asked.add(callId);
    this._gateway.get<CallDetail>(`v1/calls/${callId}`).then(
      (detail) => {
        this._take(detail.call);
        this._open();
        this._close();
      },
      // The gateway has forgotten it, or is away, and then the list comes again.
      () => this._close(),
    );
  }
}
