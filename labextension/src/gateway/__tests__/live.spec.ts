import type { ServerConnection } from '@jupyterlab/services';
import { LiveFeed } from '../live';
import type { LiveFrame } from '../types';

/** The far end of the page's WebSockets. */
class FarEnd {
  static all: FarEnd[] = [];
  readyState = 1;
  sent: Record<string, unknown>[] = [];
  onmessage: ((event: { data: string }) => void) | null = null;
  onclose: (() => void) | null = null;

  constructor(readonly url: string) {
    FarEnd.all.push(this);
  }

  send(text: string): void {
    this.sent.push(JSON.parse(text) as Record<string, unknown>);
  }

  close(): void {
    this.readyState = 3;
  }

  say(frame: object): void {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }

  drop(): void {
    this.readyState = 3;
    this.onclose?.();
  }

  static get last(): FarEnd {
    return FarEnd.all[FarEnd.all.length - 1];
  }
}

const CONNECTED = { type: 'gateway', state: 'connected' };

let feed: LiveFeed;

beforeEach(() => {
  jest.useFakeTimers();
  FarEnd.all = [];
  feed = new LiveFeed({
    wsUrl: 'ws://here/base/',
    token: 'a b',
    appendToken: true,
    WebSocket: FarEnd,
  } as unknown as ServerConnection.ISettings);
});

afterEach(() => {
  feed.dispose();
  jest.useRealTimers();
});

const watcher = () => {
  const frames: LiveFrame[] = [];
  return {
    frames,
    frame: (frame: LiveFrame) => void frames.push(frame),
    error: jest.fn(),
    again: jest.fn(),
  };
};

describe('LiveFeed', () => {
  it('dials the Jupyter server, with its token', () => {
    expect(FarEnd.last.url).toBe('ws://here/base/skylift/live?token=a%20b');
    expect(feed.state).toBe('connecting');
  });

  it('sends watches once the gateway is there, and frames to their watch', () => {
    const one = watcher();
    const two = watcher();
    feed.watch({ topic: 'calls' }, one);
    expect(FarEnd.last.sent).toEqual([]);
    FarEnd.last.say(CONNECTED);
    feed.watch({ topic: 'hosts' }, two);
    expect(feed.state).toBe('connected');
    const [first, second] = FarEnd.last.sent;
    expect(first).toMatchObject({ type: 'watch', topic: 'calls' });
    FarEnd.last.say({ type: 'list', id: second['id'], topic: 'hosts', rows: [] });
    expect(one.frames).toEqual([]);
    expect(two.frames).toHaveLength(1);
    expect(one.again).not.toHaveBeenCalled();
  });

  it('says when the gateway is away, and sends watches again when it is back', () => {
    const states: string[] = [];
    feed.stateChanged.connect((_, state) => void states.push(state));
    const one = watcher();
    let next = 0;
    feed.watch(() => ({ topic: 'output', call_id: 'fc-1', from_seq: next }), one);
    FarEnd.last.say(CONNECTED);
    FarEnd.last.say({ type: 'gateway', state: 'away', problem: 'It is gone.' });
    expect([feed.state, feed.problem]).toEqual(['gateway-away', 'It is gone.']);
    next = 7;
    FarEnd.last.say(CONNECTED);
    expect(FarEnd.last.sent.map((frame) => frame['from_seq'])).toEqual([0, 7]);
    expect(one.again).toHaveBeenCalledTimes(1);
    expect(states).toEqual(['connected', 'gateway-away', 'connected']);
    expect(feed.problem).toBe('');
  });

  it('dials again when the connection is lost, ever more slowly but for five seconds at most', () => {
    const one = watcher();
    feed.watch({ topic: 'calls' }, one);
    FarEnd.last.say(CONNECTED);
    for (let attempt = 2; attempt < 12; attempt++) {
      FarEnd.last.drop();
      expect(feed.state).toBe('server-away');
      expect(feed.problem).toMatch(/Jupyter server does not answer/);
      jest.advanceTimersByTime(6500);
      expect(FarEnd.all).toHaveLength(attempt);
    }
    FarEnd.last.say(CONNECTED);
    expect(FarEnd.last.sent).toMatchObject([{ type: 'watch', topic: 'calls' }]);
    expect(one.again).toHaveBeenCalledTimes(1);
  });

  it('does not wait when the network is back', () => {
    FarEnd.last.drop();
    window.dispatchEvent(new Event('online'));
    expect(FarEnd.all).toHaveLength(2);
    jest.advanceTimersByTime(20_000);
    expect(FarEnd.all).toHaveLength(2);
  });

  it('ends a watch', () => {
    const one = watcher();
    FarEnd.last.say(CONNECTED);
    const watch = feed.watch({ topic: 'calls' }, one);
    const { id } = FarEnd.last.sent[0];
    watch.dispose();
    expect(FarEnd.last.sent[1]).toEqual({ type: 'unwatch', id });
    FarEnd.last.say({ type: 'calls', id, calls: [] });
    expect(one.frames).toEqual([]);
    FarEnd.last.say(CONNECTED);
    expect(FarEnd.last.sent).toHaveLength(2);
  });

  it('gives a refusal to its watch, and sends it again all the same', () => {
    const one = watcher();
    feed.watch({ topic: 'call', call_id: 'fc-0' }, one);
    FarEnd.last.say(CONNECTED);
    const problem = { error: 'NotFoundError', message: 'There is no call fc-0.' };
    FarEnd.last.say({ type: 'error', id: FarEnd.last.sent[0]['id'], problem });
    expect(one.error).toHaveBeenCalledWith(problem);
    FarEnd.last.say(CONNECTED);
    expect(FarEnd.last.sent).toHaveLength(2);
  });

  it('is quiet once it is disposed of', () => {
    const { last } = FarEnd;
    feed.dispose();
    last.drop();
    jest.advanceTimersByTime(20_000);
    expect(FarEnd.all).toHaveLength(1);
  });
});
