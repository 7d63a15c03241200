/** Files on their way from the desktop into volumes: in parts, a few at a time, and from where they were. */
import { Signal } from '@lumino/signaling';
import type { ISignal } from '@lumino/signaling';
import type { Entry } from './api';
import { baseName, freeName, joinPath, parentOf } from './names';
import type { UnfinishedUploads } from './unfinished';
import {
  Elsewhere,
  Stopped,
  check,
  isAway,
  isPassing,
  messageOf,
  readPart,
  same,
} from './upload-errors';
import { isOver, isUnderWay } from './upload-types';
import type { Answer, Transport, Upload } from './upload-types';

const MEBIBYTE = 1024 * 1024;
const LARGEST_PART = 8 * MEBIBYTE;
const SMALLEST_PART = MEBIBYTE;
const AT_ONCE = 2;
/** A part should take about so long, so that the bar moves and little is lost when the network breaks. */
const PART_SECONDS = 1.5;
const LONGEST_PAUSE = 15_000;
const TRIES_WITHOUT_PROGRESS = 5;

interface Agreed {
  /** What is there and may be replaced; null where nothing was there. */
  entry: Entry | null;
  /** It was asked to be put into the volume, and the answer may have got lost. */
  finishing: boolean;
}

/** The queue. */
export class UploadQueue {
  constructor(
    private readonly transport: Transport,
    private readonly unfinished?: UnfinishedUploads,
    private readonly clock: () => number = () => performance.now(),
  ) {}

  /** Something about uploads has changed. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** One has arrived. */
  get arrived(): ISignal<this, Upload> {
    return this._arrived;
  }

  /** All that are not dismissed, the oldest first. */
  get uploads(): readonly Upload[] {
    return this._uploads;
  }

  /** Whether the page should not be left. */
  get busy(): boolean {
    return this._uploads.some((upload) => isUnderWay(upload));
  }

  /** Send these files to a folder. */
  add(volume: string, files: readonly { path: string; file: File }[]): Upload[] {
    const added: Upload[] = [];
    for (const { path, file } of files) {
      const twice = this._uploads.find(
        (upload) => upload.volume === volume && upload.path === path && isUnderWay(upload),
      );
      if (twice) {
        continue;
      }
      this._uploads = this._uploads.filter(
        (upload) => upload.volume !== volume || upload.path !== path || !isOver(upload),
      );
      const upload: Upload = {
        id: ++this._last,
        volume,
        path,
        file,
        state: 'queued',
        sent: 0,
        resumed: 0,
        speed: 0,
        problem: '',
      };
      this._uploads.push(upload);
      this._waiting.push(upload);
      added.push(upload);
    }
    this.emit();
    this.start();
    return added;
  }

  /** What to do about a file that is there already; with `all` about all others too. */
  answer(upload: Upload, answer: Answer, all = false): void {
    if (all) {
      this._always = answer;
    }
    const asked = all ? this._uploads.filter((each) => each.state === 'asking') : [upload];
    for (const each of asked) {
      this._asked.get(each.id)?.(answer);
    }
  }

  /** Stop it, and forget what was sent of it. */
  cancel(upload: Upload): void {
    if (isOver(upload)) {
      return;
    }
    this.set(upload, { state: 'cancelled', problem: '', sent: 0, resumed: 0, speed: 0 });
    this._waiting = this._waiting.filter((each) => each !== upload);
    this._stops.get(upload.id)?.abort();
    const id = this._ids.get(upload.id);
    if (id) {
      this._ids.delete(upload.id);
      this.unfinished?.delete(id);
      void this.transport.cancel(id).catch(() => undefined);
    }
    this.settle();
  }

  /** Try one again that failed: from where it was. */
  retry(upload: Upload): void {
    if (upload.state === 'failed' || upload.state === 'cancelled') {
      this.set(upload, { state: 'queued', problem: '' });
      this._waiting.push(upload);
      this.start();
    }
  }

  /** Take what is over from the list. */
  dismiss(upload?: Upload): void {
    this._uploads = this._uploads.filter(
      (each) => (upload ? each !== upload : true) || !isOver(each),
    );
    if (!upload) {
      this._uploads = this._uploads.filter((each) => !isOver(each));
    }
    this.emit();
  }

