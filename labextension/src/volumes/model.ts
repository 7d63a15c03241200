/** The volumes of a page: the tree, the uploads, and what is done with them. One for each gateway. */
import { Signal } from '@lumino/signaling';
import type { ISignal } from '@lumino/signaling';
import type { Gateway } from '../gateway/rest';
import { GatewayError } from '../gateway/rest';
import { VolumesApi } from './api';
import type { Entry, VolumeInfo } from './api';
import type { DroppedFile, Dropped } from './dropped';
import { isText, joinPath, nameProblem, parentOf, shown, volumeNameProblem } from './names';
import { VolumeTree } from './tree';
import { keyOf } from './tree-rows';
import type { Place, Row } from './tree-rows';
import { ServerTransport } from './transport';
import { neighbour } from './neighbour';
import { UnfinishedUploads } from './unfinished';
import type { Unfinished } from './unfinished';
import { UploadQueue } from './uploads';

/** The page's volumes. */
export class VolumesModel {
  /** Of a gateway: always the same one. */
  static of(gateway: Gateway): VolumesModel {
    let model = models.get(gateway);
    if (!model) {
      model = new VolumesModel(gateway);
      models.set(gateway, model);
    }
    return model;
  }

  readonly api: VolumesApi;
  readonly tree: VolumeTree;
  readonly uploads: UploadQueue;
  readonly unfinished: UnfinishedUploads;

  private constructor(readonly gateway: Gateway) {
    this.api = new VolumesApi(gateway);
    this.tree = new VolumeTree(this.api);
    this.unfinished = new UnfinishedUploads(
      window.localStorage,
      `skylift:uploads:${gateway.url('uploads')}`,
    );
    this.uploads = new UploadQueue(new ServerTransport(gateway, this.api), this.unfinished);
    this.uploads.arrived.connect((_, upload) => {
      this.say(`${shown(upload.path)} is in volume ${upload.volume}.`);
      const folder = { volume: upload.volume, version: null, path: parentOf(upload.path) };
      if (this.tree.isOpen(keyOf(folder))) {
        void this.tree.load(folder);
      }
    });
    gateway.live.stateChanged.connect((_, state) => {
      if (state === 'connected') {
        this.tree.again();
      }
    });
    window.addEventListener('beforeunload', (event) => {
      if (this.uploads.busy) {
        event.preventDefault();
      }
    });
  }

  /** What has just happened, for those who do not see it. */
  get said(): ISignal<this, string> {
    return this._said;
  }

  /** The name of something is asked for, or no longer. */
  get renamingChanged(): ISignal<this, void> {
    return this._renamingChanged;
  }

  /** Key of the line whose name is being changed, or "". */
  get renaming(): string {
    return this._renaming;
  }

  /** See `renaming`. */
  startRenaming(key: string): void {
    if (this._renaming !== key) {
      this._renaming = key;
      this._renamingChanged.emit();
    }
  }

  /** The selected line, where it is a volume, a folder or a file. */
  get selected(): Row | undefined {
    const row = this.tree.rows().find((each) => each.key === this.tree.selected);
    return row && row.kind !== 'note' && row.kind !== 'problem' && row.kind !== 'new'
      ? row
      : undefined;
  }

  /** A volume as the list has it. */
  info(volume: string): VolumeInfo | undefined {
    return this.tree.volumes?.find((info) => info.name === volume);
  }

  /** Speak. */
  say(text: string): void {
    this._said.emit(text);
  }

  /** Make a volume. Returns what is wrong with it, or "". */
  async createVolume(name: string): Promise<string> {
    return (
      volumeNameProblem(name) ||
      this.trying(async () => {
        await this.api.create(name);
        this.tree.startNaming(null);
        this.tree.select(keyOf({ volume: name, version: null, path: '' }));
        this.say(`Volume ${name} is made.`);
      })
    );
  }

  /** Make a folder. Returns what is wrong with it, or "". */
  async createFolder(folder: Place, name: string): Promise<string> {
    return (
      nameProblem(name) ||
      this.trying(async () => {
        const path = joinPath(folder.path, name);
        const there = await this.api.stat(folder.volume, path);
        if (there) {
          throw new Error(
            `There is ${there.kind === 'dir' ? 'a folder' : 'a file'} “${shown(name)}” already.`,
          );
        }
        await this.api.makeFolder(folder.volume, path);
        this.tree.startNaming(null);
        await this.tree.load(folder);
        this.tree.select(keyOf({ ...folder, path }));
        this.say(`Folder ${shown(name)} is made.`);
      })
    );
  }

  /** Give a volume, a folder or a file another name. Returns what is wrong with it, or "". */
  async rename(
    row: Row,
    name: string,
    replace: (name: string) => Promise<boolean>,
  ): Promise<string> {
    if (name === row.name) {
      this.startRenaming('');
      return '';
    }
    if (row.kind === 'volume') {
      return volumeNameProblem(name) || this.trying(() => this.renameVolume(row, name));
    }
    return nameProblem(name) || this.trying(() => this.renamePath(row, name, replace));
  }

