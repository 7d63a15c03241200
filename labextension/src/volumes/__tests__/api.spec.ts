import type { Gateway } from '../../gateway/rest';
import { GatewayError } from '../../gateway/rest';
import type { Entry } from '../api';
import { VolumesApi, folderEntries } from '../api';

interface Asked {
  method: string;
  url: string;
  body: string;
}

/** The API, whose questions are written down and answered by `answer`. */
function api(answer: () => { status?: number; body: string; headers?: Record<string, string> }) {
  const asked: Asked[] = [];
  const gateway = {
    url: (path: string) => `/skylift/${path}`,
    fetch: (url: string, init: RequestInit = {}) => {
      const text = typeof init.body === 'string' ? init.body : '';
      asked.push({ method: init.method ?? 'GET', url, body: text });
      const { status = 200, body, headers = {} } = answer();
      if (status >= 400) {
        const { error, message } = JSON.parse(body) as { error: string; message: string };
        return Promise.reject(new GatewayError(status, error, message));
      }
      return Promise.resolve({
        headers: { get: (name: string) => headers[name] ?? null },
        text: () => Promise.resolve(body),
        json: () => Promise.resolve(JSON.parse(body) as unknown),
        arrayBuffer: () => Promise.resolve(new TextEncoder().encode(body).buffer),
      });
    },
  };
  return { api: new VolumesApi(gateway as unknown as Gateway), asked };
}

const row = (path: string, more = {}) =>
  JSON.stringify({ path, kind: 'file', size: 3, mtime: 1, mode: 420, files: 0, ...more });
describe('volumes over REST', () => {
  it('reads what is in a folder, also names that are no text', async () => {
    const lines = `${row('in/a')}\n${row('in/b\\xff', { raw: '696e2f62ff' })}\n`;
    const { api: volumes, asked } = api(() => ({ body: lines }));
    const found: Entry[] = [];
    await volumes.entries('data', 'in\udcff #', null, (some) => found.push(...some));
    expect(found.map((each) => each.path)).toEqual(['in/a', 'in/b\udcff']);
    expect(found[1].name).toBe('b\udcff');
    expect(asked[0].url).toBe(`v1/volumes/data/entries?path=%2Fin%FF%20%23`);
  });

  it('raises what comes in the last line', async () => {
    const lines = `${row('a')}\n{"error": "RemoteError", "message": "A blob is damaged."}\n`;
    const { api: volumes } = api(() => ({ body: lines }));
    await expect(volumes.entries('data', '', 3, () => undefined)).rejects.toThrow(
      'A blob is damaged.',
    );
  });

  it('knows what is not there from what went wrong', async () => {
    const problem = (status: number, error: string) =>
      api(() => ({ status, body: JSON.stringify({ error, message: 'Words.' }) })).api;
    expect(await problem(404, 'PathNotFoundError').stat('data', 'a')).toBeNull();
    await expect(problem(404, 'NotFoundError').stat('data', 'a')).rejects.toThrow('Words.');
    await expect(problem(503, 'ConnectionError').stat('data', 'a')).rejects.toThrow('Words.');
  });

  it('sends forms with the bytes of paths', async () => {
    const { api: volumes, asked } = api(() => ({ body: '{"version": 4}' }));
    await volumes.rename('data', 'a\udcff', 'ü&b', true);
    await volumes.remove('data', 'in', true);
    await volumes.restore('data', 3);
    expect(asked.map(({ method, url, body }) => [method, url, body])).toEqual([
      ['POST', 'v1/volumes/data/rename', 'source=a%FF&target=%C3%BC%26b&force=true'],
      ['POST', 'v1/volumes/data/remove', 'path=in&recursive=true'],
      ['POST', 'v1/volumes/data/restore', 'version=3'],
    ]);
  });

  it('reads the beginning of a file', async () => {
    const { api: volumes, asked } = api(() => ({
      status: 206,
      body: 'abc',
      headers: { 'Content-Range': 'bytes 0-2/500', ETag: '"x"' },
    }));
    const read = await volumes.read('data', 'a b', 2, 3);
    expect([read.bytes.length, read.size, read.tag]).toEqual([3, 500, '"x"']);
    expect(asked[0].url).toBe(`files/data?path=a%20b&version=2`);
    expect(volumes.fileUrl('data', 'a b', null, true)).toBe(
      `/skylift/files/data?path=a%20b&download=1`,
    );
  });

  it('describes a folder as msgpack', () => {
    expect([...folderEntries('a')]).toEqual([
      0x91, 0x93, 0xc5, 0, 1, 0x61, 0xa3, 0x64, 0x69, 0x72, 0xcd, 0x01, 0xed,
    ]);
  });
});
