/** Volumes over the gateway's REST interface: see docs/volumes.md. */
import type { Gateway } from '../gateway/rest';
import { GatewayError } from '../gateway/rest';
import { baseName, decodeHex, encodeBytes, percentEncode } from './names';

/** What a list of volumes says of one. */
export interface VolumeInfo {
  name: string;
  volume_id: string;
  created: number;
  /** The newest one's number. */
  version: number;
  changed: number;
  files: number;
  /** Bytes. */
  size: number;
}

/** A file, folder or symlink of a volume. */
export interface Entry {
  /** From the volume's root, without a slash before it; see names.ts for bytes that are no text. */
  path: string;
  name: string;
  kind: 'file' | 'dir' | 'link';
  /** Bytes; of a folder those of all files in it. */
  size: number;
  mtime: number;
  files: number;
  target: string;
}

/** One version: what a commit made of the volume. */
export interface Version {
  version: number;
  time: number;
  who: string;
  message: string;
  files: number;
  size: number;
  changes: {
    added?: number;
    changed?: number;
    removed?: number;
    bytes_written?: number;
    bytes_removed?: number;
  };
  overwritten: string[];
  overwritten_count: number;
}

interface EntryRow {
  path: string;
  kind: Entry['kind'];
  size: number;
  mtime: number;
  files: number;
  target?: string;
  raw?: string;
}

type Fields = [name: string, value: string][];

/** The gateway's volumes. Every method raises `GatewayError`. */
export class VolumesApi {
  constructor(private readonly gateway: Gateway) {}

  /** What is in a folder: given in pieces as they come. */
  async entries(
    volume: string,
    path: string,
    version: number | null,
    some: (entries: Entry[]) => void,
    signal?: AbortSignal,
  ): Promise<void> {
    const answer = await this.gateway.fetch(route(volume, 'entries', path, version), { signal });
    const lines = (text: string) => {
      const found: Entry[] = [];
      for (const line of text.split('\n')) {
        if (!line) {
          continue;
        }
        const row = JSON.parse(line) as EntryRow & { error?: string; message?: string };
        if (row.error) {
          throw new GatewayError(500, row.error, row.message ?? row.error);
        }
        found.push(entryOf(row));
      }
      if (found.length) {
        some(found);
      }
    };
    if (!answer.body) {
      lines(await answer.text());
      return;
    }
    const reader = answer.body.getReader();
    const decoder = new TextDecoder();
    let rest = '';
    for (;;) {
      const { done, value } = await reader.read();
      rest += decoder.decode(value, { stream: !done });
      const end = done ? rest.length : rest.lastIndexOf('\n') + 1;
      lines(rest.slice(0, end));
      rest = rest.slice(end);
      if (done) {
        return;
      }
    }
  }

  /** What is at a path, or null. */
  async stat(volume: string, path: string, version: number | null = null): Promise<Entry | null> {
    try {
      const answer = await this.gateway.fetch(route(volume, 'entry', path, version));
      return entryOf((await answer.json()) as EntryRow);
    } catch (error) {
      if (
        error instanceof GatewayError &&
        error.status === 404 &&
        error.error === 'PathNotFoundError'
      ) {
        return null;
      }
      throw error;
    }
  }

  /** Its versions, the newest first. */
  history(volume: string, limit: number): Promise<Version[]> {
    return this.gateway.get<Version[]>(`v1/volumes/${encodeURIComponent(volume)}/history`, {
      limit,
    });
  }

  /** Makes a volume. */
  async create(name: string): Promise<void> {
    await this.form('v1/volumes', [['name', name]]);
  }

  /** Deletes a volume with all its versions. */
  async delete(name: string): Promise<void> {
    await this.gateway.fetch(`v1/volumes/${encodeURIComponent(name)}`, { method: 'DELETE' });
  }

  /** Gives a volume another name. */
  async renameVolume(name: string, to: string): Promise<void> {
    await this.change(name, 'name', [['name', to]]);
  }

  /** Gives a file or a folder another path. */
  async rename(volume: string, source: string, target: string, force = false): Promise<void> {
    await this.change(volume, 'rename', [
      ['source', source],
      ['target', target],
      ['force', String(force)],
    ]);
  }

