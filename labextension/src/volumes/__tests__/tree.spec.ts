import type { Entry, VolumeInfo } from '../api';
import { neighbour } from '../neighbour';
import { VolumeTree } from '../tree';
import { folderOf, keyOf, sorted } from '../tree-rows';
import type { Reader } from '../tree';
import type { Place, Row } from '../tree-rows';

const entry = (path: string, more: Partial<Entry> = {}): Entry => ({
  path,
  name: path.slice(path.lastIndexOf('/') + 1),
  kind: 'file',
  size: 1,
  mtime: 1,
  files: 0,
  target: '',
  ...more,
});
const dir = (path: string) => entry(path, { kind: 'dir' });
const info = (name: string, version = 1, id = `vo-${name}`): VolumeInfo => ({
  name,
  volume_id: id,
  created: 1,
  version,
  changed: 1,
  files: 0,
  size: 0,
});
const root = (volume: string, version: number | null = null): Place => ({
  volume,
  version,
  path: '',
});
const lines = (tree: VolumeTree) =>
  tree.rows().map((row) => `${' '.repeat(row.level - 1)}${row.name}`);

/** Folders by key, each question answered when it is asked, unless it is held. */
class Folders implements Reader {
  readonly asked: string[] = [];
  hold: Promise<void> | null = null;

  constructor(readonly folders: Record<string, Entry[] | Error>) {}

  async entries(
    volume: string,
    path: string,
    version: number | null,
    some: (entries: Entry[]) => void,
  ): Promise<void> {
    const key = keyOf({ volume, path, version });
    this.asked.push(key);
    if (this.hold) {
      await this.hold;
    }
    const found = this.folders[key] ?? [];
    if (found instanceof Error) {
      throw found;
    }
    for (let at = 0; at < found.length; at += 2000) {
      some(found.slice(at, at + 2000));
    }
  }
}

async function opened(tree: VolumeTree, ...places: Place[]): Promise<void> {
  for (const place of places) {
    tree.expand(keyOf(place), place);
    await tree.load(place);
  }
}

