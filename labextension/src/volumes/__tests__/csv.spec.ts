import { guessDelimiter, isNumeric, parseTable } from '../csv';

describe('tables', () => {
  it('reads quotes, newlines in them, and a byte order mark', () => {
    const table = parseTable('\ufeffa,b\r\n"x, ""y""","1\n2"\r\n\r\n3,\r\n', { most: 100 });
    expect(table.header).toEqual(['a', 'b']);
    expect(table.rows).toEqual([
      ['x, "y"', '1\n2'],
      ['3', ''],
    ]);
    expect(table.more).toBe(false);
  });

  it.each([
    ['a,b\n1,2', ','],
    ['a;b\n1,5;2,5\n3,5;4,5', ';'],
    ['a\tb, c\n1\t2', '\t'],
    ['a|b\n1|2', '|'],
    ['word\nword', ','],
  ])('guesses the delimiter of %j', (text, delimiter) => {
    expect(guessDelimiter(text)).toBe(delimiter);
  });

  it('leaves out the last row of a beginning', () => {
    expect(parseTable('a,b\n1,2\n3,', { most: 100, cut: true })).toMatchObject({
      rows: [['1', '2']],
      more: true,
    });
    expect(parseTable('a,b\n1,2\n"3\n4', { most: 100, cut: true })).toMatchObject({
      rows: [['1', '2']],
      more: true,
    });
  });

  it('reads only so many rows', () => {
    const text = Array.from({ length: 1000 }, (_, at) => `${at},x`).join('\n');
    const table = parseTable(text, { most: 10 });
    expect(table.rows).toHaveLength(10);
    expect(table.more).toBe(true);
  });

  it('knows numbers', () => {
    const rows = [
      ['1', 'x', '', '1,000.5'],
      ['-2e3', '1', 'nan', '3%'],
    ];
    expect([0, 1, 2, 3].map((column) => isNumeric(rows, column))).toEqual([
      true,
      false,
      false,
      true,
    ]);
  });
});
