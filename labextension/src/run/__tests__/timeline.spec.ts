import type { CallDetail, UsageSample } from '../../gateway/types';
import { linePath, seriesOf } from '../charts';
import { phases, startWords } from '../timeline';

const detail = (call: object, more: object = {}): CallDetail =>
  ({
    call: { state: 'done', queued: 100, started: 103, ended: 110, ...call },
    container: { state: 'ready', path: 'restore', path_seconds: 0.24 },
    timeline: [
      { time: 100, what: 'queued', detail: '' },
      { time: 102, what: 'starting container', detail: '' },
    ],
    ...more,
  }) as unknown as CallDetail;

describe('phases', () => {
  it('has what its time went to', () => {
    expect(phases(detail({}), 0)).toEqual([
      { name: 'queued', kind: 'queued', seconds: 2 },
      { name: 'restored', kind: 'starting', seconds: 1 },
      { name: 'ran', kind: 'running', seconds: 7 },
    ]);
  });

  it('counts on while it runs, and while it waits', () => {
    const running = detail({ state: 'running', ended: 0 }, { timeline: [] });
    expect(phases(running, 120)).toEqual([
      { name: 'queued', kind: 'queued', seconds: 3 },
      { name: 'running', kind: 'running', seconds: 17 },
    ]);
    const waiting = detail(
      { state: 'queued', started: 0, ended: 0 },
      { timeline: [], container: null },
    );
    expect(phases(waiting, 105)).toEqual([{ name: 'queued', kind: 'queued', seconds: 5 }]);
  });
});

describe('startWords', () => {
  it('says how the container came', () => {
    expect(startWords(detail({}).container)).toBe('restored in 0.24 s');
    expect(startWords(null)).toBe('');
  });
});

describe('charts', () => {
  it('has GPUs where there are some', () => {
    const sample: UsageSample = [1, 0.5, 1e6, 0.9, 2e9];
    expect(seriesOf([sample]).map((one) => one.title)).toEqual([
      'GPU',
      'GPU memory',
      'CPU',
      'Memory',
    ]);
    expect(seriesOf([[1, 0.5, 1e6, null, null]]).map((one) => one.title)).toEqual([
      'CPU',
      'Memory',
    ]);
  });

  it('draws a line by time, with gaps', () => {
    expect(linePath([0, 1, 4], [0, 1, 0.5], 1, 100, 12)).toBe('M0.0 11.0L25.0 1.0L100.0 6.0');
    expect(linePath([0, 1, 2], [0, null, 1], 1, 100, 12)).toBe('M0.0 11.0M100.0 1.0');
  });
});
