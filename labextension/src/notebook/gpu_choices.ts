/** What a cell can run on: the GPUs of all hosts by model, whichever there is, and no GPU. */
import type { GpuView, HostView } from '../gateway/types';
import type { Choice } from './magic_line';
import { GPU_NAMES, MAX_COUNT } from './options';

/** One line of the picker. */
export interface GpuChoice {
  /** What there is of it is known. */
  known: boolean;
  /** As it is written behind `%%gpu`. */
  gpu: string;
  /** GPUs on connected machines; of `cpu` cores. */
  total: number;
  /** Of these: in use by nobody. */
  free: number;
  /** Free ones on each machine. */
  freeByHost: number[];
  /** Most of them on one machine: a container's GPUs are all on one. */
  most: number;
  /** US dollars an hour of one, on the cheapest machine and the dearest. */
  prices: [number, number];
  simulated: boolean;
  /** Bytes of one; 0 where it differs. */
  memory: number;
  holders: string[];
}

/** How many of a choice there are for a cell. */
export type Availability = 'free' | 'in use' | 'not there' | 'unknown';

/** What connected machines have, large GPUs first, then `any` where there are several models, and `cpu`. */
export function gpuChoices(hosts: readonly HostView[]): GpuChoice[] {
  const connected = hosts.filter((host) => host.connected);
  const byModel = new Map<string, [HostView, GpuView][]>();
  for (const host of connected) {
    for (const gpu of host.gpus) {
      byModel.set(gpu.model, [...(byModel.get(gpu.model) ?? []), [host, gpu]]);
    }
  }
  const order = (model: string) =>
    GPU_NAMES.includes(model) ? GPU_NAMES.indexOf(model) : GPU_NAMES.length;
  const models = [...byModel.keys()].sort((a, b) => order(a) - order(b) || a.localeCompare(b));
  const choices = models.map((model) => fromGpus(model, byModel.get(model)!));
  if (models.length > 1) {
    choices.push(fromGpus('any', [...byModel.values()].flat()));
  }
  const free = connected.map((host) => Math.max(host.cpus - host.cpus_reserved, 0));
  choices.push({
    known: true,
    gpu: 'cpu',
    total: sum(connected.map((host) => host.cpus)),
    free: sum(free),
    freeByHost: free,
    most: 1,
    prices: [0, 0],
    simulated: false,
    memory: 0,
    holders: [],
  });
  return choices;
}

/** What can be asked for where the gateway does not tell what there is. */
export function unknownChoices(): GpuChoice[] {
  return GPU_NAMES.map((gpu) => ({
    known: false,
    gpu,
    total: 0,
    free: 0,
    freeByHost: [],
    most: gpu === 'cpu' ? 1 : MAX_COUNT,
    prices: [0, 0],
    simulated: false,
    memory: 0,
    holders: [],
  }));
}

/** Those that have every word of `text` in their name or in what is said of them. */
export function matching(choices: readonly GpuChoice[], text: string): GpuChoice[] {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return choices.filter((choice) => {
    const about =
      `${choice.gpu} ${label(choice)} ${choice.known ? availability(choice, 1) : ''}`.toLowerCase();
    return words.every((word) => about.includes(word));
  });
}

/** Its name for people. */
export function label(choice: GpuChoice): string {
  return choice.gpu === 'any' ? 'Any GPU' : choice.gpu === 'cpu' ? 'CPU only' : choice.gpu;
}

/** Whether `count` of them are there now. */
export function availability(choice: GpuChoice, count: number): Availability {
  if (!choice.known) {
    return 'unknown';
  }
  if (choice.gpu === 'cpu') {
    return choice.total > 0 ? (choice.free > 0 ? 'free' : 'in use') : 'not there';
  }
  if (choice.most < count) {
    return 'not there';
  }
  return choice.freeByHost.some((free) => free >= count) ? 'free' : 'in use';
}

/** The same in words: `"2 of 4 free"`, `"both in use: session train (1)"`. */
export function availabilityText(choice: GpuChoice, count: number): string {
  if (!choice.known) {
    return '';
  }
  if (choice.gpu === 'cpu') {
    return choice.total
      ? `${cores(choice.free)} of ${cores(choice.total)} cores free`
      : 'no machine is connected';
  }
  const there = availability(choice, count);
  if (there === 'not there') {
    return choice.most
      ? `no machine has ${count}; the most is ${choice.most}`
      : 'no machine has it';
  }
  const held = choice.holders.length ? `: ${choice.holders.join(', ')}` : '';
  if (choice.free === 0) {
    return choice.total === 1 ? `in use${held}` : `all ${choice.total} in use${held}`;
  }
  const text = `${choice.free} of ${choice.total} free`;
  return there === 'free' ? text : `${text}, not ${count} on one machine${held}`;
}

/** `"$2.62/h"` for `count` of them, a range where machines differ, "" where no price is known. */
export function priceText(choice: GpuChoice, count: number): string {
  const [low, high] = choice.prices.map((price) => price * count);
  if (high <= 0) {
    return '';
  }
  return low === high ? `$${low.toFixed(2)}/h` : `$${low.toFixed(2)}–${high.toFixed(2)}/h`;
}

/** The count that a choice can have at most, at least 1. */
export function greatestCount(choice: GpuChoice | undefined): number {
  return Math.max(choice?.most ?? 1, 1);
}

/** Where the picker begins: what the cell asks for now, else what is free. */
export function startingChoice(choices: readonly GpuChoice[], now: Choice | null): number {
  const same = choices.findIndex((choice) => choice.gpu.toLowerCase() === now?.gpu.toLowerCase());
  if (same >= 0) {
    return same;
  }
  return Math.max(
    choices.findIndex((choice) => availability(choice, 1) === 'free'),
    0,
  );
}

function fromGpus(gpu: string, found: [HostView, GpuView][]): GpuChoice {
  const gpus = found.map(([, view]) => view);
  const prices = gpus.map((view) => view.price);
  const memory = new Set(gpus.map((view) => view.memory));
  return {
    known: true,
    gpu,
    total: sum(gpus.map((view) => view.count)),
    free: sum(gpus.map((view) => Math.max(view.count - view.in_use, 0))),
    freeByHost: gpus.map((view) => Math.max(view.count - view.in_use, 0)),
    most: Math.max(...gpus.map((view) => view.count)),
    prices: [Math.min(...prices), Math.max(...prices)],
    simulated: gpus.every((view) => view.simulated),
    memory: memory.size === 1 ? gpus[0].memory : 0,
    holders: gpus.flatMap((view) => view.holders),
  };
}

function cores(value: number): string {
  return String(Math.round(value * 10) / 10);
}

function sum(values: number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
