/** Figures for people, in the same words as `%gpu` and `%skylift` have. */

/** `4 ms`, `0.24 s`, `12 s`, `3 min 05 s`, `2 h 10 min`. */
export function duration(seconds: number): string {
  if (seconds < 0.0995) {
    return `${(Math.max(seconds, 0) * 1000).toFixed(0)} ms`;
  }
  if (seconds < 0.995) {
    return `${seconds.toFixed(2)} s`;
  }
  if (seconds < 9.95) {
    return `${seconds.toFixed(1)} s`;
  }
  const whole = Math.round(seconds);
  if (whole < 60) {
    return `${whole} s`;
  }
  if (whole < 3600) {
    return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, '0')} s`;
  }
  return `${Math.floor(whole / 3600)} h ${String(Math.floor((whole % 3600) / 60)).padStart(2, '0')} min`;
}

/** A duration that counts: whole seconds, so that it does not flicker. */
export function ticking(seconds: number): string {
  return seconds < 10 ? `${Math.max(Math.floor(seconds), 0)} s` : duration(Math.floor(seconds));
}

/** `$0.00` for nothing, four decimals below a dollar, two above. */
export function dollars(amount: number): string {
  return amount > 0 && amount < 1 ? `$${amount.toFixed(4)}` : `$${amount.toFixed(2)}`;
}

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];

/** `640 B`, `1.2 MB`, `80 GB`: powers of 1000. */
export function bytes(count: number): string {
  let unit = 0;
  while (count >= 999.5 && unit < UNITS.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return `${unit === 0 || count >= 9.95 ? Math.round(count) : count.toFixed(1)} ${UNITS[unit]}`;
}

// Made once: making one takes longer than all the rest.
const CLOCK = new Intl.DateTimeFormat('en', {
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
  hourCycle: 'h23',
});
const MINUTES = new Intl.DateTimeFormat('en', {
  hour: '2-digit',
  minute: '2-digit',
  hourCycle: 'h23',
});
const DAY = new Intl.DateTimeFormat('en', { month: 'short', day: 'numeric' });
const DAY_OF_YEAR = new Intl.DateTimeFormat('en', {
  month: 'short',
  day: 'numeric',
  year: 'numeric',
});
const NUMBER = new Intl.NumberFormat('en');

/** `14:05:09` on the day of `now`, else `Nov 3, 14:05`; of a Unix time. */
export function clock(seconds: number, now: Date = new Date()): string {
  const time = new Date(seconds * 1000);
  if (time.toDateString() === now.toDateString()) {
    return CLOCK.format(time);
  }
  const day = time.getFullYear() === now.getFullYear() ? DAY : DAY_OF_YEAR;
  return `${day.format(time)}, ${MINUTES.format(time)}`;
}

/** `1,234`. */
export function count(value: number): string {
  return NUMBER.format(value);
}
