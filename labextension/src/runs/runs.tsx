import React, { useCallback, useEffect, useMemo, useState } from 'react';
import type { CallRow, HostView } from '../gateway/types';
import { pathsOf } from '../notebook/notebook_paths';
import { PageConfig } from '@jupyterlab/coreutils';
import type { ISectionProps } from '../sidebar/section';
import { clock } from '../ui/formats';
import { useChanges, useList, useNow } from '../ui/hooks';
import { Sparkline } from '../ui/sparkline';
import { StateIcon } from '../ui/state-icon';
import { VirtualList } from '../ui/virtual-list';
import type { RunFilter } from './filters';
import { EVERYTHING, FINAL, KINDS, STATES } from './filters';
import { openRunMenu } from './menu';
import { RunStore } from './store';
import { lineOf, RunUsage } from './usage';
import { facts, STATE_WORDS, title } from './words';

/** Pixels. */
const ROW = 44;

/** The Runs section: a live list, newest first. */
export function Runs({ gateway, app, notebooks, openRun }: ISectionProps): JSX.Element {
  const store = useDisposable(() => new RunStore(gateway), [gateway]);
  const usage = useDisposable(() => new RunUsage(gateway), [gateway]);
  return store && usage ? (
    <RunList {...{ gateway, app, notebooks, openRun, store, usage }} />
  ) : (
    <p className="jp-skylift-empty">Loading…</p>
  );
}

interface IRunListProps extends Omit<ISectionProps, 'translator'> {
  store: RunStore;
  usage: RunUsage;
}

