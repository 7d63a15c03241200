/** What the tree of volumes shows: which folders are open, what is in them, and what is wrong with them. */
import { Signal } from '@lumino/signaling';
import type { ISignal } from '@lumino/signaling';
import type { Entry, VolumeInfo } from './api';
import { parentOf } from './names';
import { SORTED_BY_NUMBER, byLanguage, keyOf, note, sorted } from './tree-rows';
import type { Place, Row } from './tree-rows';

/** How folders are read. */
export interface Reader {
  entries(
    volume: string,
    path: string,
    version: number | null,
    some: (entries: Entry[]) => void,
    signal?: AbortSignal,
  ): Promise<void>;
}

interface Folder {
  entries: Entry[] | null;
  loading: boolean;
  again: boolean;
  problem: string;
}

/** The tree. */
export class VolumeTree {
  constructor(private readonly reader: Reader) {}

  /** Something is to be shown anew. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** The volumes; null before they are known. */
  get volumes(): readonly VolumeInfo[] | null {
    return this._volumes;
  }

  /** Key of the selected line, or "". */
  get selected(): string {
    return this._selected;
  }

  /** Where a new thing is being named: the folder that it comes in, or null. A volume's place has no volume. */
  get naming(): Place | null {
    return this._naming;
  }

  /** The volumes as they are now: folders of those that have changed are read again. */
  setVolumes(volumes: readonly VolumeInfo[]): void {
    const before = new Map((this._volumes ?? []).map((info) => [info.name, info]));
    this._volumes = [...volumes].sort((one, other) => byLanguage.compare(one.name, other.name));
    for (const info of volumes) {
      const known = before.get(info.name);
      if (known && known.volume_id !== info.volume_id) {
        this.forget(info.name);
      } else if (known && known.version !== info.version) {
        this.refresh(info.name);
      }
      before.delete(info.name);
    }
    for (const gone of before.keys()) {
      this.forget(gone);
    }
    this.emit();
  }

  /** Show an older version of a volume too, and open it. */
  look(volume: string, version: number): string {
    const place = { volume, version, path: '' };
    if (!this._looks.some((look) => keyOf(look) === keyOf(place))) {
      this._looks.push(place);
    }
    this.expand(keyOf(place), place);
    this.select(keyOf(place));
    return keyOf(place);
  }

  /** Stop showing an older version. */
  close(place: Place): void {
    const root = keyOf({ ...place, path: '' });
    this._looks = this._looks.filter((look) => keyOf(look) !== root);
    for (const key of [...this._folders.keys()].filter((each) => each.startsWith(root))) {
      this._folders.delete(key);
      this._open.delete(key);
    }
    if (this._selected.startsWith(root)) {
      this._selected = keyOf({ volume: place.volume, version: null, path: '' });
    }
    this.emit();
  }

  /** Open a folder; it is read where it was not. */
  expand(key: string, place: Place): void {
    this._open.set(key, place);
    const folder = this._folders.get(key);
    if (!folder || (folder.problem && !folder.loading)) {
      void this.load(place);
    }
    this.emit();
  }

  /** Close a folder. */
  collapse(key: string): void {
    this._open.delete(key);
    this.emit();
  }

  /** Whether a folder is open. */
  isOpen(key: string): boolean {
    return this._open.has(key);
  }

  /** Open all folders above a path, and select it. */
  async reveal(place: Place): Promise<void> {
    const above: Place[] = [];
    for (let path = place.path; path;) {
      path = parentOf(path);
      above.unshift({ ...place, path });
    }
    for (const folder of above) {
      this._open.set(keyOf(folder), folder);
      if (!this._folders.get(keyOf(folder))?.entries) {
        await this.load(folder);
      }
    }
    this.select(keyOf(place));
  }

  /** Select a line. */
  select(key: string): void {
    if (this._selected !== key) {
      this._selected = key;
      this.emit();
    }
  }

  /** Say what is wrong with a place, below it. "" takes it away. */
  complain(place: Place, text: string): void {
    if (text) {
      this._problems.set(keyOf(place), text);
    } else if (!this._problems.delete(keyOf(place))) {
      return;
    }
    this.emit();
  }

  /** Ask for a name for something new in a folder; for a volume where the place has no volume. */
  startNaming(place: Place | null): void {
    this._naming = place;
    if (place?.volume) {
      this.expand(keyOf(place), place);
    }
    this.emit();
  }

  /** The entry at a place, where its folder has been read. */
  entryAt(place: Place): Entry | undefined {
    const folder = this._folders.get(keyOf({ ...place, path: parentOf(place.path) }));
    return folder?.entries?.find((entry) => entry.path === place.path);
  }

  /** Read the open folders of a volume again. */
  refresh(volume: string): void {
    const prefix = keyOf({ volume, version: null, path: '' });
    for (const [key, place] of this._open) {
      if (key.startsWith(prefix)) {
        void this.load(place);
      }
    }
    // What is closed is read when it is opened.
    for (const key of [...this._folders.keys()]) {
      if (key.startsWith(prefix) && !this._open.has(key)) {
        this._folders.delete(key);
      }
    }
  }

  /** Read the open folders again that could not be read. */
  again(): void {
    for (const [key, place] of this._open) {
      if (this._folders.get(key)?.problem) {
        void this.load(place);
      }
    }
  }

  /** Read one folder, or read it again. */
  async load(place: Place): Promise<void> {
    const key = keyOf(place);
    let folder = this._folders.get(key);
    if (folder?.loading) {
      folder.again = true;
      return folder.entries === null ? this._running.get(key) : undefined;
    }
    if (!folder) {
      folder = { entries: null, loading: false, again: false, problem: '' };
      this._folders.set(key, folder);
    }
    const running = this.read(place, folder);
    this._running.set(key, running);
    await running;
  }

