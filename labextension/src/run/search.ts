/** Looks for text in a log, a slice at a time, so that the page stays responsive. */
import type { LogBuffer } from './log-buffer';

const SLICE = 20_000;
/** As many matches are counted. */
export const MOST_MATCHES = 10_000;

export interface Found {
  /** Numbers of lines. */
  lines: number[];
  /** How far it has come. */
  searched: number;
}

/** Goes on from `found`; what is not kept here is passed over. */
export function searchSlice(log: LogBuffer, text: string, found: Found, slice = SLICE): Found {
  const needle = text.toLowerCase();
  const end = Math.min(found.searched + slice, log.length);
  const lines = found.lines.slice();
  for (let index = found.searched; index < end && lines.length < MOST_MATCHES; index++) {
    if (log.line(index)?.text.toLowerCase().includes(needle)) {
      lines.push(index);
    }
  }
  return { lines, searched: end };
}

/** The match after (or before) line `from`, and round again; -1 where there is none. */
export function nextMatch(lines: readonly number[], from: number, step: 1 | -1): number {
  if (lines.length === 0) {
    return -1;
  }
  if (step === 1) {
    return lines.find((line) => line > from) ?? lines[0];
  }
  for (let at = lines.length - 1; at >= 0; at--) {
    if (lines[at] < from) {
      return lines[at];
    }
  }
  return lines[lines.length - 1];
}