  private start(): void {
    while (this._running < AT_ONCE && this._waiting.length) {
      const upload = this._waiting.shift() as Upload;
      this._running += 1;
      void this.run(upload).finally(() => {
        this._running -= 1;
        this.start();
        this.settle();
      });
    }
  }

  /** An answer for all holds until all are done. */
  private settle(): void {
    if (!this._running && !this._waiting.length) {
      this._always = null;
    }
  }

  private async run(upload: Upload): Promise<void> {
    const stop = new AbortController();
    this._stops.set(upload.id, stop);
    try {
      check(stop.signal);
      const agreed: Agreed = { entry: null, finishing: false };
      await this.agree(upload, agreed, stop.signal);
      let tries = 0;
      for (;;) {
        const before = upload.sent;
        try {
          await this.send(upload, agreed, stop.signal);
          break;
        } catch (error) {
          check(stop.signal);
          if (!isPassing(error)) {
            throw error;
          }
          tries = upload.sent > before ? 0 : tries + 1;
          if (!isAway(error) && tries >= TRIES_WITHOUT_PROGRESS) {
            throw error;
          }
          this.set(upload, { state: 'waiting', speed: 0, problem: messageOf(error) });
          await this.transport.pause(
            Math.min(LONGEST_PAUSE, 500 * 2 ** Math.min(tries, 6)),
            stop.signal,
          );
          check(stop.signal);
        }
      }
      this.set(upload, { state: 'done', sent: upload.file.size, problem: '' });
      this._arrived.emit(upload);
    } catch (error) {
      if (stop.signal.aborted) {
        return;
      }
      if (error instanceof Stopped) {
        this.set(upload, { state: 'skipped' });
      } else {
        this.set(upload, { state: 'failed', speed: 0, problem: messageOf(error) });
      }
    }
  }

  /** Find out whether something is there, and ask what to do about it. */
  private async agree(
    upload: Upload,
    agreed: Agreed,
    signal: AbortSignal,
    meanwhile = false,
  ): Promise<void> {
    for (let tries = 0; ;) {
      this.set(upload, { state: 'checking' });
      let there: Entry | null;
      try {
        there = await this.transport.stat(upload.volume, upload.path);
        check(signal);
      } catch (error) {
        check(signal);
        if (!isAway(error)) {
          throw error;
        }
        this.set(upload, { state: 'waiting', problem: messageOf(error) });
        await this.transport.pause(
          Math.min(LONGEST_PAUSE, 500 * 2 ** Math.min(tries++, 6)),
          signal,
        );
        check(signal);
        continue;
      }
      if (!there || same(there, agreed.entry)) {
        agreed.entry = there;
        return;
      }
      if (there.kind === 'dir') {
        throw new Error(`There is a folder “${there.name}” in its place. Rename one of them.`);
      }
      const answer = meanwhile
        ? await this.ask(upload, true, signal)
        : (this._always ?? (await this.ask(upload, false, signal)));
      if (answer === 'skip') {
        throw new Stopped();
      }
      if (answer === 'replace') {
        agreed.entry = there;
        return;
      }
      upload.path = await this.freePath(upload);
      agreed.entry = null;
    }
  }

  private async ask(upload: Upload, meanwhile: boolean, signal: AbortSignal): Promise<Answer> {
    const name = baseName(upload.path);
    this.set(upload, {
      state: 'asking',
      problem: meanwhile
        ? `“${name}” was changed in the volume meanwhile. Replace it with this one?`
        : `There is “${name}” already.`,
    });
    try {
      return await new Promise<Answer>((resolve, reject) => {
        this._asked.set(upload.id, resolve);
        signal.addEventListener('abort', () => reject(new Stopped()), { once: true });
      });
    } finally {
      this._asked.delete(upload.id);
      this.set(upload, { problem: '' });
    }
  }