  /** Remove it. What is wrong then is said at the line. */
  async remove(row: Row): Promise<void> {
    this.tree.complain(row.place, '');
    const problem = await this.trying(async () => {
      if (row.kind === 'volume') {
        await this.api.delete(row.place.volume);
        this.say(`Volume ${row.name} is deleted.`);
        return;
      }
      await this.api.remove(row.place.volume, row.place.path, row.kind === 'dir');
      this.say(`${shown(row.name)} is deleted.`);
      const folder = { ...row.place, path: parentOf(row.place.path) };
      this.tree.select(neighbour(this.tree.rows(), row));
      await this.tree.load(folder);
    });
    this.tree.complain(row.place, problem);
  }

  /** What is there now, and whether it is what the line shows. */
  async current(row: Row): Promise<{ entry: Entry | null; changed: boolean }> {
    const entry = await this.api.stat(row.place.volume, row.place.path);
    const listed = row.entry;
    const changed =
      entry !== null &&
      listed !== undefined &&
      (entry.size !== listed.size || entry.mtime !== listed.mtime);
    return { entry, changed };
  }

  /** Make a volume what it was in a version. */
  async restore(volume: string, version: number): Promise<number> {
    const made = await this.api.restore(volume, version);
    this.say(
      `Volume ${volume} is what it was in version ${version}. That is version ${made.version}.`,
    );
    return made.version;
  }

  /** Send what was dropped or chosen to a folder. */
  async upload(folder: Place, dropped: Dropped | DroppedFile[]): Promise<void> {
    const { files, emptyFolders, problems } = Array.isArray(dropped)
      ? { files: dropped, emptyFolders: [], problems: [] }
      : dropped;
    if (files.length && !isText(folder.path)) {
      const text = `Files cannot be uploaded to “${shown(folder.path)}”, whose name is not UTF-8. Rename it first.`;
      this.tree.complain(folder, text);
      return;
    }
    this.tree.complain(folder, problems.join('\n'));
    this.tree.expand(keyOf(folder), folder);
    this.uploads.add(
      folder.volume,
      files.map(({ path, file }) => ({ path: joinPath(folder.path, path), file })),
    );
    if (files.length) {
      this.say(
        files.length === 1
          ? `Uploading ${shown(files[0].path)} to ${folder.volume}.`
          : `Uploading ${files.length} files to ${folder.volume}.`,
      );
    }
    const failed = await this.trying(async () => {
      for (const path of emptyFolders) {
        await this.api.makeFolder(folder.volume, joinPath(folder.path, path));
      }
      if (emptyFolders.length) {
        await this.tree.load(folder);
      }
    });
    if (failed) {
      this.tree.complain(folder, [...problems, failed].join('\n'));
    }
  }

  /** Forget an upload that an earlier page began. */
  giveUp(upload: Unfinished): void {
    this.unfinished.delete(upload.id);
    // Where the server has forgotten it already, that is as well.
    void this.gateway
      .fetch(`uploads/${encodeURIComponent(upload.id)}`, { method: 'DELETE' })
      .catch(() => undefined);
  }

  private async renameVolume(row: Row, name: string): Promise<void> {
    const open = this.tree.isOpen(row.key);
    await this.api.renameVolume(row.place.volume, name);
    this.startRenaming('');
    const place = { volume: name, version: null, path: '' };
    if (open) {
      this.tree.expand(keyOf(place), place);
    }
    this.tree.select(keyOf(place));
    this.say(`Volume ${row.name} is called ${name} now.`);
  }

  private async renamePath(
    row: Row,
    name: string,
    replace: (name: string) => Promise<boolean>,
  ): Promise<void> {
    const { volume, path } = row.place;
    const target = joinPath(parentOf(path), name);
    try {
      await this.api.rename(volume, path, target);
    } catch (error) {
      const taken = error instanceof GatewayError && error.error === 'PathExistsError';
      // A folder is not replaced: who wants that deletes it first.
      if (!taken || (await this.api.stat(volume, target))?.kind === 'dir') {
        if (taken) {
          throw new Error(`There is a folder “${shown(name)}” already. Take another name.`);
        }
        throw error;
      }
      if (!(await replace(name))) {
        return;
      }
      await this.api.rename(volume, path, target, true);
    }
    this.startRenaming('');
    this.tree.moved(row.place, target);
    this.tree.select(keyOf({ ...row.place, path: target }));
    await this.tree.load({ ...row.place, path: parentOf(path) });
    this.say(`${shown(row.name)} is called ${shown(name)} now.`);
  }

  private async trying(work: () => Promise<void>): Promise<string> {
    try {
      await work();
      return '';
    } catch (error) {
      return error instanceof Error ? error.message : String(error);
    }
  }

  private _renaming = '';
  private _said = new Signal<this, string>(this);
  private _renamingChanged = new Signal<this, void>(this);
}

const models = new WeakMap<Gateway, VolumesModel>();
