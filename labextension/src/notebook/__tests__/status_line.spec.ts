import type { IRenderMime } from '@jupyterlab/rendermime-interfaces';
import type { Gateway } from '../../gateway/rest';
import { FollowedCalls } from '../calls';
import { STATUS_MIME } from '../status';
import { StatusLineWidget } from '../status_line';

/** A gateway whose feed the test speaks for. */
class Feed {
  on: { frame(frame: unknown): void; again?(): void } | null = null;
  posted: [string, unknown][] = [];
  asked: string[] = [];
  detail: unknown = null;
  readonly gateway = {
    live: {
      watch: (request: { topic: string }, on: Feed['on']) => {
        expect(request).toEqual({ topic: 'calls' });
        this.on = on;
        return { dispose: () => (this.on = null) };
      },
    },
    get: async (path: string) => {
      this.asked.push(path);
      if (!this.detail) {
        throw new Error('not found');
      }
      return { call: this.detail };
    },
    post: async (path: string, body: unknown) => {
      this.posted.push([path, body]);
    },
  } as unknown as Gateway;

  calls(...calls: unknown[]): void {
    this.on!.frame({ type: 'calls', id: 'a', calls });
  }
}

const RUNNING = {
  call_id: 'fc-1',
  state: 'running',
  gpu: 'H100',
  price: 0,
  cost: 0,
  queued: 1,
  started: 2,
  ended: 0,
};

function model(more: object = {}): IRenderMime.IMimeModel {
  const data = { call_id: 'fc-1', where: ['H100', 'local'], phase: 'running', seconds: 1, ...more };
  return { data: { [STATUS_MIME]: data } } as unknown as IRenderMime.IMimeModel;
}

async function settle(): Promise<void> {
  await new Promise((done) => setTimeout(done));
}

let feed: Feed;
let opened: string[];
let line: StatusLineWidget;

beforeEach(() => {
  feed = new Feed();
  opened = [];
  const calls = new FollowedCalls(feed.gateway);
  line = new StatusLineWidget({ gateway: feed.gateway, calls, openRun: (id) => opened.push(id) });
});

afterEach(() => line.dispose());

const stop = () => line.node.querySelector<HTMLButtonElement>('[data-skylift="stop-cell"]')!;
const open = () => line.node.querySelector<HTMLButtonElement>('[data-skylift="open-run"]')!;

it('has a stop button while the gateway says that the cell runs', async () => {
  await line.renderModel(model());
  expect(line.node.dataset.skyliftCall).toBe('fc-1');
  expect(stop().hidden).toBe(true);
  feed.calls(RUNNING);
  expect(stop().hidden).toBe(false);
  await line.renderModel(model({ phase: 'done', seconds: 3 }));
  expect(stop().hidden).toBe(true);
  expect(line.node.textContent).toContain('done in 3.0 s');
});

it('stops gently first, and for good after that', async () => {
  await line.renderModel(model());
  feed.calls(RUNNING);
  stop().click();
  await settle();
  expect(stop().textContent).toBe('Stop for good');
  stop().click();
  await settle();
  expect(feed.posted.map(([path, body]) => [path, (body as { mode: string }).mode])).toEqual([
    ['v1/calls/fc-1/cancel', 'interrupt'],
    ['v1/calls/fc-1/cancel', 'cancel'],
  ]);
});

it('says why it was not stopped', async () => {
  feed.gateway.post = async () => {
    throw new Error('Call fc-1 is over already: done.');
  };
  await line.renderModel(model());
  feed.calls(RUNNING);
  stop().click();
  await settle();
  expect(line.node.querySelector('[role="alert"]')!.textContent).toBe(
    'It was not stopped. Call fc-1 is over already: done.',
  );
  expect(stop().textContent).toBe('Stop');
});

it('opens its run', async () => {
  await line.renderModel(model({ phase: 'done' }));
  open().click();
  expect(opened).toEqual(['fc-1']);
});

it('asks once for a call that is not in the list, and watches nothing that is over', async () => {
  feed.detail = { ...RUNNING, state: 'done', ended: 12 };
  await line.renderModel(model({ phase: 'detached' }));
  feed.calls();
  await settle();
  expect(feed.asked).toEqual(['v1/calls/fc-1']);
  expect(line.node.textContent).toContain('done in 10 s');
  expect(feed.on).toBeNull();
});

it('leaves a line alone that nobody knows any more', async () => {
  await line.renderModel(model());
  feed.calls();
  await settle();
  expect(line.node.dataset.phase).toBe('running');
  expect(stop().hidden).toBe(true);
  expect(feed.on).toBeNull();
});

it('learns after a reconnect that the call ended meanwhile', async () => {
  await line.renderModel(model());
  feed.calls(RUNNING);
  feed.detail = { ...RUNNING, state: 'cancelled', ended: 4 };
  feed.on!.again!();
  feed.calls();
  await settle();
  expect(line.node.dataset.phase).toBe('cancelled');
});

it('keeps its button when it is updated, and with it the focus', async () => {
  document.body.append(line.node);
  await line.renderModel(model());
  feed.calls(RUNNING);
  stop().focus();
  await line.renderModel(model({ seconds: 2 }));
  expect(document.activeElement).toBe(stop());
});

it('says so where it is of a kind that it does not know', async () => {
  await line.renderModel({
    data: { [STATUS_MIME]: { phase: 'flying' } },
  } as unknown as IRenderMime.IMimeModel);
  expect(line.node.textContent).toContain('this version of Skylift does not know');
});
