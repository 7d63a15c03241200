import { DisposableDelegate } from '@lumino/disposable';
import type { IWatcher } from '../../gateway/live';
import type { CallPage, CallRow } from '../../gateway/types';
import { EVERYTHING, matches, queryOf } from '../filters';
import { RunStore } from '../store';

function row(number: number, more: Partial<CallRow> = {}): CallRow {
  return {
    call_id: `fc-${String(number).padStart(5, '0')}`,
    kind: 'cell',
    state: 'done',
    app: '',
    function: 'train',
    session: '',
    notebook: '/n/a.ipynb',
    cell: '',
    summary: `run ${number}`,
    detail: '',
    error: '',
    queued: number,
    started: number,
    first_output: 0,
    ended: number + 1,
    container_id: '',
    host_id: '',
    gpu: '',
    price: 0,
    cost: 0,
    durable: true,
    detached: false,
    inputs: 0,
    inputs_done: 0,
    ...more,
  };
}

/** Calls as the gateway keeps them, newest first. */
class Calls {
  rows: CallRow[] = [];
  asked: Record<string, unknown>[] = [];
  watcher: IWatcher | null = null;
  before: (() => void) | null = null;

  get = async <T>(path: string, query: Record<string, unknown> = {}): Promise<T> => {
    this.before?.();
    if (path !== 'v1/calls') {
      const call = this.rows.find((one) => path === `v1/calls/${one.call_id}`);
      if (!call) {
        throw Object.assign(new Error('There is no such call.'), { status: 404 });
      }
      return { call } as T;
    }
    this.asked.push(query);
    const states = (query['state'] as string | undefined)?.split(',');
    const all = this.rows
      .filter((one) => !states || states.includes(one.state))
      .sort((a, b) => b.queued - a.queued)
      .filter((one) => !query['before'] || one.call_id < (query['before'] as string));
    const calls = all.slice(0, Number(query['limit']));
    const page: CallPage = {
      calls,
      next: calls.length < all.length ? calls[calls.length - 1].call_id : '',
    };
    return page as T;
  };

  live = {
    watch: (_: unknown, on: IWatcher) => {
      this.watcher = on;
      return new DisposableDelegate(() => (this.watcher = null));
    },
  };

  tell(...calls: CallRow[]): void {
    this.watcher!.frame({ type: 'calls', id: 'w1', calls });
  }
}

const settle = () => new Promise((done) => setTimeout(done, 5));
const numbers = (store: RunStore) => store.visible.map((one) => one.queued);

let calls: Calls;
let store: RunStore;

beforeEach(() => {
  calls = new Calls();
});

afterEach(() => store.dispose());

describe('RunStore', () => {
  it('has 10,000 runs, page by page', async () => {
    calls.rows = Array.from({ length: 10_000 }, (_, number) => row(number + 1));
    store = new RunStore(calls);
    await settle();
    expect(store.visible).toHaveLength(200);
    expect(numbers(store).slice(0, 2)).toEqual([10_000, 9999]);
    while (!store.complete) {
      await store.more();
    }
    expect(store.visible).toHaveLength(10_000);
    expect(new Set(numbers(store)).size).toBe(10_000);
    expect(calls.asked).toHaveLength(50);
  });

  it('puts what is told into its place', async () => {
    calls.rows = [row(1), row(2)];
    store = new RunStore(calls);
    calls.tell(row(3, { state: 'queued' }));
    await settle();
    expect(numbers(store)).toEqual([3, 2, 1]);
    calls.tell(row(3, { state: 'running' }), row(4, { state: 'queued' }));
    expect(store.visible.map((one) => one.state)).toEqual(['queued', 'running', 'done', 'done']);
  });

  it('does not take an answer for newer than what was told meanwhile', async () => {
    calls.rows = [row(1, { state: 'running', summary: 'old' })];
    calls.before = () => {
      calls.before = null;
      setTimeout(() => undefined);
    };
    store = new RunStore(calls);
    calls.tell(row(1, { state: 'failed', summary: 'new' }));
    await settle();
    expect(store.visible[0]).toMatchObject({ state: 'failed', summary: 'new' });
    // Nor does a call come back to life.
    calls.tell(row(1, { state: 'running' }));
    expect(store.visible[0].state).toBe('failed');
  });

  it('asks anew with another filter, and shows no gaps', async () => {
    calls.rows = Array.from({ length: 1000 }, (_, number) =>
      row(number + 1, { state: (number + 1) % 100 ? 'done' : 'failed' }),
    );
    store = new RunStore(calls);
    await settle();
    store.filter = { ...EVERYTHING, state: 'failed' };
    await settle();
    expect(numbers(store)).toEqual([1000, 900, 800, 700, 600, 500, 400, 300, 200, 100]);
    expect(store.complete).toBe(true);
    store.filter = EVERYTHING;
    await settle();
    expect(numbers(store)).toEqual(Array.from({ length: 200 }, (_, index) => 1000 - index));
  });

  it('finds out what happened while the gateway was away', async () => {
    calls.rows = [row(1, { state: 'running' }), row(2, { state: 'running' })];
    store = new RunStore(calls);
    calls.tell(row(1, { state: 'running' }), row(2, { state: 'running' }));
    await settle();
    // One has ended, one is forgotten, one has come and gone.
    calls.rows = [row(1, { state: 'failed' }), row(3)];
    calls.watcher!.again!();
    calls.tell();
    await settle();
    expect(store.visible.map((one) => [one.queued, one.state])).toEqual([
      [3, 'done'],
      [1, 'failed'],
    ]);
  });

  it('says why the list is not whole, and goes on when asked', async () => {
    calls.rows = [row(1)];
    calls.before = () => {
      throw new Error('The gateway is away. Start it.');
    };
    store = new RunStore(calls);
    await settle();
    expect(store.problem).toBe('The gateway is away. Start it.');
    calls.before = null;
    await store.more();
    expect([store.problem, numbers(store)]).toEqual(['', [1]]);
  });

  it('knows 10,000 calls of which some change, without a new order each time', async () => {
    store = new RunStore(calls);
    calls.tell(
      ...Array.from({ length: 10_000 }, (_, number) => row(number + 1, { state: 'queued' })),
    );
    await settle();
    calls.tell(row(5, { state: 'running' }));
    expect(store.visible[9995].state).toBe('running');
    expect(store.visible).toBe(store.visible);
  });
});

describe('filters', () => {
  it.each([
    [{}, true],
    [{ state: 'failed' }, true],
    [{ state: 'active' }, false],
    [{ kind: 'map' }, false],
    [{ notebook: '/n/a.ipynb' }, true],
    [{ notebook: '/n/b.ipynb' }, false],
    [{ search: ' COLUMN ' }, true],
    [{ search: 'train' }, true],
    [{ search: 'nothing like it' }, false],
  ] as const)('%j', (filter, wanted) => {
    const one = row(1, { state: 'failed', error: 'ValueError: no such column' });
    expect(matches(one, { ...EVERYTHING, ...filter })).toBe(wanted);
  });

  it('asks the gateway for the same', () => {
    expect(queryOf(EVERYTHING)).toEqual({});
    expect(queryOf({ state: 'active', kind: 'map', notebook: 'n', search: ' x ' })).toEqual({
      state: 'queued,running',
      kind: 'map',
      notebook: 'n',
      search: 'x',
    });
  });
});