  /** A folder or a file has another name: what was open stays open. */
  moved(from: Place, to: string): void {
    const [before, after] = [keyOf(from), keyOf({ ...from, path: to })];
    for (const [key, place] of [...this._open]) {
      if (key === before || key.startsWith(before + '/')) {
        this._open.delete(key);
        const moved = { ...place, path: to + place.path.slice(from.path.length) };
        this._open.set(keyOf(moved), moved);
        void this.load(moved);
      }
    }
    for (const key of [...this._folders.keys()]) {
      if (key === before || key.startsWith(before + '/')) {
        this._folders.delete(key);
      }
    }
    if (this._selected === before || this._selected.startsWith(before + '/')) {
      this._selected = after + this._selected.slice(before.length);
    }
    this.emit();
  }

  /** The lines, from top to bottom. */
  rows(): readonly Row[] {
    if (this._rows === null) {
      this._rows = this.build();
    }
    return this._rows;
  }

  private build(): Row[] {
    const rows: Row[] = [];
    const roots: Row[] = [];
    for (const info of this._volumes ?? []) {
      const looks = this._looks.filter((look) => look.volume === info.name);
      for (const place of [{ volume: info.name, version: null, path: '' }, ...looks]) {
        const key = keyOf(place);
        roots.push({
          key,
          kind: 'volume',
          place,
          name: info.name,
          level: 1,
          setSize: 0,
          position: 0,
          expanded: this._open.has(key),
          loading: this._folders.get(key)?.loading,
          info,
        });
      }
    }
    if (this._naming && !this._naming.volume) {
      rows.push(this.newRow(this._naming, 1));
    }
    roots.forEach((row, at) => {
      rows.push({ ...row, setSize: roots.length, position: at + 1 });
      this.below(rows, row);
    });
    return rows;
  }

  private newRow(place: Place, level: number): Row {
    return { key: 'new', kind: 'new', place, name: '', level, setSize: 1, position: 1 };
  }

  private below(rows: Row[], row: Row): void {
    const problem = this._problems.get(row.key);
    if (problem) {
      rows.push(note(row, 'problem', problem));
    }
    if (!row.expanded) {
      return;
    }
    const naming = this._naming?.volume && keyOf(this._naming) === row.key;
    if (naming && this._naming) {
      rows.push(this.newRow(this._naming, row.level + 1));
    }
    const folder = this._folders.get(row.key);
    if (folder?.problem) {
      rows.push({
        ...note(row, 'problem', folder.problem),
        key: `unread ${row.key}`,
        unread: true,
      });
    }
    if (!folder?.entries) {
      if (!folder?.problem) {
        rows.push(note(row, 'note', 'Loading…'));
      }
      return;
    }
    if (!folder.entries.length && !folder.loading && !naming) {
      const empty =
        row.kind === 'volume' && row.place.version === null
          ? 'Nothing in it yet. Drop files here, or write to it from a cell.'
          : 'An empty folder.';
      rows.push(note(row, 'note', empty));
    }
    folder.entries.forEach((entry, at) => {
      const place = { ...row.place, path: entry.path };
      const key = keyOf(place);
      const child: Row = {
        key,
        kind: entry.kind,
        place,
        name: entry.name,
        level: row.level + 1,
        setSize: folder.entries?.length ?? 0,
        position: at + 1,
        entry,
      };
      if (entry.kind === 'dir') {
        child.expanded = this._open.has(key);
        child.loading = child.expanded && this._folders.get(key)?.loading;
      }
      rows.push(child);
      if (child.expanded || this._problems.size) {
        this.below(rows, child);
      }
    });
  }

  private async read(place: Place, folder: Folder): Promise<void> {
    folder.loading = true;
    this.emit();
    try {
      do {
        folder.again = false;
        let found: Entry[] = [];
        const first = folder.entries === null;
        await this.reader.entries(place.volume, place.path, place.version, (some) => {
          found = found.concat(some);
          // A folder that is read for the first time fills as it comes; one that is read again changes at once.
          if (first && found.length <= SORTED_BY_NUMBER) {
            folder.entries = sorted(found);
            this.emit();
          }
        });
        folder.entries = sorted(found);
        folder.problem = '';
      } while (folder.again);
    } catch (error) {
      folder.problem = error instanceof Error ? error.message : String(error);
      const status = (error as { status?: number }).status;
      if (status === 404 && place.path) {
        // It is gone: its parent, which is read again too, no longer has it.
        this._open.delete(keyOf(place));
        this._folders.delete(keyOf(place));
      }
    } finally {
      folder.loading = false;
      this._running.delete(keyOf(place));
      this.emit();
    }
  }

  private forget(volume: string): void {
    const prefix = `${volume}@`;
    for (const map of [this._open, this._folders, this._problems]) {
      for (const key of [...map.keys()]) {
        if (key.startsWith(prefix)) {
          map.delete(key);
        }
      }
    }
    this._looks = this._looks.filter((look) => look.volume !== volume);
  }

  private emit(): void {
    this._rows = null;
    this._changed.emit();
  }

  private _volumes: VolumeInfo[] | null = null;
  private _looks: Place[] = [];
  private _open = new Map<string, Place>();
  private _folders = new Map<string, Folder>();
  private _running = new Map<string, Promise<void>>();
  private _problems = new Map<string, string>();
  private _selected = '';
  private _naming: Place | null = null;
  private _rows: Row[] | null = null;
  private _changed = new Signal<this, void>(this);
}
