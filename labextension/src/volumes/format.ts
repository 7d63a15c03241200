/** Sizes, speeds and times for people. */

const UNITS = ['bytes', 'KB', 'MB', 'GB', 'TB', 'PB'];

/** `12.3 MB`: powers of 1000, as the desktop shows them. */
export function formatBytes(bytes: number): string {
  let unit = 0;
  let value = bytes;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  if (unit === 0) {
    return `${value} ${value === 1 ? 'byte' : 'bytes'}`;
  }
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)} ${UNITS[unit]}`;
}

/** `14:05` today, `Nov 3, 14:05` this year, `Nov 3, 2024` else; from Unix seconds. */
export function formatTime(seconds: number, now: Date = new Date()): string {
  if (!seconds) {
    return '–';
  }
  const time = new Date(seconds * 1000);
  const clock = time.toLocaleTimeString('en', { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });
  if (time.toDateString() === now.toDateString()) {
    return clock;
  }
  const day = time.toLocaleDateString('en', { month: 'short', day: 'numeric' });
  return time.getFullYear() === now.getFullYear() ? `${day}, ${clock}` : `${day}, ${time.getFullYear()}`;
}

/** `2 minutes`: how long something takes yet. */
export function formatLeft(seconds: number): string {
  if (seconds < 60) {
    return `${Math.max(1, Math.round(seconds))} s`;
  }
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