function RunList({ gateway, app, notebooks, openRun, store, usage }: IRunListProps): JSX.Element {
  useChanges(store.changed);
  useChanges(usage.changed);
  const hosts = useList<HostView>(gateway, 'hosts').rows;
  const rows = store.visible;
  const running = rows.some((row) => !FINAL.has(row.state));
  const now = useNow(running);
  const [active, setActive] = useState('');
  const index = useMemo(() => rows.findIndex((row) => row.call_id === active), [rows, active]);

  const more = useCallback(() => void store.more(), [store]);
  const seen = useCallback(
    (first: number, end: number) => usage.want(store.visible.slice(first, end)),
    [usage, store],
  );

  const menu = (event: React.MouseEvent) => {
    const node = (event.target as HTMLElement).closest<HTMLElement>('[data-call-id]');
    // The keyboard's menu key names the list itself.
    const shown =
      node ?? document.querySelector<HTMLElement>(`[data-call-id="${CSS.escape(active)}"]`);
    const row = store.get(shown?.dataset['callId'] ?? '');
    if (!shown || !row) {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
    setActive(row.call_id);
    const { left, bottom } = shown.getBoundingClientRect();
    openRunMenu(
      { app, gateway, notebooks },
      row,
      openRun,
      node ? event.clientX : left + 24,
      node ? event.clientY : bottom,
    );
  };

  return (
    <div className="jp-skylift-runs" onContextMenu={menu}>
      <Filters store={store} notebooks={notebooks} />
      {store.problem && (
        <p className="jp-skylift-problem" role="alert">
          {store.problem}{' '}
          <button type="button" className="jp-skylift-button" onClick={more}>
            Try again
          </button>
        </p>
      )}
      <p className="jp-skylift-visually-hidden" aria-live="polite">
        {store.known ? announcement(rows) : ''}
      </p>
      {rows.length === 0 ? (
        <p className="jp-skylift-empty">{emptyWords(store)}</p>
      ) : (
        <VirtualList
          count={rows.length}
          rowHeight={ROW}
          label="Runs"
          className="jp-skylift-runs-list"
          active={index}
          setActive={(at) => setActive(rows[at].call_id)}
          open={(at) => openRun(rows[at].call_id)}
          nearEnd={more}
          seen={seen}
          rowKey={(at) => rows[at].call_id}
          rowProps={(at) => ({
            'data-call-id': rows[at].call_id,
            'data-state': rows[at].state,
            title: tooltip(rows[at]),
            'aria-label': spoken(rows[at], hosts, now),
          })}
          row={(at) => <Run row={rows[at]} hosts={hosts} now={now} usage={usage} />}
        />
      )}
    </div>
  );
}

function Run(props: {
  row: CallRow;
  hosts: HostView[] | null;
  now: number;
  usage: RunUsage;
}): JSX.Element {
  const { row, hosts, now, usage } = props;
  const { values, max } = lineOf(usage.samples(row));
  return (
    <>
      <StateIcon state={row.state} />
      <div className="jp-skylift-run-title">{title(row)}</div>
      <div className="jp-skylift-run-facts">{facts(row, hosts, now).join(' · ')}</div>
      <Sparkline
        values={values}
        max={max}
        label=""
        width={52}
        height={16}
        room={FINAL.has(row.state) ? values.length : Math.max(values.length, 30)}
      />
    </>
  );
}

function Filters({ store, notebooks }: Pick<IRunListProps, 'store' | 'notebooks'>): JSX.Element {
  const [filter, setFilter] = useState<RunFilter>(store.filter);
  const [hereOnly, setHereOnly] = useState(false);
  const current = useCurrentNotebook(notebooks);
  const root = PageConfig.getOption('serverRoot');
  const here = current
    ? (store.notebooks.find((path) => pathsOf(path, root).includes(current)) ??
      absolute(current, root))
    : '';
  const notebook = hereOnly ? here || NO_NOTEBOOK : '';

  useEffect(() => {
    const wanted = { ...filter, notebook };
    if (JSON.stringify(wanted) === JSON.stringify(store.filter)) {
      return;
    }
    // Typing is waited for, since each change asks the gateway.
    const timer = window.setTimeout(
      () => (store.filter = wanted),
      wanted.search === store.filter.search ? 0 : 200,
    );
    return () => window.clearTimeout(timer);
  }, [store, filter, notebook]);

  const change = (part: Partial<RunFilter>) => setFilter((known) => ({ ...known, ...part }));
  return (
    <div className="jp-skylift-runs-filters" role="search" aria-label="Filter runs">
      <input
        type="search"
        className="jp-skylift-input"
        placeholder="Search"
        aria-label="Search runs"
        value={filter.search}
        onChange={(event) => change({ search: event.target.value })}
      />
      <select
        className="jp-skylift-select"
        aria-label="State"
        value={filter.state}
        onChange={(event) => change({ state: event.target.value as RunFilter['state'] })}
      >
        {STATES.map(([value, text]) => (
          <option key={value} value={value}>
            {text}
          </option>
        ))}
      </select>
      <select
        className="jp-skylift-select"
        aria-label="Kind"
        value={filter.kind}
        onChange={(event) => change({ kind: event.target.value as RunFilter['kind'] })}
      >
        {KINDS.map(([value, text]) => (
          <option key={value} value={value}>
            {text}
          </option>
        ))}
      </select>
      {notebooks && (
        <label className="jp-skylift-check">
          <input
            type="checkbox"
            checked={hereOnly}
            onChange={(event) => setHereOnly(event.target.checked)}
          />
          This notebook
        </label>
      )}
    </div>
  );
}

/** Of no run. */
const NO_NOTEBOOK = ' ';

/** Where the server's root is not known in full, runs of the notebook are found once one is in the list. */
function absolute(path: string, root: string): string {
  return root.startsWith('/') ? `${root.replace(/\/+$/, '')}/${path}` : NO_NOTEBOOK;
}

/** The path of the current notebook, or "". */
function useCurrentNotebook(notebooks: ISectionProps['notebooks']): string {
  const path = () => notebooks?.currentWidget?.context.path ?? '';
  const [current, setCurrent] = useState(path);
  useEffect(() => {
    const changed = () => setCurrent(path());
    changed();
    notebooks?.currentChanged.connect(changed);
    return () => {
      notebooks?.currentChanged.disconnect(changed);
    };
    // eslint-disable-next-line react-hooks/exhaustive-deps -- path is made of notebooks alone
  }, [notebooks]);
  return current;
}

/** Made when the component is, disposed of with it. */
function useDisposable<T extends { dispose(): void }>(make: () => T, needs: unknown[]): T | null {
  const [value, setValue] = useState<T | null>(null);
  useEffect(() => {
    const made = make();
    setValue(made);
    return () => made.dispose();
    // eslint-disable-next-line react-hooks/exhaustive-deps -- the caller says what it needs
  }, needs);
  return value;
}

function emptyWords(store: RunStore): string {
  if (!store.known || store.loading) {
    return store.problem ? '' : 'Loading…';
  }
  const all = JSON.stringify(store.filter) === JSON.stringify(EVERYTHING);
  return all
    ? 'No runs yet. What you run with %%gpu or call with .remote() appears here.'
    : 'No runs match.';
}

/** Said when it changes. */
function announcement(rows: readonly CallRow[]): string {
  const queued = rows.filter((row) => row.state === 'queued').length;
  const running = rows.filter((row) => row.state === 'running').length;
  return `${running} running, ${queued} queued`;
}

function spoken(row: CallRow, hosts: HostView[] | null, now: number): string {
  // Not the ticking time: a screen reader would read it again and again.
  const still = FINAL.has(row.state)
    ? facts(row, hosts, now)
    : facts({ ...row, started: 0, queued: now }, hosts, now);
  return [
    STATE_WORDS[row.state],
    title(row),
    ...still.filter((fact) => !fact.startsWith('waits ')),
  ].join(', ');
}

function tooltip(row: CallRow): string {
  return [
    `${STATE_WORDS[row.state]}${row.error ? `: ${row.error}` : row.detail ? `: ${row.detail}` : ''}`,
    row.notebook && `Notebook: ${row.notebook}`,
    row.function && `Function: ${[row.app, row.function].filter(Boolean).join('.')}`,
    `Queued: ${clock(row.queued)}`,
    row.call_id,
  ]
    .filter(Boolean)
    .join('\n');
}
