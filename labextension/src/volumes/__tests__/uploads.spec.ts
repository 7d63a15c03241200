import { GatewayError } from '../../gateway/rest';
import type { Entry } from '../api';
import { UnfinishedUploads } from '../unfinished';
import { UploadQueue } from '../uploads';
import type { Transport, Upload } from '../upload-types';

const MIB = 1024 * 1024;

/** A server that keeps what it is sent, and a network that can break. */
class Server implements Transport {
  readonly stored = new Map<string, Uint8Array>();
  readonly entries = new Map<string, Entry>();
  readonly parts: [id: string, offset: number, bytes: number][] = [];
  readonly begun: string[] = [];
  /** Called before each request is answered. */
  before: (what: string, id: string) => void | Promise<void> = () => undefined;
  pauses = 0;
  private readonly held = new Map<string, { path: string; bytes: Uint8Array; size: number }>();

  async begin(
    volume: string,
    path: string,
    size: number,
    modified: number,
  ): Promise<{ upload_id: string; offset: number }> {
    await this.before('begin', path);
    const id = `${volume}/${path}/${size}/${modified}`;
    this.begun.push(id);
    const held = this.held.get(id) ?? { path: `${volume}/${path}`, bytes: new Uint8Array(), size };
    this.held.set(id, held);
    return { upload_id: id, offset: held.bytes.length };
  }

  async put(
    id: string,
    offset: number,
    part: ArrayBuffer,
    signal: AbortSignal,
  ): Promise<{ offset: number }> {
    await this.before('put', id);
    if (signal.aborted) {
      throw new DOMException('aborted', 'AbortError');
    }
    const held = this.held.get(id);
    if (!held) {
      throw new GatewayError(404, 'UploadNotFoundError', 'This upload is not known.');
    }
    if (offset !== held.bytes.length) {
      throw new GatewayError(409, 'ConflictError', `It is at ${held.bytes.length}.`);
    }
    this.parts.push([id, offset, part.byteLength]);
    const bytes = new Uint8Array(held.bytes.length + part.byteLength);
    bytes.set(held.bytes);
    bytes.set(new Uint8Array(part), held.bytes.length);
    held.bytes = bytes;
    await this.before('answer', id);
    return { offset: bytes.length };
  }

  async finish(id: string): Promise<void> {
    await this.before('finish', id);
    const held = this.held.get(id);
    if (!held || held.bytes.length !== held.size) {
      throw new GatewayError(409, 'ConflictError', 'It is not whole.');
    }
    this.stored.set(held.path, held.bytes);
    this.held.delete(id);
    await this.before('finished', id);
  }

  async cancel(id: string): Promise<void> {
    this.held.delete(id);
  }

  async stat(volume: string, path: string): Promise<Entry | null> {
    await this.before('stat', path);
    return this.entries.get(`${volume}/${path}`) ?? null;
  }

  async pause(): Promise<void> {
    this.pauses += 1;
  }

  has(id: string): boolean {
    return this.held.has(id);
  }
}

function file(name: string, size: number, fill = 7): File {
  const bytes = new Uint8Array(size).map((_, at) => (at * fill + (at >> 12)) & 0xff);
  const made = new File([bytes], name, { lastModified: 1_700_000_000_000 });
  // jsdom's blobs cannot be read in this way.
  made.slice = ((from: number, to: number) => ({
    arrayBuffer: async () => bytes.slice(from, to).buffer,
  })) as unknown as File['slice'];
  return made;
}

function entry(path: string, mtime = 1): Entry {
  return { path, name: path, kind: 'file', size: 3, mtime, files: 0, target: '' };
}

function until(queue: UploadQueue, holds: () => boolean): Promise<void> {
  return new Promise((resolve) => {
    const look = () => {
      if (holds()) {
        queue.changed.disconnect(look);
        resolve();
      }
    };
    queue.changed.connect(look);
    look();
  });
}

const over = (queue: UploadQueue, ...uploads: Upload[]) =>
  until(queue, () =>
    uploads.every((upload) => ['done', 'failed', 'cancelled', 'skipped'].includes(upload.state)),
  );

class Texts {
  readonly texts = new Map<string, string>();
  getItem = (name: string) => this.texts.get(name) ?? null;
  setItem = (name: string, text: string) => void this.texts.set(name, text);
  removeItem = (name: string) => void this.texts.delete(name);
}

