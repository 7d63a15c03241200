/** What may stand at the cursor in a `%%gpu` line. */
import type { HostView, SessionView } from '../gateway/types';
import { availabilityText, gpuChoices, label, priceText } from './gpu_choices';
import type { GpuChoice } from './gpu_choices';
import { findMagicLine, gpuWords, splitWords } from './magic_line';
import { GPU_NAMES, IDLE_POLICIES, OPTIONS, takesValue } from './options';

/** What there is to offer, as far as it is known. */
export interface Known {
  hosts: readonly HostView[] | null;
  sessions: readonly SessionView[] | null;
  /** Names. */
  volumes: readonly string[] | null;
  /** Path of the notebook, as the gateway has it or its end. */
  notebook: string;
}

/** One word that fits. */
export interface Offered {
  text: string;
  /** Said beside it: `"1 of 2 free · $1.31/h"`. */
  detail: string;
  /** Longer, for the panel beside the list. */
  help?: string;
}

/** The words that fit, and the part of the cell that each of them replaces. */
export interface Completion {
  start: number;
  end: number;
  words: Offered[];
}

const DURATIONS = ['5m', '30m', '2h'];

/** For a cursor at `offset` of a cell, or null where it is not behind `%%gpu`. */
export function complete(source: string, offset: number, known: Known): Completion | null {
  const line = findMagicLine(source);
  if (!line || offset <= line.afterName || offset > line.end) {
    return null;
  }
  const before = splitWords(source.slice(line.afterName, offset), line.afterName);
  const last = before[before.length - 1];
  const current = last && last.end === offset ? last : null;
  const earlier = current ? before.slice(0, -1) : before;
  const typed = current?.text ?? '';
  const previous = earlier[earlier.length - 1]?.text ?? '';

  let from = current?.start ?? offset;
  let words: Offered[];
  if (previous.startsWith('-') && !previous.includes('=') && takesValue(previous)) {
    words = values(previous, known);
  } else if (/^--[\w-]+=/.test(typed)) {
    const [name] = typed.split('=', 1);
    from += name.length + 1;
    words = values(name, known);
  } else if (typed.startsWith('-')) {
    words = options(line.words.filter((word) => word.start !== from).map((word) => word.text));
  } else {
    const named = gpuWords({ ...line, words: earlier });
    if (named.length > 0 && !named[named.length - 1].text.endsWith(',') && !typed.startsWith(',')) {
      words = options(line.words.filter((word) => word.start !== from).map((word) => word.text));
    } else {
      from += typed.lastIndexOf(',') + 1;
      const taken = [...named.map((word) => word.text), typed]
        .join('')
        .split(',')
        .slice(0, -1)
        .map((spec) => spec.split(':')[0].replace('!', '').toLowerCase());
      words = gpus(taken, known.hosts);
    }
  }
  const start = source.slice(from, offset).toLowerCase();
  words = words.filter((word) => word.text.toLowerCase().startsWith(start));
  return { start: from, end: offset, words };
}

function gpus(taken: string[], hosts: readonly HostView[] | null): Offered[] {
  const there = new Map((hosts ? gpuChoices(hosts) : []).map((choice) => [choice.gpu, choice]));
  // Those that are there first.
  const names = [...new Set([...there.keys(), ...GPU_NAMES])].filter(
    (name) => !taken.includes(name.toLowerCase()) && !(taken.length > 0 && name === 'cpu'),
  );
  return names.map((text) => ({ text, detail: hosts ? about(there.get(text), text) : '' }));
}

function about(choice: GpuChoice | undefined, name: string): string {
  if (!choice) {
    return name === 'any' ? 'whichever there is' : 'not there now';
  }
  const simulated = choice.simulated ? 'simulated' : '';
  const what = choice.gpu === 'any' ? label(choice) : '';
  return [what, availabilityText(choice, 1), priceText(choice, 1), simulated]
    .filter(Boolean)
    .join(' · ');
}

function options(used: string[]): Offered[] {
  const names = new Set(used.map((word) => word.split('=', 1)[0]));
  return OPTIONS.filter((option) => option.repeatable || !names.has(option.name)).map((option) => ({
    text: option.name,
    detail: option.value,
    help: option.help,
  }));
}

function values(option: string, known: Known): Offered[] {
  if (option === '--name') {
    return sessionsOf(known).map((session) => ({
      text: session.name,
      detail: [session.gpu || 'cpu', session.state].join(' · '),
    }));
  }
  if (option === '--volume') {
    return (known.volumes ?? []).map((name) => ({ text: `${name}:/${name}`, detail: 'volume' }));
  }
  if (option === '--idle-policy') {
    return IDLE_POLICIES.map((text) => ({ text, detail: '' }));
  }
  if (option === '--timeout' || option === '--idle') {
    return DURATIONS.map((text) => ({ text, detail: '' }));
  }
  return [];
}

/** The sessions of the notebook; a name means something in one notebook alone. */
function sessionsOf(known: Known): SessionView[] {
  return (known.sessions ?? []).filter(
    (session) => session.name && sameNotebook(session.notebook, known.notebook),
  );
}

/** The gateway has the absolute path, the page the one below the server's root. */
export function sameNotebook(absolute: string, path: string): boolean {
  return path !== '' && (absolute === path || absolute.endsWith(`/${path}`));
}
