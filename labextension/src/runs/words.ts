/** What the list says of a run. */
import type { CallRow, CallState, HostView } from '../gateway/types';
import { dollars, duration, ticking } from '../ui/formats';
import { FINAL } from './filters';

export const STATE_WORDS: Record<CallState, string> = {
  queued: 'queued',
  running: 'running',
  done: 'done',
  failed: 'failed',
  cancelled: 'cancelled',
  timeout: 'timed out',
};

/** What it is, in one line. */
export function title(row: CallRow): string {
  const first = row.summary.trim().split('\n', 1)[0];
  if (first) {
    return first;
  }
  return [row.app, row.function].filter(Boolean).join('.') || row.call_id;
}

/** `H100 simulated`, `CPU`, or "" where that is not decided. */
export function gpuWords(row: CallRow, hosts: readonly HostView[] | null): string {
  if (!row.gpu) {
    return row.container_id ? 'CPU' : '';
  }
  return isSimulated(row, hosts) ? `${row.gpu} simulated` : row.gpu;
}

function isSimulated(row: CallRow, hosts: readonly HostView[] | null): boolean {
  const model = row.gpu.split(':', 1)[0];
  const host = hosts?.find((one) => one.host_id === row.host_id);
  return Boolean(host?.gpus.some((gpu) => gpu.model === model && gpu.simulated));
}

/** The host's name. */
export function whereWords(row: CallRow, hosts: readonly HostView[] | null): string {
  return hosts?.find((one) => one.host_id === row.host_id)?.hostname ?? '';
}

/** How long it has waited, runs, or ran. */
export function timeWords(row: CallRow, now: number): string {
  if (FINAL.has(row.state)) {
    return row.started && row.ended ? duration(row.ended - row.started) : '';
  }
  return row.started ? ticking(now - row.started) : `waits ${ticking(now - row.queued)}`;
}

/** What it has cost so far, as the gateway says. */
export function costOf(row: CallRow): string {
  if (row.cost > 0 && row.cost < 0.00005) {
    return '< $0.0001';
  }
  return row.cost > 0 || row.price > 0 ? dollars(row.cost) : '';
}

/** Of a map: `3 of 10`. */
export function inputsWords(row: CallRow): string {
  return row.kind === 'map' ? `${row.inputs_done} of ${row.inputs}` : '';
}

/** The second line of a row. */
export function facts(row: CallRow, hosts: readonly HostView[] | null, now: number): string[] {
  const reason =
    row.state === 'queued'
      ? row.detail
      : row.state === 'failed' || row.state === 'timeout'
        ? row.error
        : '';
  return [
    inputsWords(row),
    gpuWords(row, hosts),
    whereWords(row, hosts),
    timeWords(row, now),
    costOf(row),
    reason,
  ].filter(Boolean);
}

/** The last part of a notebook's path. */
export function notebookName(path: string): string {
  return path.replace(/\\/g, '/').split('/').pop() ?? path;
}
