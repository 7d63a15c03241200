import { codeFor, insertionAt, variableFor } from '../code';
import type { CodeTarget } from '../code';
import { mountsOf } from '../mounts';

const target = (path: string, more: Partial<CodeTarget> = {}): CodeTarget => ({
  volume: 'data',
  version: null,
  path,
  folder: false,
  ...more,
});

/** The cell after a drop at `|`. */
function dropped(cell: string, file: CodeTarget): string {
  const offset = cell.indexOf('|');
  const source = cell.replace('|', '');
  const { at, text } = insertionAt(source, offset, file, mountsOf(source));
  return source.slice(0, at) + text + source.slice(at);
}

describe('the volumes of a cell', () => {
  it.each([
    ['%%gpu H100 --volume data:/data\nx', [{ volume: 'data', path: '/data' }]],
    [
      '\n%%gpu --volume=data:/mnt/in:ro --volume out:/out',
      [
        { volume: 'data', path: '/mnt/in' },
        { volume: 'out', path: '/out' },
      ],
    ],
    ['%%gpu --volume "data:/my data"', [{ volume: 'data', path: '/my data' }]],
    ['%%gpu H100\n# --volume data:/data', []],
    ['%%gpus --volume data:/data', []],
    ['x = 1', []],
    ['%%gpu --volume', []],
  ])('%j', (cell, mounts) => {
    expect(mountsOf(cell)).toEqual(mounts);
  });
});

describe('code that opens a file', () => {
  const mounts = [{ volume: 'data', path: '/data' }];

  it.each([
    ['train.csv', 'pd.read_csv("/data/train.csv")'],
    ['a/b.TSV', 'pd.read_csv("/data/a/b.TSV", sep="\\t")'],
    ['x.parquet', 'pd.read_parquet("/data/x.parquet")'],
    ['x.json', 'json.load(open("/data/x.json"))'],
    ['notes.md', 'open("/data/notes.md").read()'],
    ['model.bin', 'open("/data/model.bin", "rb").read()'],
    ['model.pt', 'torch.load("/data/model.pt", map_location="cpu")'],
    ['it\'s "odd" \udcff.csv', 'pd.read_csv("/data/it\'s \\"odd\\" \\udcff.csv")'],
  ])('where the volume is mounted: %s', (path, expression) => {
    expect(codeFor(target(path), mounts).expression).toBe(expression);
  });

  it('reads it with the SDK elsewhere', () => {
    expect(codeFor(target('in/train.csv'), [])).toEqual({
      imports: ['import io', 'import pandas as pd', 'import skylift'],
      expression:
        'pd.read_csv(io.BytesIO(b"".join(skylift.Volume.from_name("data").read_file("/in/train.csv"))))',
      variable: 'train',
    });
    expect(codeFor(target('notes.txt'), []).expression).toBe(
      'b"".join(skylift.Volume.from_name("data").read_file("/notes.txt")).decode()',
    );
  });

  it('reads an older version with the SDK, also where the volume is mounted', () => {
    expect(codeFor(target('a.bin', { version: 3 }), mounts).expression).toBe(
      'b"".join(skylift.Volume.from_name("data").at(3).read_file("/a.bin"))',
    );
  });

  it('lists folders', () => {
    expect(codeFor(target('images', { folder: true }), mounts).expression).toBe(
      'os.listdir("/data/images")',
    );
    expect(codeFor(target('', { folder: true }), mounts).expression).toBe('os.listdir("/data")');
    expect(codeFor(target('', { folder: true }), []).expression).toBe(
      'skylift.Volume.from_name("data").listdir("/")',
    );
  });

  it.each([
    ['in/Train Set-2.csv', 'train_set_2'],
    ['2024.csv', 'data_2024'],
    ['class.csv', 'class_'],
    ['日本.csv', 'data'],
    ['a.tar.gz', 'a'],
  ])('names what comes of %s %s', (path, name) => {
    expect(variableFor(path)).toBe(name);
  });
});

describe('a drop', () => {
  const csv = target('train.csv');
  const mounted = '%%gpu H100 --volume data:/data';
  const lines = 'import pandas as pd\n\ntrain = pd.read_csv("/data/train.csv")';

  it('into a cell with only a magic line comes below it', () => {
    expect(dropped(`${mounted}|`, csv)).toBe(`${mounted}\n${lines}`);
    expect(dropped(`%%g|pu H100 --volume data:/data`, csv)).toBe(`${mounted}\n${lines}`);
  });

  it('onto an empty line takes it', () => {
    expect(dropped(`${mounted}\n|`, csv)).toBe(`${mounted}\n${lines}`);
    expect(dropped(`${mounted}\n|\nprint(1)`, csv)).toBe(`${mounted}\n${lines}\nprint(1)`);
  });

  it('onto a line comes below it', () => {
    expect(dropped(`${mounted}\npri|nt(1)\nprint(2)`, csv)).toBe(
      `${mounted}\nprint(1)\n${lines}\nprint(2)`,
    );
  });

  it('keeps the indentation, and does not import twice', () => {
    expect(dropped(`${mounted}\nimport pandas as pd\nif x:\n    print(1)|`, csv)).toBe(
      `${mounted}\nimport pandas as pd\nif x:\n    print(1)\n    train = pd.read_csv("/data/train.csv")`,
    );
  });

  it('into a call gives the path, where there is one', () => {
    expect(dropped(`${mounted}\npd.read_csv(|)`, csv)).toBe(
      `${mounted}\npd.read_csv("/data/train.csv")`,
    );
    expect(dropped(`${mounted}\npd.read_csv("|")`, csv)).toBe(
      `${mounted}\npd.read_csv("/data/train.csv")`,
    );
    expect(dropped('len(|)', target('a.bin'))).toBe(
      'len(b"".join(skylift.Volume.from_name("data").read_file("/a.bin")))',
    );
  });

  it('behind an assignment gives what opens it', () => {
    expect(dropped(`${mounted}\nrows = |`, csv)).toBe(
      `${mounted}\nrows = pd.read_csv("/data/train.csv")`,
    );
    expect(dropped(`${mounted}\nif rows == |`, csv)).toContain(`if rows == \n${lines}`);
  });

  it('into an empty cell', () => {
    expect(dropped('|', target('a.bin'))).toBe(
      'import skylift\n\na = b"".join(skylift.Volume.from_name("data").read_file("/a.bin"))',
    );
  });
});
