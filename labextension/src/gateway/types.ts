/**
 * What the gateway answers with, field by field as backend/views.py has it, and the frames of its live feed.
 *
 * Times are Unix times in seconds (0: not yet), prices US dollars an hour, costs US dollars.
 */
export type CallState = 'queued' | 'running' | 'done' | 'failed' | 'cancelled' | 'timeout';
export type CallKind = 'call' | 'generator' | 'map' | 'cell' | 'kernel';
export type ContainerState = 'starting' | 'ready' | 'exited';
export type StartPath = 'running' | 'fork' | 'restore' | 'cold';
export type CancelMode = 'interrupt' | 'cancel' | 'terminate';
export type IdlePolicy = 'sleep' | 'sleep-or-stop' | 'stop' | 'keep';
export type TemplateState = 'making' | 'ready' | 'unforkable' | 'failed';
export type SessionState =
  'waiting' | 'starting' | 'idle' | 'running' | 'falling asleep' | 'asleep';
export type SpendBy = 'day' | 'notebook' | 'function' | 'gpu';

/** An error of the gateway's, for people. */
export interface Problem {
  error: string;
  message: string;
}

/** A call in a list. */
export interface CallRow {
  call_id: string;
  kind: CallKind;
  state: CallState;
  app: string;
  function: string;
  session: string;
  notebook: string;
  cell: string;
  summary: string;
  /** Why it waits, while it does. */
  detail: string;
  /** One line, such as `"ValueError: no such column"`. */
  error: string;
  queued: number;
  started: number;
  first_output: number;
  ended: number;
  container_id: string;
  host_id: string;
  gpu: string;
  price: number;
  cost: number;
  durable: boolean;
  detached: boolean;
  /** Of a map: how many have come so far. */
  inputs: number;
  inputs_done: number;
}

/** Calls, newest first. */
export interface CallPage {
  calls: CallRow[];
  /** Pass it as `before` for the page after this one; "" after the last. */
  next: string;
}

export interface TimelineEntry {
  time: number;
  /** `queued`, `starting container`, `container ready`, `started`, `first output`, or how it ended. */
  what: string;
  detail: string;
}

/** One sample of a container's use; what is 0 is left out. */
export interface Usage {
  container_id: string;
  time: number;
  /** Cores in use since the last sample. */
  cpu?: number;
  /** Bytes. */
  memory?: number;
  /** 0 to 1. */
  gpu?: number;
  gpu_memory?: number;
  gpu_memory_total?: number;
}

/** One call, whole. */
export interface CallDetail {
  call: CallRow;
  timeline: TimelineEntry[];
  container: ContainerView | null;
  usage: Usage | null;
  peak_memory: number;
  events: number;
  output_bytes: number;
  /** How often it was given to a container. */
  attempts: number;
}

/** One event of a call's output, as people can see it. */
export interface OutputItem {
  seq: number;
  kind: string;
  meta: Record<string, unknown>;
  /** What it printed, or the JSON of what it displayed; "" for pickles. */
  text: string;
  size: number;
  /** Where its data is in the store, if it is large: `GET v1/blobs/…`. */
  blob?: string;
}

export interface OutputPage {
  call_id: string;
  state: CallState;
  items: OutputItem[];
  /** Pass it as `from_seq` for what follows. */
  next_seq: number;
  more: boolean;
}

export interface ContainerView {
  container_id: string;
  host_id: string;
  state: ContainerState;
  app: string;
  function: string;
  session: string;
  notebook: string;
  gpu: string;
  simulated: boolean;
  path: StartPath;
  path_seconds: number;
  path_reason: string;
  started: number;
  ready: number;
  ended: number;
  exit_reason: string;
  calls: number;
  /** Ids of the calls that it runs now. */
  running: string[];
  idle_since: number;
  usage: Usage | null;
  price: number;
  cost: number;
  /** Why it was started. */
  reason: string;
  /** Why it is kept though it is idle, where that has no end. */
  kept: string;
}

export interface SessionView {
  session_id: string;
  name: string;
  notebook: string;
  state: SessionState;
  detail: string;
  gpu: string;
  container: ContainerView | null;
  running: string;
  queued: number;
  idle_window: number;
  ends_at: number;
  idle_policy: IdlePolicy;
  kept: string;
  since: number;
  size: number;
  unpacked: number;
  problem: string;
}

export interface Slept {
  seconds: number;
  size: number;
  unpacked: number;
}

export interface Woken {
  seconds: number;
}

export interface TemplateView {
  template_id: string;
  host_id: string;
  label: string;
  state: TemplateState;
  reason: string;
  forks: number;
  spare: boolean;
  memory: number;
  restored: boolean;
  size: number;
  unpacked: number;
  created: number;
}

export interface GpuView {
  model: string;
  count: number;
  in_use: number;
  /** Bytes of one. */
  memory: number;
  simulated: boolean;
  price: number;
  holders: string[];
}

export interface HostView {
  host_id: string;
  hostname: string;
  engine: string;
  connected: boolean;
  since: number;
  isolation: string;
  rootless: boolean;
  kernel: string;
  cpus: number;
  cpus_reserved: number;
  /** MiB. */
  memory: number;
  memory_reserved: number;
  gpus: GpuView[];
  containers: number;
  problem: string;
}

export interface SpendRow {
  key: string;
  seconds: number;
  cost: number;
  idle_seconds: number;
  idle_cost: number;
  calls: number;
}

export interface Spend {
  by: SpendBy;
  since: string;
  until: string;
  rows: SpendRow[];
  total: SpendRow;
}

/**
 * What was in use at a time: `[time, cores, bytes of memory, GPU use from 0 to 1, bytes of GPU memory]`; the last two null
 * where there is no GPU.
 */
export type UsageSample = [number, number, number, number | null, number | null];

export interface ContainerUsage {
  container_id: string;
  samples: UsageSample[];
}

/** Answer of `GET v1/calls/{id}/usage`. */
export interface CallUsage {
  samples: UsageSample[];
}

/** Answer of `GET skylift/status`. */
export interface GatewayStatus {
  state: 'ready' | 'absent' | 'unreachable';
  url?: string;
  version?: string;
  problem?: string;
}

// --- the live feed ---------------------------------------------------------------------------------

export type ListTopic = 'sessions' | 'containers' | 'templates' | 'hosts' | 'volumes';

/** What is watched; the feed adds the id. */
export type Watched =
  | { topic: 'calls' }
  | { topic: 'call'; call_id: string }
  | { topic: 'output'; call_id: string; from_seq: number }
  | { topic: ListTopic | 'usage' }
  | { topic: 'spend'; by: SpendBy; days: number };

/** A function is asked each time that the watch is sent, so that what it asks for can move on. */
export type WatchRequest = Watched | (() => Watched);

export type LiveFrame =
  | { type: 'calls'; id: string; calls: CallRow[] }
  | { type: 'call'; id: string; call: CallDetail }
  | {
      type: 'output';
      id: string;
      items: OutputItem[];
      next_seq: number;
      state: CallState;
      over: boolean;
    }
  | { type: 'list'; id: string; topic: ListTopic | 'spend'; rows: unknown[] }
  | { type: 'usage'; id: string; containers: ContainerUsage[] };
