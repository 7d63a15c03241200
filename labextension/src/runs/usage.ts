/** What the runs in the list have used: while they run from the live feed, afterwards from the gateway's log. */
import type { IDisposable } from '@lumino/disposable';
import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';
import type { Gateway } from '../gateway/rest';
import type { CallRow, CallUsage, UsageSample } from '../gateway/types';
import { FINAL } from './filters';

/** Samples of one container that are kept. */
const KEPT = 300;
/** Runs whose use is kept. */
const RUNS = 1000;
/** Shorter runs have no line to show. */
const SHORTEST = 2;
const AT_ONCE = 4;
const PATIENCE = 200;

type LiveGateway = Pick<Gateway, 'get'> & { live: Pick<Gateway['live'], 'watch'> };

export class RunUsage implements IDisposable {
  private readonly _containers = new Map<string, UsageSample[]>();
  private readonly _runs = new Map<string, UsageSample[]>();
  private readonly _changed = new Signal<this, void>(this);
  private readonly _watch: IDisposable;
  private _wanted: CallRow[] = [];
  private _timer: ReturnType<typeof setTimeout> | null = null;
  private _asking = 0;
  private _disposed = false;

  constructor(private readonly _gateway: LiveGateway) {
    this._watch = _gateway.live.watch(
      { topic: 'usage' },
      {
        frame: (frame) => {
          if (frame.type === 'usage') {
            for (const { container_id, samples } of frame.containers) {
              this._containers.set(
                container_id,
                added(this._containers.get(container_id), samples),
              );
            }
            this._changed.emit();
          }
        },
      },
    );
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get isDisposed(): boolean {
    return this._disposed;
  }

  /** What is known of a run. */
  samples(row: CallRow): readonly UsageSample[] {
    const kept = this._runs.get(row.call_id);
    if (kept) {
      return kept;
    }
    const samples = this._containers.get(row.container_id);
    return samples && row.started ? within(samples, row.started, row.ended || Infinity) : [];
  }

  /** Ask for those of `rows` that are over, once it is quiet. */
  want(rows: readonly CallRow[]): void {
    this._wanted = rows.filter(
      (row) =>
        FINAL.has(row.state) &&
        row.started > 0 &&
        row.ended - row.started >= SHORTEST &&
        !this._runs.has(row.call_id),
    );
    if (this._timer !== null) {
      clearTimeout(this._timer);
    }
    this._timer = setTimeout(() => {
      this._timer = null;
      this._ask();
    }, PATIENCE);
  }

  dispose(): void {
    if (!this._disposed) {
      this._disposed = true;
      this._watch.dispose();
      if (this._timer !== null) {
        clearTimeout(this._timer);
      }
      Signal.clearData(this);
    }
  }

  private _ask(): void {
    while (this._asking < AT_ONCE && this._wanted.length && !this._disposed) {
      const { call_id } = this._wanted.shift()!;
      if (this._runs.has(call_id)) {
        continue;
      }
      this._asking++;
      this._gateway
        .get<CallUsage>(`v1/calls/${call_id}/usage`)
        .then(
          ({ samples }) => {
            this._runs.set(call_id, samples);
            if (this._runs.size > RUNS) {
              this._runs.delete(this._runs.keys().next().value!);
            }
            this._changed.emit();
          },
          // There is no line then; the next time it is asked for again.
          () => undefined,
        )
        .finally(() => {
          this._asking--;
          this._ask();
        });
    }
  }
}

/** `known` and what is new in `samples`, the latest of both. */
export function added(
  known: readonly UsageSample[] | undefined,
  samples: readonly UsageSample[],
): UsageSample[] {
  const last = known?.length ? known[known.length - 1][0] : -Infinity;
  return [...(known ?? []), ...samples.filter(([time]) => time > last)].slice(-KEPT);
}

/** The samples from `start` to `end`. */
export function within(samples: readonly UsageSample[], start: number, end: number): UsageSample[] {
  return samples.filter(([time]) => time >= start && time <= end + 1);
}

/** Of a sparkline: GPU use where there is a GPU, else cores in use; and what is at the top. */
export function lineOf(samples: readonly UsageSample[]): {
  values: number[];
  max: number;
  gpu: boolean;
} {
  const gpu = samples.some((sample) => sample[3] !== null);
  const values = samples.map((sample) => (gpu ? (sample[3] ?? 0) : sample[1]));
  return { values, max: gpu ? 1 : Math.max(1, ...values), gpu };
}
