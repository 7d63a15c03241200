import type { CallRow } from '../../gateway/types';
import type { SeenCall, StatusData } from '../status';
import { carriedOn, parts, readStatus, spokenText } from '../status';

const SHOWN = 1000;

function data(more: Partial<StatusData> = {}): StatusData {
  return {
    call_id: 'fc-1',
    where: ['H100', 'local', '$3.60/h', 'warm'],
    phase: 'running',
    seconds: 5,
    detail: '',
    use: 'GPU 50% · 1.0/80 GB',
    price: 3.6,
    cost: 0.005,
    note: '',
    ...more,
  };
}

function call(more: Partial<CallRow> = {}, seen = SHOWN): SeenCall {
  const row = {
    call_id: 'fc-1',
    state: 'running',
    gpu: 'H100',
    queued: 990,
    started: 995,
    ended: 0,
    detail: '',
  };
  return { row: { ...row, price: 3.6, cost: 0.005, ...more } as CallRow, seen };
}

describe('a status line', () => {
  it('says what the kernel says', () => {
    expect(parts(data())).toEqual([
      'local',
      '$3.60/h',
      'warm',
      'running 5.0 s',
      'GPU 50% · 1.0/80 GB',
      '$0.0050',
    ]);
    expect(
      parts(data({ phase: 'queued', seconds: 3, detail: 'waiting for an H100', use: '' })),
    ).toEqual(['local', '$3.60/h', 'warm', 'queued 3.0 s: waiting for an H100']);
    expect(parts(data({ where: ['H100'], phase: 'sending', use: '' }))).toEqual(['starting']);
  });

  it('does not go on without a call that is known to run', () => {
    expect(carriedOn(data(), SHOWN, null, SHOWN + 60)).toEqual(data());
  });

  it('counts on from what the kernel counted, whatever the clock of the gateway', () => {
    const later = carriedOn(data(), SHOWN, call({ started: 5 }), SHOWN + 10);
    expect(later.seconds).toBe(15);
    expect(later.cost).toBeCloseTo(0.015);
  });

  it('counts from what the gateway says of a detached cell', () => {
    const later = carriedOn(data({ phase: 'detached', note: 'attach' }), SHOWN, call(), SHOWN + 10);
    expect(later).toMatchObject({ phase: 'running', seconds: 15, note: 'attach' });
  });

  it('never costs less than the kernel has said', () => {
    expect(carriedOn(data({ cost: 1 }), SHOWN, call({ cost: 0 }), SHOWN).cost).toBe(1);
  });

  it('takes over why it waits', () => {
    const waiting = call({ state: 'queued', detail: '1 of 1 in use by session train' });
    expect(carriedOn(data({ phase: 'sending' }), SHOWN, waiting, SHOWN + 2)).toMatchObject({
      phase: 'queued',
      seconds: 12,
      detail: '1 of 1 in use by session train',
    });
  });

  it('says how it ended where the kernel cannot', () => {
    const ended = call({ state: 'failed', ended: 1015, cost: 0.02 });
    const line = carriedOn(data({ phase: 'detached' }), SHOWN, ended, SHOWN + 500);
    expect(line).toMatchObject({ phase: 'failed', seconds: 20, cost: 0.02, use: '' });
  });

  it('stays as the kernel left it once it is over', () => {
    const over = data({ phase: 'interrupted', seconds: 2 });
    expect(carriedOn(over, SHOWN, call({ state: 'cancelled', ended: 2000 }), SHOWN + 500)).toBe(
      over,
    );
  });

  it('is spoken without its figures until it ends', () => {
    expect(spokenText(data())).toBe('H100: running');
    expect(spokenText(data({ phase: 'queued', detail: 'it waits' }))).toBe(
      'H100: queued: it waits',
    );
    expect(spokenText(data({ phase: 'done' }))).toBe('H100: done in 5.0 s');
  });
});

describe('what is in a notebook', () => {
  it('is read', () => {
    expect(readStatus({ ...data(), more: 1 })).toEqual(data());
    expect(readStatus({ where: ['cpu'], phase: 'done' })).toMatchObject({
      call_id: '',
      seconds: 0,
      note: '',
    });
  });

  it.each([[null], ['text'], [{}], [{ where: [], phase: 'flying' }], [{ phase: 'done' }]])(
    'may be anything: %j',
    (value) => {
      expect(readStatus(value)).toBeNull();
    },
  );
});
