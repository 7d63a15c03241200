import { AnsiLines, PLAIN, styled } from '../ansi';

function read(...pieces: string[]): string[] {
  const ansi = new AnsiLines();
  const lines = pieces.flatMap((piece) => ansi.push(piece));
  return [...lines, ...ansi.flush()].map((line) => line.text);
}

describe('AnsiLines', () => {
  it('gives plain lines', () => {
    expect(read('one\ntw', 'o\n\nthree')).toEqual(['one', 'two', '', 'three']);
  });

  it('keeps an open line until it ends', () => {
    const ansi = new AnsiLines();
    expect(ansi.push('50 %')).toEqual([]);
    expect(ansi.open?.text).toBe('50 %');
    expect(ansi.push('\n')).toEqual([{ text: '50 %', spans: null }]);
    expect(ansi.open).toBeNull();
  });

  it('goes back to the start of the line, as progress bars do', () => {
    expect(read('10 %\r', '100 %\ndone\r\n')).toEqual(['100 %', 'done']);
    expect(read('abcdef\rxy\n')).toEqual(['xycdef']);
    expect(read('abcdef\r\x1b[Kxy\n')).toEqual(['xy']);
    expect(read('abc\b\bX\n')).toEqual(['aXc']);
  });

  it('styles text', () => {
    const [line] = new AnsiLines().push('a\x1b[1;31mb\x1b[0mc\n');
    expect(line.text).toBe('abc');
    expect(line.spans).toEqual([
      { at: 1, style: { ...PLAIN, bold: true, color: 1 } },
      { at: 2, style: PLAIN },
    ]);
  });

  it('goes on with a style in the next line, and with an escape that was cut anywhere', () => {
    const text = 'x\x1b[38;5;196my\nz\x1b]0;title\x07\x1b[0m!\n';
    const whole = new AnsiLines().push(text);
    for (let cut = 1; cut < text.length; cut++) {
      const ansi = new AnsiLines();
      expect([...ansi.push(text.slice(0, cut)), ...ansi.push(text.slice(cut))]).toEqual(whole);
    }
    expect(whole.map((line) => line.text)).toEqual(['xy', 'z!']);
    expect(whole[1].spans?.[0]).toEqual({ at: 0, style: { ...PLAIN, color: '#ff0000' } });
  });

  it('leaves out what it does not know', () => {
    expect(read('a\x1b[2J\x1b[10;5Hb\x1b(c\x07\x00d\n')).toEqual(['abcd']);
  });

  it('does not wait for the end of garbage', () => {
    const ansi = new AnsiLines();
    ansi.push(`a\x1b]${'x'.repeat(5000)}`);
    expect(ansi.push('b\n')[0].text).toBe('ab');
  });

  it('has tabs', () => {
    expect(read('a\tb\n')).toEqual(['a       b']);
  });
});

describe('styled', () => {
  it('knows colours of all kinds', () => {
    expect(styled(PLAIN, '92').color).toBe(10);
    expect(styled(PLAIN, '48;5;232').background).toBe('#080808');
    expect(styled(PLAIN, '38;2;1;2;255').color).toBe('#0102ff');
    expect(styled(PLAIN, '38;5;7').color).toBe(7);
  });

  it('ends what it has begun', () => {
    expect(styled(styled(PLAIN, '1;3;4;7;9;31;42'), '22;23;24;27;29;39;49')).toBe(PLAIN);
    expect(styled(styled(PLAIN, '31'), '')).toBe(PLAIN);
  });
});
