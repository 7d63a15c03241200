/** What can go wrong with an upload, and which of it passes. */
import type { Entry } from './api';

/** A person stopped it, or wants to keep what is there. */
export class Stopped extends Error {}
/** The file is not what was dropped any more. */
export class Unreadable extends Error {}
/** The server has forgotten it, or has another part of it than we thought. */
export class Elsewhere extends Error {}

/** Bytes of a file of the desktop. Raises `Unreadable`. */
export async function readPart(file: File, from: number, to: number): Promise<ArrayBuffer> {
  try {
    return await file.slice(from, Math.min(to, file.size)).arrayBuffer();
  } catch {
    throw new Unreadable(
      `“${file.name}” cannot be read on this computer any more: it was changed, moved or removed there. Drop it again.`,
    );
  }
}

/** Raises `Stopped` where it was. */
export function check(signal: AbortSignal): void {
  if (signal.aborted) {
    throw new Stopped();
  }
}

/** Whether it is still what it was. */
export function same(one: Entry, other: Entry | null): boolean {
  return (
    other !== null &&
    one.kind === other.kind &&
    one.size === other.size &&
    one.mtime === other.mtime
  );
}

/** Whether nobody answered: the network, the Jupyter server or the gateway is away. */
export function isAway(error: unknown): boolean {
  const status = (error as { status?: number }).status;
  return (
    !(error instanceof Stopped) &&
    !(error instanceof Unreadable) &&
    (status === undefined ? isNetwork(error) : [0, 502, 503, 504].includes(status))
  );
}

/** Whether there was no answer at all. */
export function isNetwork(error: unknown): boolean {
  return error instanceof Error && (error.name === 'NetworkError' || error instanceof TypeError);
}

/** Whether it may work when it is tried again; what was sent is found again then. */
export function isPassing(error: unknown): boolean {
  return error instanceof Elsewhere || isAway(error);
}

/** In words. */
export function messageOf(error: unknown): string {
  if (isNetwork(error)) {
    return 'The Jupyter server does not answer.';
  }
  return error instanceof Error ? error.message : String(error);
}
