/** Which runs are listed. */
import type { Query } from '../gateway/rest';
import type { CallKind, CallRow, CallState } from '../gateway/types';

export type StateFilter = 'all' | 'active' | CallState;

export interface RunFilter {
  state: StateFilter;
  kind: CallKind | 'all';
  /** As the gateway has it; "" for all. */
  notebook: string;
  search: string;
}

export const EVERYTHING: RunFilter = { state: 'all', kind: 'all', notebook: '', search: '' };

export const FINAL: ReadonlySet<CallState> = new Set(['done', 'failed', 'cancelled', 'timeout']);

export const STATES: readonly [StateFilter, string][] = [
  ['all', 'All states'],
  ['active', 'Queued or running'],
  ['done', 'Done'],
  ['failed', 'Failed'],
  ['timeout', 'Timed out'],
  ['cancelled', 'Cancelled'],
];

export const KINDS: readonly [RunFilter['kind'], string][] = [
  ['all', 'All kinds'],
  ['cell', 'Cells'],
  ['call', 'Functions'],
  ['generator', 'Generators'],
  ['map', 'Maps'],
  ['kernel', 'Kernels'],
];

/** Whether the gateway would list `row` for this filter. */
export function matches(row: CallRow, filter: RunFilter): boolean {
  if (
    filter.state === 'active'
      ? FINAL.has(row.state)
      : filter.state !== 'all' && row.state !== filter.state
  ) {
    return false;
  }
  if (filter.kind !== 'all' && row.kind !== filter.kind) {
    return false;
  }
  if (filter.notebook && row.notebook !== filter.notebook) {
    return false;
  }
  const search = filter.search.trim().toLowerCase();
  return (
    !search ||
    [row.function, row.summary, row.error].some((text) => text.toLowerCase().includes(search))
  );
}

/** The same, as the query of `GET v1/calls`. */
export function queryOf(filter: RunFilter): Query {
  return {
    state:
      filter.state === 'all'
        ? undefined
        : filter.state === 'active'
          ? 'queued,running'
          : filter.state,
    kind: filter.kind === 'all' ? undefined : filter.kind,
    notebook: filter.notebook || undefined,
    search: filter.search.trim() || undefined,
  };
}