describe('uploads', () => {
  it('sends parts that grow to 8 MiB, and what arrives is what was sent', async () => {
    const server = new Server();
    let time = 0;
    const queue = new UploadQueue(server, undefined, () => (time += 10));
    const big = file('big.bin', 40 * MIB + 5);
    const [upload] = queue.add('data', [{ path: 'in/big.bin', file: big }]);
    await over(queue, upload);
    expect(upload.state).toBe('done');
    expect(server.parts.map(([, , bytes]) => bytes / MIB)).toEqual([
      1,
      2,
      4,
      8,
      8,
      8,
      8,
      1 + 5 / MIB,
    ]);
    const sent = server.stored.get('data/in/big.bin') as Uint8Array;
    const whole = new Uint8Array(await big.slice(0, big.size).arrayBuffer());
    expect(sent.length).toBe(whole.length);
    expect(sent.every((byte, at) => byte === whole[at])).toBe(true);
  });

  it('sends small parts where the network is slow', async () => {
    const server = new Server();
    let time = 0;
    const queue = new UploadQueue(server, undefined, () => (time += 2000));
    const [upload] = queue.add('data', [{ path: 'a', file: file('a', 3 * MIB) }]);
    await over(queue, upload);
    expect(server.parts.map(([, , bytes]) => bytes)).toEqual([MIB, MIB, MIB]);
  });

  it('goes on by itself after the network broke, also where the answer got lost', async () => {
    const server = new Server();
    let broken = 0;
    server.before = (what) => {
      if (what === 'answer' && broken++ < 2) {
        throw new TypeError('Failed to fetch');
      }
    };
    const queue = new UploadQueue(server);
    const states: string[] = [];
    const [upload] = queue.add('data', [{ path: 'a', file: file('a', 5 * MIB) }]);
    queue.changed.connect(() => states.push(upload.state));
    await over(queue, upload);
    expect(upload.state).toBe('done');
    expect(states).toContain('waiting');
    // Nothing twice.
    expect(server.parts.reduce((sum, [, , bytes]) => sum + bytes, 0)).toBe(5 * MIB);
    expect(server.pauses).toBe(2);
  });

  it.each([502, 503, 504])('waits while it is answered with %d', async (status) => {
    const server = new Server();
    let away = 8;
    server.before = () => {
      if (away-- > 0) {
        throw new GatewayError(status, 'ConnectionError', 'The gateway does not answer.');
      }
    };
    const queue = new UploadQueue(server);
    const [upload] = queue.add('data', [{ path: 'a', file: file('a', 10) }]);
    await over(queue, upload);
    expect(upload.state).toBe('done');
  });

  it('begins anew where the server has forgotten it', async () => {
    const server = new Server();
    let first = true;
    server.before = (what, id) => {
      if (what === 'answer' && first) {
        first = false;
        void server.cancel(id);
      }
    };
    const queue = new UploadQueue(server);
    const [upload] = queue.add('data', [{ path: 'a', file: file('a', 3 * MIB) }]);
    await over(queue, upload);
    expect(upload.state).toBe('done');
    expect(server.begun).toHaveLength(2);
  });

  it('is not sent twice where only the last answer got lost', async () => {
    const server = new Server();
    server.before = (what) => {
      if (what === 'finished') {
        server.entries.set('data/a', { ...entry('a'), size: 10 });
        throw new TypeError('Failed to fetch');
      }
    };
    const queue = new UploadQueue(server);
    const [upload] = queue.add('data', [{ path: 'a', file: file('a', 10) }]);
    await over(queue, upload);
    expect(upload.state).toBe('done');
    expect(server.begun).toHaveLength(1);
  });

  it('goes on with the same file in another page', async () => {
    const server = new Server();
    const texts = new Texts();
    const before = new UploadQueue(server, new UnfinishedUploads(texts, 'uploads'));
    let parts = 0;
    let stuck = () => {};
    const isStuck = new Promise<void>((resolve) => (stuck = resolve));
    server.before = (what) => {
      if (what === 'put' && ++parts > 2) {
        stuck();
        return new Promise<void>(() => undefined);
      }
      return undefined;
    };
    before.add('data', [{ path: 'a', file: file('a', 6 * MIB) }]);
    await isStuck;

    server.before = () => undefined;
    const unfinished = new UnfinishedUploads(texts, 'uploads');
    expect(unfinished.left).toMatchObject([
      { volume: 'data', path: 'a', size: 6 * MIB, sent: 3 * MIB },
    ]);
    const queue = new UploadQueue(server, unfinished);
    const [upload] = queue.add('data', [{ path: 'a', file: file('a', 6 * MIB) }]);
    await over(queue, upload);
    expect([upload.state, upload.resumed]).toEqual(['done', 3 * MIB]);
    expect(unfinished.left).toEqual([]);
    expect(texts.texts.size).toBe(0);
  });

  it('is stopped, and what was sent is forgotten', async () => {
    const server = new Server();
    const queue = new UploadQueue(server);
    server.before = (what) => {
      if (what === 'answer') {
        queue.uploads.forEach((each) => queue.cancel(each));
      }
    };
    const [upload] = queue.add('data', [{ path: 'a', file: file('a', 20 * MIB) }]);
    await over(queue, upload);
    expect(upload.state).toBe('cancelled');
    expect(server.has(server.begun[0])).toBe(false);
    expect(server.stored.size).toBe(0);

    server.before = () => undefined;
    queue.retry(upload);
    await over(queue, upload);
    expect(upload.state).toBe('done');
  });

  it('sends two at once, and each only once', async () => {
    const server = new Server();
    let now = 0;
    let most = 0;
    server.before = async (what) => {
      if (what === 'put') {
        most = Math.max(most, ++now);
        await Promise.resolve();
        now -= 1;
      }
    };
    const queue = new UploadQueue(server);
    const files = Array.from({ length: 7 }, (_, at) => ({
      path: `f${at}`,
      file: file(`f${at}`, 10),
    }));
    const uploads = queue.add('data', files);
    expect(queue.add('data', files.slice(0, 1))).toEqual([]);
    await over(queue, ...uploads);
    expect(uploads.map((upload) => upload.state)).toEqual(Array(7).fill('done'));
    expect(most).toBeLessThanOrEqual(2);
    queue.dismiss();
    expect(queue.uploads).toEqual([]);
  });

  it('says what the gateway refuses', async () => {
    const server = new Server();
    server.before = (what) => {
      if (what === 'begin') {
        throw new GatewayError(507, 'ResourceExhaustedError', 'The store is full.');
      }
    };
    const queue = new UploadQueue(server);
    const [upload] = queue.add('data', [{ path: 'a', file: file('a', 10) }]);
    await over(queue, upload);
    expect([upload.state, upload.problem]).toEqual(['failed', 'The store is full.']);
  });

  it('says that a file cannot be read here any more', async () => {
    const server = new Server();
    const gone = file('a.csv', 10);
    gone.slice = () =>
      ({
        arrayBuffer: () => Promise.reject(new DOMException('', 'NotReadableError')),
      }) as unknown as Blob;
    const queue = new UploadQueue(server);
    const [upload] = queue.add('data', [{ path: 'a.csv', file: gone }]);
    await over(queue, upload);
    expect(upload.state).toBe('failed');
    expect(upload.problem).toMatch(
      /“a.csv” cannot be read on this computer any more.* Drop it again\./,
    );
  });

  it('sends an empty file', async () => {
    const server = new Server();
    const queue = new UploadQueue(server);
    const [upload] = queue.add('data', [{ path: 'empty', file: file('empty', 0) }]);
    await over(queue, upload);
    expect(server.stored.get('data/empty')).toHaveLength(0);
  });
});