  private async freePath(upload: Upload): Promise<string> {
    const folder = parentOf(upload.path);
    const taken = new Set<string>();
    for (;;) {
      const name = freeName(baseName(upload.path), (each) => taken.has(each));
      const path = joinPath(folder, name);
      const ours = this._uploads.some(
        (each) =>
          each !== upload &&
          each.volume === upload.volume &&
          each.path === path &&
          isUnderWay(each),
      );
      if (!ours && (await this.transport.stat(upload.volume, path)) === null) {
        return path;
      }
      taken.add(name);
    }
  }

  private async send(upload: Upload, agreed: Agreed, signal: AbortSignal): Promise<void> {
    const { file } = upload;
    const modified = file.lastModified / 1000;
    if (agreed.finishing) {
      const arrived = await this.transport.stat(upload.volume, upload.path);
      check(signal);
      if (arrived && arrived.size === file.size && !same(arrived, agreed.entry)) {
        return;
      }
      agreed.finishing = false;
    }
    const begun = await this.transport.begin(
      upload.volume,
      upload.path,
      file.size,
      modified,
      signal,
    );
    check(signal);
    this._ids.set(upload.id, begun.upload_id);
    let offset = begun.offset;
    if (upload.resumed === 0 && upload.sent === 0) {
      upload.resumed = offset;
    }
    this.set(upload, { state: 'sending', sent: offset, problem: '' });
    this.remember(upload, begun.upload_id);
    let part = SMALLEST_PART;
    while (offset < file.size) {
      const bytes = await readPart(file, offset, offset + part);
      check(signal);
      const before = this.clock();
      const answer = await this.transport
        .put(begun.upload_id, offset, bytes, signal)
        .catch((error: Error) => {
          const { status } = error as { status?: number };
          throw status === 404 || status === 409 ? new Elsewhere(error.message) : error;
        });
      check(signal);
      const seconds = Math.max((this.clock() - before) / 1000, 0.001);
      const speed = bytes.byteLength / seconds;
      offset = answer.offset;
      this.set(upload, {
        sent: offset,
        speed: upload.speed ? 0.6 * upload.speed + 0.4 * speed : speed,
      });
      this.remember(upload, begun.upload_id);
      const fitting = 2 ** Math.floor(Math.log2(Math.max(1, speed * PART_SECONDS)));
      part = Math.min(LARGEST_PART, Math.max(SMALLEST_PART, Math.min(fitting, part * 2)));
    }
    // Somebody else may have put something there while it was on its way.
    const there = await this.transport.stat(upload.volume, upload.path);
    check(signal);
    if (there && !same(there, agreed.entry)) {
      const path = upload.path;
      await this.agree(upload, agreed, signal, true);
      if (upload.path !== path) {
        // It is another file now; what was sent is sent again.
        this.unfinished?.delete(begun.upload_id);
        void this.transport.cancel(begun.upload_id).catch(() => undefined);
        this.set(upload, { sent: 0, resumed: 0 });
        return this.send(upload, agreed, signal);
      }
    }
    this.set(upload, { state: 'storing', speed: 0 });
    agreed.finishing = true;
    await this.transport.finish(begun.upload_id, signal);
    this.unfinished?.delete(begun.upload_id);
  }

  private remember(upload: Upload, id: string): void {
    // What is over in a moment need not be remembered.
    if (upload.file.size > SMALLEST_PART) {
      this.unfinished?.set({
        id,
        volume: upload.volume,
        path: upload.path,
        size: upload.file.size,
        modified: upload.file.lastModified,
        sent: upload.sent,
      });
    }
  }

  private set(upload: Upload, change: Partial<Upload>): void {
    if (upload.state === 'cancelled' && change.state !== 'queued') {
      return;
    }
    Object.assign(upload, change);
    this.emit();
  }

  private emit(): void {
    this._changed.emit();
  }

  private _uploads: Upload[] = [];
  private _waiting: Upload[] = [];
  private _running = 0;
  private _last = 0;
  private _always: Answer | null = null;
  private _stops = new Map<number, AbortController>();
  private _ids = new Map<number, string>();
  private _asked = new Map<number, (answer: Answer) => void>();
  private _changed = new Signal<this, void>(this);
  private _arrived = new Signal<this, Upload>(this);
}
