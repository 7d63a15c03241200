import { bytes, clock, count, dollars, duration, ticking } from '../formats';

describe('formats', () => {
  it.each([
    [0.004, '4 ms'],
    [0.24, '0.24 s'],
    [1.25, '1.3 s'],
    [12.4, '12 s'],
    [59.6, '1 min 00 s'],
    [185, '3 min 05 s'],
    [7800, '2 h 10 min'],
    [-1, '0 ms'],
  ])('a duration of %d', (seconds, words) => expect(duration(seconds)).toBe(words));

  it('counts whole seconds', () => {
    expect([ticking(0.9), ticking(9.99), ticking(12.9), ticking(-2)]).toEqual([
      '0 s',
      '9 s',
      '12 s',
      '0 s',
    ]);
  });

  it.each([
    [0, '$0.00'],
    [0.0044, '$0.0044'],
    [1.5, '$1.50'],
  ])('%d dollars', (amount, words) => expect(dollars(amount)).toBe(words));

  it.each([
    [0, '0 B'],
    [999, '999 B'],
    [1234, '1.2 kB'],
    [999_600, '1.0 MB'],
    [80e9, '80 GB'],
  ])('%d bytes', (size, words) => expect(bytes(size)).toBe(words));

  it('has the day where it is another', () => {
    const time = new Date(2026, 10, 3, 14, 5, 9);
    const seconds = time.getTime() / 1000;
    expect(clock(seconds, time)).toBe('14:05:09');
    expect(clock(seconds, new Date(2026, 10, 4))).toBe('Nov 3, 14:05');
    expect(clock(seconds, new Date(2027, 0, 1))).toBe('Nov 3, 2026, 14:05');
  });

  it('separates thousands', () => expect(count(1234567)).toBe('1,234,567'));
});
