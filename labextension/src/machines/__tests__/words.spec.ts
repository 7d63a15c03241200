import type { ContainerView, SessionView, TemplateView } from '../../gateway/types';
import {
  containerName,
  containerState,
  fileName,
  sessionActions,
  sessionFuture,
  sessionState,
  startPath,
  templateState,
} from '../words';

const session = (more: Partial<SessionView>): SessionView =>
  ({
    state: 'idle',
    detail: '',
    queued: 0,
    ends_at: 0,
    kept: '',
    idle_policy: 'sleep',
    since: 0,
    size: 0,
    ...more,
  }) as SessionView;
const container = (more: Partial<ContainerView>): ContainerView =>
  ({
    state: 'ready',
    app: 'a',
    function: 'f',
    session: '',
    running: [],
    idle_since: 0,
    path: 'fork',
    path_seconds: 0.25,
    ...more,
  }) as ContainerView;

it.each([
  [{ state: 'running' as const, queued: 2 }, 'running, 2 queued'],
  [{ state: 'waiting' as const, detail: 'all in use' }, 'waiting: all in use'],
  [{ state: 'falling asleep' as const }, 'falling asleep'],
])('session %j: %s', (more, text) => {
  expect(sessionState(session(more), 0)).toBe(text);
});

it('a session that sleeps says for how long', () => {
  expect(sessionState(session({ state: 'asleep', since: 40, size: 5 }), 100)).toMatch(
    /^asleep for 1 min 00 s · 5 B in/,
  );
});

it.each([
  [{ ends_at: 112 }, 'sleeps in 12 s if nothing runs'],
  [{ ends_at: 112, idle_policy: 'stop' as const }, 'ends in 12 s if nothing runs'],
  [{ ends_at: 50 }, 'sleeps in 0 ms if nothing runs'],
  [{ kept: 'it cannot sleep' }, 'it cannot sleep'],
  [{ state: 'asleep' as const }, 'the next cell wakes it'],
])('what becomes of %j: %s', (more, text) => {
  expect(sessionFuture(session(more), 100)).toBe(text);
});

it.each([
  ['idle', ['sleep', 'end']],
  ['asleep', ['wake', 'end']],
  ['running', ['end']],
  ['falling asleep', ['end']],
] as const)('with a session that is %s one can %j', (state, actions) => {
  expect(sessionActions(session({ state }))).toEqual(actions);
});

it.each([
  [{ state: 'starting' as const, started: 97 }, 'starting 3.0 s'],
  [{ running: ['fc-1'] }, 'running'],
  [{ running: ['fc-1', 'fc-2'] }, 'running 2 calls'],
  [{ idle_since: 88 }, 'idle 12 s'],
  [{ state: 'exited' as const, exit_reason: 'out of memory' }, 'ended: out of memory'],
])('container %j: %s', (more, text) => {
  expect(containerState(container(more), 100)).toBe(text);
});

it('containers are named by what runs in them', () => {
  expect(containerName(container({}))).toBe('a.f');
  expect(containerName(container({ session: 'se-1', function: 'H100' }))).toBe('session H100');
  expect(startPath(container({}))).toBe('forked in 0.25 s');
  expect(startPath(container({ state: 'starting' }))).toBe('');
});

it('templates say what they are', () => {
  const template = { state: 'ready', forks: 1, spare: true, restored: true } as TemplateView;
  expect(templateState(template)).toBe('ready · 1 fork up · one forked ahead · from the store');
});

it('a notebook is named by its file', () => {
  expect(fileName('/home/me/a.ipynb')).toBe('a.ipynb');
  expect(fileName('')).toBe('');
});
