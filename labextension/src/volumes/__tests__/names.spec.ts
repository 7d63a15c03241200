import {
  decodeBytes,
  decodeHex,
  encodeBytes,
  freeName,
  nameProblem,
  percentEncode,
  pythonString,
  shown,
  volumeNameProblem,
} from '../names';

const hexOf = (bytes: Uint8Array) =>
  [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');

describe('names of files', () => {
  it.each([
    ['train.csv', 'train.csv'],
    ['a b#?%&+.csv', 'a%20b%23%3F%25%26%2B.csv'],
    ['Größe/日本/🙂', 'Gr%C3%B6%C3%9Fe%2F%E6%97%A5%E6%9C%AC%2F%F0%9F%99%82'],
    ['a\udcffb', 'a%FFb'],
    ['a\ud83db', 'a%EF%BF%BDb'],
  ])('%j travels as %s', (path, encoded) => {
    expect(percentEncode(path)).toBe(encoded);
  });

  it('keeps all bytes', () => {
    const bytes = Uint8Array.from({ length: 1024 }, (_, at) => (at * 131 + (at >> 3)) & 0xff);
    expect([...encodeBytes(decodeBytes(bytes))]).toEqual([...bytes]);
  });

  it.each(['c3', 'c080', 'eda080', 'f5808080', 'e28228', 'f09f99', '80'])(
    '%s is no UTF-8, and is kept',
    (hex) => {
      const path = decodeHex(hex);
      expect(path).toMatch(/^[\udc80-\udcff(]+$/);
      expect(hexOf(encodeBytes(path))).toBe(hex);
    },
  );

  it('reads UTF-8', () => {
    expect(decodeHex('4772c3b6c39f6520e697a5e69cac20f09f9982')).toBe('Größe 日本 🙂');
  });

  it('shows what does not show', () => {
    expect(shown('a\udcff\n\u202eb 🙂')).toBe('a\\xff\\x0a\\u202eb 🙂');
  });

  it('writes Python', () => {
    expect(pythonString('/data/a "b"\\\udcff\n.csv')).toBe('"/data/a \\"b\\"\\\\\\udcff\\n.csv"');
  });

  it.each([
    ['', /needed/],
    ['..', /folder itself/],
    ['a/b', /“\/”/],
    ['é'.repeat(128), /255 bytes/],
  ])('%j cannot be a name', (name, why) => {
    expect(nameProblem(name)).toMatch(why);
  });

  it('says what a volume can be called', () => {
    expect(volumeNameProblem('data-2')).toBe('');
    expect(volumeNameProblem('my data')).toMatch(/letters, digits/);
    expect(volumeNameProblem('-data')).toMatch(/begins with/);
  });

  it('finds a free name', () => {
    const taken = new Set(['train (2).csv']);
    expect(freeName('train.csv', (name) => taken.has(name))).toBe('train (3).csv');
    expect(freeName('.env', () => false)).toBe('.env (2)');
  });
});