  /** Removes a file, or a folder with all that is in it. Earlier versions still have it. */
  async remove(volume: string, path: string, recursive: boolean): Promise<void> {
    await this.change(volume, 'remove', [
      ['path', path],
      ['recursive', String(recursive)],
    ]);
  }

  /** Makes the volume what it was in a version, which is a new version. */
  async restore(volume: string, version: number): Promise<Version> {
    return (await this.change(volume, 'restore', [['version', String(version)]])) as Version;
  }

  /** Makes a folder. */
  async makeFolder(volume: string, path: string): Promise<void> {
    const entries = folderEntries(path);
    await this.gateway.fetch(`v1/volumes/${encodeURIComponent(volume)}/commits`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({
        entries: { data: btoa(String.fromCharCode(...entries)), size: entries.length },
        message: 'new folder',
      }),
    });
  }

  /** Where the bytes of a file are, for `fetch` and for the page. */
  filePath(volume: string, path: string, version: number | null, download = false): string {
    const query = [`path=${percentEncode(path)}`];
    if (version !== null) {
      query.push(`version=${version}`);
    }
    if (download) {
      query.push('download=1');
    }
    return `files/${encodeURIComponent(volume)}?${query.join('&')}`;
  }

  /** The same as an address of the page. */
  fileUrl(volume: string, path: string, version: number | null, download = false): string {
    return this.gateway.url(this.filePath(volume, path, version, download));
  }

  /** The beginning of a file, up to `most` bytes; its whole size, and a tag that another content does not have. */
  async read(
    volume: string,
    path: string,
    version: number | null,
    most: number,
    signal?: AbortSignal,
  ): Promise<{ bytes: Uint8Array; size: number; tag: string }> {
    const answer = await this.gateway.fetch(this.filePath(volume, path, version), {
      headers: most > 0 ? { Range: `bytes=0-${most - 1}` } : {},
      cache: 'no-store',
      signal,
    });
    const range = /\/(\d+)$/.exec(answer.headers.get('Content-Range') ?? '');
    const bytes = new Uint8Array(await answer.arrayBuffer());
    return {
      bytes,
      size: range ? Number(range[1]) : bytes.length,
      tag: answer.headers.get('ETag') ?? '',
    };
  }

  private async change(volume: string, what: string, fields: Fields): Promise<unknown> {
    return this.form(`v1/volumes/${encodeURIComponent(volume)}/${what}`, fields);
  }

  private async form(path: string, fields: Fields): Promise<unknown> {
    const answer = await this.gateway.fetch(path, {
      method: 'POST',
      headers: { 'Content-Type': 'application/x-www-form-urlencoded' },
      body: fields.map(([name, value]) => `${name}=${percentEncode(value)}`).join('&'),
    });
    return answer.json();
  }
}

function route(volume: string, what: string, path: string, version: number | null): string {
  const older = version === null ? '' : `&version=${version}`;
  return `v1/volumes/${encodeURIComponent(volume)}/${what}?path=${percentEncode('/' + path)}${older}`;
}

function entryOf(row: EntryRow): Entry {
  const path = row.raw ? decodeHex(row.raw) : row.path;
  return {
    path,
    name: baseName(path),
    kind: row.kind,
    size: row.size,
    mtime: row.mtime,
    files: row.files,
    target: row.target ?? '',
  };
}

/** A list of one `SentEntry` (see skylift/wire/volumes.py) for a folder, as msgpack. */
export function folderEntries(path: string): Uint8Array {
  const bytes = encodeBytes(path);
  if (bytes.length > 0xffff) {
    throw new Error('This path is too long.');
  }
  const kind = [...'dir'].map((letter) => letter.charCodeAt(0));
  const mode = 0o755;
  return Uint8Array.from([
    0x91, // a list of one
    0x93, // path, kind, mode
    0xc5,
    bytes.length >> 8,
    bytes.length & 0xff,
    ...bytes,
    0xa3,
    ...kind,
    0xcd,
    mode >> 8,
    mode & 0xff,
  ]);
}