describe('a file that is there already', () => {
  function asked() {
    const server = new Server();
    server.entries.set('data/a.csv', entry('a.csv'));
    server.entries.set('data/b.csv', entry('b.csv'));
    const queue = new UploadQueue(server);
    const files = ['a.csv', 'b.csv'].map((path) => ({ path, file: file(path, 10) }));
    return { server, queue, uploads: queue.add('data', files) };
  }
  const asks = (queue: UploadQueue, uploads: Upload[]) =>
    until(queue, () => uploads.every((each) => each.state === 'asking'));

  it('is replaced, kept beside, or left, as the person says', async () => {
    const { server, queue, uploads } = asked();
    await asks(queue, uploads);
    expect(uploads[0].problem).toBe('There is “a.csv” already.');
    expect(server.begun).toEqual([]);
    queue.answer(uploads[0], 'keep both');
    queue.answer(uploads[1], 'skip');
    await over(queue, ...uploads);
    expect(uploads.map((each) => each.state)).toEqual(['done', 'skipped']);
    expect([...server.stored.keys()]).toEqual(['data/a (2).csv']);
  });

  it('is answered for all', async () => {
    const { server, queue, uploads } = asked();
    await asks(queue, uploads);
    queue.answer(uploads[0], 'replace', true);
    await over(queue, ...uploads);
    expect([...server.stored.keys()].sort()).toEqual(['data/a.csv', 'data/b.csv']);
  });

  it('is asked about again where it was changed meanwhile', async () => {
    const { server, queue, uploads } = asked();
    await asks(queue, uploads);
    queue.answer(uploads[1], 'skip');
    server.before = (what) => {
      if (what === 'put') {
        server.entries.set('data/a.csv', entry('a.csv', 2));
      }
    };
    queue.answer(uploads[0], 'replace');
    await until(queue, () => uploads[0].state !== 'asking');
    await until(queue, () => uploads[0].state === 'asking');
    expect(uploads[0].problem).toBe(
      '“a.csv” was changed in the volume meanwhile. Replace it with this one?',
    );
    queue.answer(uploads[0], 'replace');
    await over(queue, ...uploads);
    expect([...server.stored.keys()]).toEqual(['data/a.csv']);
  });

  it('is a folder: that is said', async () => {
    const server = new Server();
    server.entries.set('data/a', { ...entry('a'), kind: 'dir' });
    const queue = new UploadQueue(server);
    const [upload] = queue.add('data', [{ path: 'a', file: file('a', 10) }]);
    await over(queue, upload);
    expect(upload.problem).toBe('There is a folder “a” in its place. Rename one of them.');
  });

  it('is not asked about after it was stopped', async () => {
    const { server, queue, uploads } = asked();
    await asks(queue, uploads);
    uploads.forEach((upload) => queue.cancel(upload));
    await over(queue, ...uploads);
    expect(uploads.map((each) => each.state)).toEqual(['cancelled', 'cancelled']);
    expect(server.stored.size).toBe(0);
  });
});
