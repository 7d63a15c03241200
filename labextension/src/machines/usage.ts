/** What containers have used lately: samples from the live feed, as many as a sparkline shows. */
import type { UsageSample } from '../gateway/types';

/** Samples of one container that are kept: two minutes, one a second. */
export const KEPT = 120;

/** Containers that are kept, those that were heard of last. */
export const KEPT_CONTAINERS = 500;

export type UsageById = ReadonlyMap<string, readonly UsageSample[]>;

/** A frame's part for one container. */
export interface Increment {
  container_id: string;
  samples: readonly UsageSample[];
}

/** `usage` and what a frame adds to it. */
export function withSamples(usage: UsageById, increments: readonly Increment[]): UsageById {
  const result = new Map(usage);
  for (const { container_id, samples } of increments) {
    const known = result.get(container_id) ?? [];
    const last = known.length ? known[known.length - 1][0] : -Infinity;
    // After a reconnect the feed begins with what it has told already.
    const added = samples.filter((sample) => sample[0] > last);
    if (added.length > 0) {
      result.delete(container_id);
      result.set(container_id, [...known, ...added].slice(-KEPT));
    }
  }
  const gone = [...result.keys()].slice(0, Math.max(result.size - KEPT_CONTAINERS, 0));
  gone.forEach((id) => result.delete(id));
  return result;
}

/** What a sparkline shows of a container: GPU use (0 to 1) where it has one, else cores in use as part of `cores`. */
export function line(samples: readonly UsageSample[], cores: number): number[] {
  const gpu = samples.some((sample) => sample[3] !== null);
  return samples.map(([, cpu, , use]) =>
    gpu ? (use ?? 0) : Math.min(cpu / Math.max(cores, 1), 1),
  );
}
