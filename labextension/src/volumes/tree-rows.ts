/** The lines of the tree of volumes. */
import type { Entry, VolumeInfo } from './api';
import { baseName, parentOf } from './names';

/** A place in the tree: a volume (its path is ""), a folder or a file, now or in an older version. */
export interface Place {
  volume: string;
  /** An older version that is looked at; null for the volume as it is. */
  version: number | null;
  path: string;
}

/** Of a place; no two have the same. */
export function keyOf(place: Place): string {
  return `${place.volume}@${place.version ?? ''}:${place.path}`;
}

/** One line of the tree. */
export interface Row {
  key: string;
  kind: 'volume' | 'dir' | 'file' | 'link' | 'note' | 'problem' | 'new';
  place: Place;
  name: string;
  level: number;
  /** How many there are beside it, itself among them, and which one it is, from 1 on. */
  setSize: number;
  position: number;
  /** Of what can be opened. */
  expanded?: boolean;
  loading?: boolean;
  entry?: Entry;
  info?: VolumeInfo;
  /** Of a note or a problem. */
  text?: string;
  /** The problem is that the folder could not be read. */
  unread?: boolean;
}

/** More are sorted by their letters alone, which is quicker. */
export const SORTED_BY_NUMBER = 20_000;
/** As people sort names. */
export const byLanguage = new Intl.Collator(undefined, { numeric: true, sensitivity: 'base' });

/** Folders first, then by name. */
export function sorted(entries: readonly Entry[]): Entry[] {
  const byName =
    entries.length <= SORTED_BY_NUMBER
      ? (one: Entry, other: Entry) =>
          byLanguage.compare(one.name, other.name) || (one.name < other.name ? -1 : 1)
      : (one: Entry, other: Entry) => (one.name < other.name ? -1 : 1);
  return [...entries].sort(
    (one, other) => Number(other.kind === 'dir') - Number(one.kind === 'dir') || byName(one, other),
  );
}

/** A line below another one that says something about it. */
export function note(row: Row, kind: 'note' | 'problem', text: string): Row {
  return {
    key: `${kind} ${row.key}`,
    kind,
    place: row.place,
    name: text,
    text,
    level: row.level + 1,
    setSize: 1,
    position: 1,
  };
}

/** The folder that a line is, or that it is in. */
export function folderOf(row: Row): Place {
  return row.kind === 'volume' || row.kind === 'dir'
    ? row.place
    : row.kind === 'note' || row.kind === 'problem' || row.kind === 'new'
      ? row.place
      : { ...row.place, path: parentOf(row.place.path) };
}

/** What a screen reader calls a place. */
export function placeName(place: Place): string {
  const name = place.path ? baseName(place.path) : place.volume;
  return place.version === null ? name : `${name} (version ${place.version})`;
}
