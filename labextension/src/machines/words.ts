/** What the Machines section says, in words. */
import type { ContainerView, GpuView, HostView, SessionView, TemplateView } from '../gateway/types';
import { bytes, dollars, duration } from '../ui/formats';

const MIB = 1024 * 1024;

/** `"3 of 8 cores · 12 GiB of 32 GiB in use"`. */
export function hostRoom(host: HostView): string {
  const cpus = `${figure(host.cpus_reserved)} of ${figure(host.cpus)} cores`;
  return `${cpus}, ${bytes(host.memory_reserved * MIB)} of ${bytes(host.memory * MIB)} reserved`;
}

/** How its containers are kept apart. */
export function isolation(host: HostView): string {
  if (!host.isolation) {
    return '';
  }
  const words = host.isolation === 'process' ? 'plain processes, not isolated' : host.isolation;
  return host.rootless ? `${words}, rootless` : words;
}

/** `"1 of 2 in use · 80 GB · $2.50/h"`. */
export function gpuText(gpu: GpuView): string {
  const price = gpu.price > 0 ? `$${gpu.price.toFixed(2)}/h` : '';
  const memory = gpu.memory > 0 ? gpuMemory(gpu.memory) : '';
  return [`${gpu.in_use} of ${gpu.count} in use`, memory, price].filter(Boolean).join(' · ');
}

/** A GPU's memory as its vendor names it, and the status line: `"80 GB"` are 80 GiB. */
export function gpuMemory(size: number): string {
  return `${Math.round(size / 2 ** 30)} GB`;
}

/** What a container runs, for people. */
export function containerName(container: ContainerView): string {
  if (container.session) {
    return `session ${container.function}`;
  }
  return [container.app, container.function].filter(Boolean).join('.');
}

/** What it does: `"running 2 calls"`, `"idle 12 s"`. */
export function containerState(container: ContainerView, now: number): string {
  if (container.state === 'starting') {
    return `starting ${duration(Math.max(now - container.started, 0))}`;
  }
  if (container.state === 'exited') {
    return container.exit_reason ? `ended: ${container.exit_reason}` : 'ended';
  }
  if (container.running.length > 0) {
    return container.running.length === 1 ? 'running' : `running ${container.running.length} calls`;
  }
  return container.idle_since
    ? `idle ${duration(Math.max(now - container.idle_since, 0))}`
    : 'idle';
}

/** How it started: `"restored in 0.24 s"`. */
export function startPath(container: ContainerView): string {
  if (container.state === 'starting') {
    return '';
  }
  const words = { running: '', cold: 'cold start', fork: 'forked in', restore: 'restored in' }[
    container.path
  ];
  return words ? `${words} ${duration(container.path_seconds)}` : '';
}

/** Why it started that way, or at all; for the title. */
export function startReason(container: ContainerView): string {
  return [
    container.reason && `Started: ${container.reason}.`,
    container.path_reason && `${container.path_reason}.`,
  ]
    .filter(Boolean)
    .join(' ');
}

/** What it has cost and costs. */
export function containerCost(container: ContainerView): string {
  const price = container.price > 0 ? `$${container.price.toFixed(2)}/h` : '';
  return [price, container.price > 0 || container.cost > 0 ? dollars(container.cost) : '']
    .filter(Boolean)
    .join(' · ');
}

/** What a session does, and what becomes of it. */
export function sessionState(session: SessionView, now: number): string {
  if (session.state === 'asleep') {
    const slept = session.since ? ` for ${duration(Math.max(now - session.since, 0))}` : '';
    return `asleep${slept} · ${bytes(session.size)} in the store`;
  }
  if (session.state === 'waiting' && session.detail) {
    return `waiting: ${session.detail}`;
  }
  const queued = session.queued ? `, ${session.queued} queued` : '';
  return session.state + queued;
}

/** `"sleeps in 8 min 02 s if nothing runs"`, why it is kept, or "". */
export function sessionFuture(session: SessionView, now: number): string {
  if (session.state === 'asleep') {
    return 'the next cell wakes it';
  }
  if (!session.ends_at) {
    return session.kept;
  }
  const verb = session.idle_policy.startsWith('sleep') ? 'sleeps' : 'ends';
  return `${verb} in ${duration(Math.max(session.ends_at - now, 0))} if nothing runs`;
}

/** What can be done with a session now. */
export function sessionActions(session: SessionView): ('sleep' | 'wake' | 'end')[] {
  switch (session.state) {
    case 'asleep':
      return ['wake', 'end'];
    case 'idle':
      return ['sleep', 'end'];
    default:
      return ['end'];
  }
}

/** A template's state: `"ready · 3 forks up · one spare"`. */
export function templateState(template: TemplateView): string {
  const states = {
    making: 'being made',
    ready: 'ready',
    unforkable: 'restored, not forked',
    failed: 'failed',
  };
  const forks = template.forks
    ? `${template.forks} ${template.forks === 1 ? 'fork' : 'forks'} up`
    : '';
  return [
    states[template.state] ?? template.state,
    forks,
    template.spare ? 'one forked ahead' : '',
    template.restored ? 'from the store' : '',
  ]
    .filter(Boolean)
    .join(' · ');
}

/** `"212 MB in memory · snapshot 71 MB"`. */
export function templateSize(template: TemplateView): string {
  const memory = template.memory > 0 ? `${bytes(template.memory)} in memory` : '';
  const snapshot = template.size > 0 ? `snapshot ${bytes(template.size)}` : 'no snapshot';
  return [memory, snapshot].filter(Boolean).join(' · ');
}

/** The last part of a path. */
export function fileName(path: string): string {
  return path.split('/').pop() || path;
}

function figure(value: number): string {
  return String(Math.round(value * 10) / 10);
}
