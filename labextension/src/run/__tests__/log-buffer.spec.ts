import type { OutputItem } from '../../gateway/types';
import { LogBuffer } from '../log-buffer';
import { nextMatch, searchSlice } from '../search';

const output = (seq: number, text: string, stream = 'stdout'): OutputItem => ({
  seq,
  kind: 'output',
  meta: { stream },
  text,
  size: text.length,
});

function texts(log: LogBuffer): (string | undefined)[] {
  return Array.from({ length: log.length }, (_, index) => log.line(index)?.text);
}

describe('LogBuffer', () => {
  it('has lines, and the one that is not over', () => {
    const log = new LogBuffer();
    log.push([output(0, 'one\ntw'), output(1, 'o\nth')], 2);
    expect(texts(log)).toEqual(['one', 'two', 'th']);
    expect(log.nextSeq).toBe(2);
  });

  it('passes over what it has had', () => {
    const log = new LogBuffer();
    const items = [output(0, 'a\n'), output(1, 'b\n')];
    log.push(items, 2);
    log.push([...items, output(2, 'c\n')], 3);
    expect(texts(log)).toEqual(['a', 'b', 'c']);
  });

  it('begins a new line with another stream', () => {
    const log = new LogBuffer();
    log.push([output(0, 'half'), output(1, 'oh\n', 'stderr'), output(2, 'more\n')], 3);
    expect([0, 1, 2].map((index) => [log.line(index)?.text, log.line(index)?.source])).toEqual([
      ['half', 'stdout'],
      ['oh', 'stderr'],
      ['more', 'stdout'],
    ]);
  });

  it('notes what is shown elsewhere', () => {
    const log = new LogBuffer();
    const text = JSON.stringify({
      data: { 'text/plain': '<Figure>', 'image/png': 'aa' },
      metadata: {},
    });
    log.push([{ seq: 0, kind: 'display', meta: {}, text, size: text.length }], 1);
    expect(log.line(0)).toEqual({ text: 'displayed: image/png', spans: null, source: 'note' });
  });

  it('lets go of old lines, says where they are, and takes them in again', () => {
    const log = new LogBuffer(0, { chunk: 10, lines: 40, characters: 1e6 });
    const items = Array.from({ length: 200 }, (_, seq) => output(seq, `line ${seq}\n`));
    log.push(items, 200);
    expect(log.length).toBe(200);
    expect(log.kept).toBeLessThanOrEqual(40);
    expect(log.line(199)?.text).toBe('line 199');
    expect(log.line(5)).toBeUndefined();
    expect(log.missing(199)).toBeNull();
    const part = log.missing(25)!;
    expect(part.fromSeq).toBeLessThanOrEqual(25);
    expect(part.endSeq).toBeGreaterThan(25);
    log.refill(part.fromSeq, items.slice(part.fromSeq, part.endSeq));
    expect(log.line(25)?.text).toBe('line 25');
    expect(log.kept).toBeLessThanOrEqual(40);
    expect(log.line(199)?.text).toBe('line 199');
  });

  it('does not cut a chunk within a line', () => {
    const log = new LogBuffer(0, { chunk: 1, lines: 2, characters: 1e6 });
    const items = [output(0, 'a\nb'), output(1, 'c\n'), output(2, 'd\n'), output(3, 'e\n')];
    log.push(items, 4);
    const part = log.missing(1)!;
    log.refill(part.fromSeq, items.slice(part.fromSeq, part.endSeq));
    expect(log.line(1)?.text).toBe('bc');
  });

  it('cuts a line that no page could show', () => {
    const log = new LogBuffer();
    log.push([output(0, `${'x'.repeat(1_000_000)}\n`)], 1);
    expect(log.line(0)?.text).toMatch(
      /^x{20000} … and 980,000 characters more \(Download has them\)$/,
    );
  });
});

describe('search', () => {
  it('goes on where it was', () => {
    const log = new LogBuffer();
    log.push([output(0, 'Alpha\nbeta\nalphabet\n')], 1);
    const first = searchSlice(log, 'ALPHA', { lines: [], searched: 0 }, 2);
    expect(first).toEqual({ lines: [0], searched: 2 });
    expect(searchSlice(log, 'ALPHA', first, 2)).toEqual({ lines: [0, 2], searched: 3 });
  });

  it('goes round', () => {
    expect(nextMatch([2, 5, 9], 5, 1)).toBe(9);
    expect(nextMatch([2, 5, 9], 9, 1)).toBe(2);
    expect(nextMatch([2, 5, 9], 5, -1)).toBe(2);
    expect(nextMatch([2, 5, 9], 1, -1)).toBe(9);
    expect(nextMatch([], 1, 1)).toBe(-1);
  });
});
