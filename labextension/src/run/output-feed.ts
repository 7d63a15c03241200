/** The output of a run as it comes: its log, what it displayed, and its error. */
import type { IDisposable } from '@lumino/disposable';
import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';
import type { Gateway } from '../gateway/rest';
import type { CallDetail, OutputItem, OutputPage } from '../gateway/types';
import { LogBuffer } from './log-buffer';

/** Of longer outputs, only so many of the last events are read; Download has all. */
const MOST_EVENTS = 200_000;
const PAGE = 5000;
const MOST_SHOWN = 100;

/** Something that was displayed. */
export interface Shown {
  seq: number;
  /** Updates come to the same one; "" for those that have none. */
  displayId: string;
  data: Record<string, unknown>;
  metadata: Record<string, unknown>;
  /** How often it was updated. */
  updates: number;
}

type LiveGateway = Pick<Gateway, 'get' | 'fetch'> & { live: Pick<Gateway['live'], 'watch'> };

export class OutputFeed implements IDisposable {
  private _log = new LogBuffer();
  private _shown: Shown[] = [];
  private _left = 0;
  private _errors: string[] = [];
  private _over = false;
  private _problem = '';
  private _watch: IDisposable | null = null;
  private _begun = false;
  private readonly _refilling = new Set<number>();
  private readonly _changed = new Signal<this, void>(this);
  private _disposed = false;

  constructor(
    private readonly _gateway: LiveGateway,
    readonly callId: string,
  ) {}

  /** Emitted when any of the following has changed. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get isDisposed(): boolean {
    return this._disposed;
  }

  get log(): LogBuffer {
    return this._log;
  }

  /** What was displayed, the last ones. */
  get shown(): readonly Shown[] {
    return this._shown;
  }

  /** How many more were displayed before. */
  get leftOut(): number {
    return this._left;
  }

  /** Tracebacks. */
  get errors(): readonly string[] {
    return this._errors;
  }

  /** Whether nothing comes any more. */
  get over(): boolean {
    return this._over;
  }

  get problem(): string {
    return this._problem;
  }

  /** Begin, once it is known how much there is. */
  begin(detail: CallDetail): void {
    if (this._begun || this._disposed) {
      return;
    }
    this._begun = true;
    this._log = new LogBuffer(Math.max(detail.events - MOST_EVENTS, 0));
    this._watch = this._gateway.live.watch(
      () => ({ topic: 'output', call_id: this.callId, from_seq: this._log.nextSeq }),
      {
        frame: (frame) => {
          if (frame.type === 'output') {
            this._take(frame.items, frame.next_seq);
            this._over = frame.over;
            this._problem = '';
            this._changed.emit();
          }
        },
        error: (problem) => {
          this._problem = problem.message;
          this._changed.emit();
        },
      },
    );
  }

  /** Load the lines around `index`, where they are not kept. */
  async refill(index: number): Promise<void> {
    const part = this._log.missing(index);
    if (!part || this._refilling.has(part.fromSeq)) {
      return;
    }
    this._refilling.add(part.fromSeq);
    try {
      const items: OutputItem[] = [];
      for await (const page of this.pages(part.fromSeq, part.endSeq)) {
        items.push(...page);
      }
      this._log.refill(part.fromSeq, items);
    } catch (error) {
      this._problem = (error as Error).message;
    } finally {
      this._refilling.delete(part.fromSeq);
      this._changed.emit();
    }
  }

  /** The output from `fromSeq` up to, but without, `endSeq`, by REST. Throws `GatewayError`. */
  async *pages(fromSeq: number, endSeq = Infinity): AsyncGenerator<OutputItem[]> {
    for (let more = true; more && fromSeq < endSeq;) {
      const page = await this._gateway.get<OutputPage>(`v1/calls/${this.callId}/output`, {
        from_seq: fromSeq,
        limit: Math.min(PAGE, endSeq - fromSeq),
      });
      yield page.items;
      more = page.more && page.next_seq > fromSeq;
      fromSeq = page.next_seq;
    }
  }

  /** All that it printed, with its escapes, as a file. Throws `GatewayError`. */
  async text(): Promise<Blob> {
    const parts: string[] = [];
    for await (const page of this.pages(0)) {
      parts.push(
        page
          .map((item) => (item.kind === 'output' || item.kind === 'error' ? item.text : ''))
          .join(''),
      );
    }
    return new Blob(parts, { type: 'text/plain;charset=utf-8' });
  }

  dispose(): void {
    if (!this._disposed) {
      this._disposed = true;
      this._watch?.dispose();
      Signal.clearData(this);
    }
  }

  private _take(items: readonly OutputItem[], nextSeq: number): void {
    for (const item of items) {
      if (item.seq < this._log.nextSeq) {
        continue;
      }
      if (item.kind === 'display' || item.kind === 'value') {
        void this._show(item);
      } else if (item.kind === 'clear') {
        this._shown = [];
        this._left = 0;
      } else if (item.kind === 'error' && item.text) {
        this._errors = [...this._errors, item.text].slice(-20);
      }
    }
    this._log.push(items, nextSeq);
  }

  private async _show(item: OutputItem): Promise<void> {
    const displayId = typeof item.meta['display_id'] === 'string' ? item.meta['display_id'] : '';
    const known = item.meta['update']
      ? this._shown.find((one) => one.displayId === displayId)
      : undefined;
    if (item.meta['update'] && !known) {
      return;
    }
    const entry: Shown = known ?? { seq: item.seq, displayId, data: {}, metadata: {}, updates: 0 };
    if (!known) {
      // In its place, before its data may have to be loaded.
      this._shown = [...this._shown, entry];
      if (this._shown.length > MOST_SHOWN) {
        this._left += this._shown.length - MOST_SHOWN;
        this._shown = this._shown.slice(-MOST_SHOWN);
      }
    }
    let bundle: { data?: Record<string, unknown>; metadata?: Record<string, unknown> };
    try {
      bundle = JSON.parse(await this._json(item)) as typeof bundle;
    } catch (error) {
      bundle = { data: { 'text/plain': `It could not be loaded: ${(error as Error).message}` } };
    }
    this._shown = this._shown.map((one) =>
      one.seq === entry.seq
        ? {
            ...one,
            data: bundle.data ?? {},
            metadata: bundle.metadata ?? {},
            updates: one.updates + 1,
          }
        : one,
    );
    this._changed.emit();
  }

  private async _json(item: OutputItem): Promise<string> {
    if (item.text || !item.blob) {
      return item.text;
    }
    return (await this._gateway.fetch(`v1/blobs/${item.blob}`)).text();
  }
}
