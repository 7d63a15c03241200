/** What a cell's status line says: what the kernel has shown, carried on with what the gateway tells of the call. */
import type { CallRow } from '../gateway/types';
import { dollars, duration } from '../ui/formats';

/** What the kernel displays the line as: see `DisplayLine` in magics/status.py. */
export const STATUS_MIME = 'application/vnd.skylift.status+json';

export type Phase =
  | 'sending'
  | 'queued'
  | 'running'
  | 'done'
  | 'failed'
  | 'cancelled'
  | 'timeout'
  | 'interrupted'
  | 'detached';

/** One line: `CellState.data` in magics/status.py. */
export interface StatusData {
  call_id: string;
  where: string[];
  phase: Phase;
  /** In this phase; of a finished cell: that it ran. */
  seconds: number;
  detail: string;
  use: string;
  price: number;
  cost: number;
  note: string;
}

/** What the gateway has told of a call, and when. */
export interface SeenCall {
  row: CallRow;
  /** Unix time. */
  seen: number;
}

const WORDS: Record<Phase, string> = {
  sending: 'starting',
  queued: 'queued',
  running: 'running',
  done: 'done in',
  failed: 'failed after',
  cancelled: 'cancelled after',
  timeout: 'timed out after',
  interrupted: 'interrupted after',
  detached: 'runs on without the notebook',
};

/** Whether the kernel has told how the cell ended. */
export function isOver(phase: Phase): boolean {
  return !['sending', 'queued', 'running', 'detached'].includes(phase);
}

/** The line in a notebook's output, or null where it is not what we know. */
export function readStatus(value: unknown): StatusData | null {
  if (typeof value !== 'object' || value === null) {
    return null;
  }
  const data = value as Partial<StatusData>;
  if (typeof data.phase !== 'string' || !(data.phase in WORDS) || !Array.isArray(data.where)) {
    return null;
  }
  const text = (given: unknown) => (typeof given === 'string' ? given : '');
  const figure = (given: unknown) => (typeof given === 'number' ? given : 0);
  return {
    call_id: text(data.call_id),
    where: data.where.map(String),
    phase: data.phase,
    seconds: figure(data.seconds),
    detail: text(data.detail),
    use: text(data.use),
    price: figure(data.price),
    cost: figure(data.cost),
    note: text(data.note),
  };
}

/**
 * The line as it is `now` (Unix time). `shown` is when the kernel gave it. Without a call to go by it stays as the kernel
 * left it: nobody knows whether the cell still runs.
 */
export function carriedOn(
  data: StatusData,
  shown: number,
  call: SeenCall | null,
  now: number,
): StatusData {
  if (!call || isOver(data.phase)) {
    return data;
  }
  const { row, seen } = call;
  const price = row.price || data.price;
  if (row.state === 'queued') {
    const seconds =
      data.phase === 'queued' ? data.seconds + since(shown, now) : since(row.queued, now);
    return { ...data, phase: 'queued', seconds, detail: row.detail || data.detail };
  }
  const where =
    data.phase === 'running' || !row.gpu ? data.where : [row.gpu, ...data.where.slice(1)];
  if (row.state === 'running') {
    // The kernel's count does not depend on whether this machine's clock is the gateway's.
    const seconds =
      data.phase === 'running' ? data.seconds + since(shown, now) : since(row.started, now);
    const cost = Math.max(row.cost + (price / 3600) * since(seen, now), data.cost);
    return { ...data, where, phase: 'running', seconds, detail: '', price, cost };
  }
  const seconds = row.started ? Math.max(row.ended - row.started, 0) : 0;
  const note = data.phase === 'detached' ? data.note : '';
  return {
    ...data,
    where,
    phase: row.state,
    seconds,
    detail: '',
    use: '',
    price,
    cost: row.cost,
    note,
  };
}

/** What the cell does: `"running 12 s"`. */
export function phaseText(data: StatusData): string {
  const words = WORDS[data.phase];
  if (data.phase === 'queued') {
    const waited = data.seconds >= 1 ? `${words} ${duration(data.seconds)}` : words;
    return data.detail ? `${waited}: ${data.detail}` : waited;
  }
  return data.phase === 'sending' || data.phase === 'detached'
    ? words
    : `${words} ${duration(data.seconds)}`;
}

/** The parts of the line after the first, which is what it runs on. */
export function parts(data: StatusData): string[] {
  const cost = data.phase === 'sending' || data.phase === 'queued' || data.phase === 'detached';
  return [...data.where.slice(1), phaseText(data), data.use, cost ? '' : dollars(data.cost)].filter(
    Boolean,
  );
}

/** What a screen reader says when it changes: the line without its figures. */
export function spokenText(data: StatusData): string {
  const doing = isOver(data.phase)
    ? phaseText(data)
    : WORDS[data.phase] + (data.detail ? `: ${data.detail}` : '');
  return `${data.where[0]}: ${doing}`;
}

function since(time: number, now: number): number {
  return time ? Math.max(now - time, 0) : 0;
}