describe('the tree of volumes', () => {
  it('reads a folder when it is opened, and shows folders first', async () => {
    const folders = new Folders({
      'data@:': [entry('b10.csv'), entry('b9.csv'), dir('z')],
      'data@:z': [entry('z/x')],
    });
    const tree = new VolumeTree(folders);
    tree.setVolumes([info('other'), info('data')]);
    expect(lines(tree)).toEqual(['data', 'other']);
    expect(folders.asked).toEqual([]);

    await opened(tree, root('data'), { ...root('data'), path: 'z' });
    expect(lines(tree)).toEqual(['data', ' z', '  x', ' b9.csv', ' b10.csv', 'other']);
    const z = tree.rows()[1];
    expect([z.level, z.position, z.setSize, z.expanded]).toEqual([2, 1, 3, true]);
  });

  it('says that it loads, and that a folder is empty', async () => {
    const folders = new Folders({});
    let go = () => {};
    folders.hold = new Promise((resolve) => (go = resolve));
    const tree = new VolumeTree(folders);
    tree.setVolumes([info('data')]);
    tree.expand('data@:', root('data'));
    expect(lines(tree)).toEqual(['data', ' Loading…']);
    go();
    await tree.load(root('data'));
    expect(lines(tree)[1]).toMatch(/Nothing in it yet/);
  });

  it('says below a folder why it cannot be read, and reads it when it is asked again', async () => {
    const folders = new Folders({ 'data@:': new Error('The store does not answer.') });
    const tree = new VolumeTree(folders);
    tree.setVolumes([info('data')]);
    await opened(tree, root('data'));
    expect(tree.rows()[1]).toMatchObject({ kind: 'problem', text: 'The store does not answer.' });
    folders.folders['data@:'] = [entry('a')];
    tree.again();
    await tree.load(root('data'));
    expect(lines(tree)).toEqual(['data', ' a']);
    folders.asked.length = 0;
    tree.again();
    expect(folders.asked).toEqual([]);
  });

  it('reads open folders again when the volume has another version, and no others', async () => {
    const folders = new Folders({
      'data@:': [dir('in'), dir('out')],
      'data@:in': [entry('in/a')],
      'other@:': [],
    });
    const tree = new VolumeTree(folders);
    tree.setVolumes([info('data', 1), info('other', 1)]);
    await opened(tree, root('data'), root('other'), { ...root('data'), path: 'in' });
    folders.folders['data@:in'] = [entry('in/a'), entry('in/b')];
    folders.asked.length = 0;
    tree.setVolumes([info('data', 2), info('other', 1)]);
    await tree.load({ ...root('data'), path: 'in' });
    expect(new Set(folders.asked)).toEqual(new Set(['data@:', 'data@:in']));
    expect(lines(tree)).toEqual([
      'data',
      ' in',
      '  a',
      '  b',
      ' out',
      'other',
      ' Nothing in it yet. Drop files here, or write to it from a cell.',
    ]);
  });

  it('forgets a folder that is gone', async () => {
    const folders = new Folders({ 'data@:': [dir('in')], 'data@:in': [entry('in/a')] });
    const tree = new VolumeTree(folders);
    tree.setVolumes([info('data', 1)]);
    await opened(tree, root('data'), { ...root('data'), path: 'in' });
    folders.folders['data@:'] = [];
    folders.folders['data@:in'] = Object.assign(new Error('gone'), { status: 404 });
    tree.setVolumes([info('data', 2)]);
    await tree.load(root('data'));
    await tree.load({ ...root('data'), path: 'in' }).catch(() => undefined);
    expect(lines(tree)).toHaveLength(2);
    expect(tree.isOpen('data@:in')).toBe(false);
  });

  it('forgets a volume that was made anew under the same name', async () => {
    const tree = new VolumeTree(new Folders({ 'data@:': [entry('a')] }));
    tree.setVolumes([info('data', 5, 'vo-1')]);
    await opened(tree, root('data'));
    tree.setVolumes([info('data', 0, 'vo-2')]);
    expect(lines(tree)).toEqual(['data']);
  });

  it('shows an older version below the volume, until it is closed', async () => {
    const folders = new Folders({ 'data@:': [entry('new')], 'data@3:': [entry('old')] });
    const tree = new VolumeTree(folders);
    tree.setVolumes([info('data', 5)]);
    tree.look('data', 3);
    await tree.load(root('data', 3));
    expect(tree.rows().map((row) => row.key)).toEqual(['data@:', 'data@3:', 'data@3:old']);
    expect(tree.selected).toBe('data@3:');
    tree.close({ ...root('data', 3), path: 'old' });
    expect(lines(tree)).toEqual(['data']);
    expect(tree.selected).toBe('data@:');
  });

  it('keeps folders open that are renamed', async () => {
    const folders = new Folders({
      'data@:': [dir('in')],
      'data@:in': [dir('in/deep')],
      'data@:in/deep': [entry('in/deep/a')],
    });
    const tree = new VolumeTree(folders);
    tree.setVolumes([info('data')]);
    await opened(
      tree,
      root('data'),
      { ...root('data'), path: 'in' },
      { ...root('data'), path: 'in/deep' },
    );
    tree.select('data@:in/deep');
    Object.assign(folders.folders, {
      'data@:': [dir('out')],
      'data@:out': [dir('out/deep')],
      'data@:out/deep': [entry('out/deep/a')],
    });
    tree.moved({ ...root('data'), path: 'in' }, 'out');
    await tree.load(root('data'));
    await tree.load({ ...root('data'), path: 'out/deep' });
    expect(lines(tree)).toEqual(['data', ' out', '  deep', '   a']);
    expect(tree.selected).toBe('data@:out/deep');
  });

  it('opens what is above a path', async () => {
    const folders = new Folders({
      'data@:': [dir('a')],
      'data@:a': [dir('a/b')],
      'data@:a/b': [entry('a/b/c')],
    });
    const tree = new VolumeTree(folders);
    tree.setVolumes([info('data')]);
    await tree.reveal({ ...root('data'), path: 'a/b/c' });
    expect(lines(tree)).toEqual(['data', ' a', '  b', '   c']);
    expect(tree.selected).toBe('data@:a/b/c');
  });

  it('puts a problem below its line, and a place for a name into its folder', async () => {
    const tree = new VolumeTree(new Folders({ 'data@:': [entry('a'), entry('b')] }));
    tree.setVolumes([info('data')]);
    await opened(tree, root('data'));
    tree.complain({ ...root('data'), path: 'a' }, 'It is in use.');
    tree.startNaming(root('data'));
    expect(tree.rows().map((row) => row.kind)).toEqual([
      'volume',
      'new',
      'file',
      'problem',
      'file',
    ]);
    tree.complain({ ...root('data'), path: 'a' }, '');
    tree.startNaming({ ...root(''), volume: '' });
    expect(tree.rows().map((row) => row.kind)).toEqual(['new', 'volume', 'file', 'file']);
  });

  it('holds 10,000 entries, in the order of their numbers', async () => {
    const many = Array.from({ length: 10_000 }, (_, at) => entry(`f${at}`)).sort((one, other) =>
      one.path < other.path ? -1 : 1,
    );
    const tree = new VolumeTree(new Folders({ 'data@:': many }));
    tree.setVolumes([info('data')]);
    await opened(tree, root('data'));
    const rows = tree.rows();
    expect(rows).toHaveLength(10_001);
    expect(rows[10_000].name).toBe('f9999');
    expect(tree.rows()).toBe(rows);
  });

  it('sorts as people do', () => {
    const names = ['b', 'A', 'a2', 'a10', 'Z'];
    expect(
      sorted([...names.map((name) => entry(name)), dir('y')]).map((each) => each.name),
    ).toEqual(['y', 'A', 'a2', 'a10', 'b', 'Z']);
  });

  it('finds the folder of a line, and what is selected after it goes', async () => {
    const tree = new VolumeTree(new Folders({ 'data@:': [entry('a'), entry('b'), dir('in')] }));
    tree.setVolumes([info('data')]);
    await opened(tree, root('data'));
    const row = (name: string) => tree.rows().find((each) => each.name === name) as Row;
    expect(folderOf(row('a'))).toEqual(root('data'));
    expect(folderOf(row('in')).path).toBe('in');
    expect(neighbour(tree.rows(), row('a'))).toBe('data@:b');
    expect(neighbour(tree.rows(), row('b'))).toBe('data@:a');
    expect(neighbour([row('b')], row('b'))).toBe('data@:');
  });
});
