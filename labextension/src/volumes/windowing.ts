/** Which lines of a long list are in sight. */

/** The top of each line, and below the last one the height of all. */
export function topsOf(count: number, heightAt: (line: number) => number): Float64Array {
  const tops = new Float64Array(count + 1);
  for (let line = 0; line < count; line++) {
    tops[line + 1] = tops[line] + heightAt(line);
  }
  return tops;
}

/** The first line in sight, and the one after the last. */
export function inSight(
  tops: Float64Array,
  from: number,
  height: number,
  beyond: number,
): [number, number] {
  const count = tops.length - 1;
  const first = lineAt(tops, from);
  const last = lineAt(tops, from + height);
  return [Math.max(0, first - beyond), Math.min(count, last + 1 + beyond)];
}

/** The line at a height. */
export function lineAt(tops: Float64Array, y: number): number {
  let low = 0;
  let high = tops.length - 2;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (tops[middle] <= y) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return Math.max(0, low);
}
