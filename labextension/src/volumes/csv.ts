/** Comma separated values as a table, for looking at. */

/** The first rows of a file. */
export interface Table {
  header: string[];
  rows: string[][];
  delimiter: string;
  /** There is more in the file. */
  more: boolean;
}

const DELIMITERS = [',', '\t', ';', '|'];

/**
 * Reads the text's rows, at most `most` of them. Where the text is only a file's beginning (`cut`), its last row is
 * left out, since it may not be whole.
 */
export function parseTable(
  text: string,
  options: { delimiter?: string; most: number; cut?: boolean },
): Table {
  const body = text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
  const delimiter = options.delimiter ?? guessDelimiter(body);
  const rows: string[][] = [];
  let more = false;
  let at = 0;
  while (at < body.length) {
    if (rows.length > options.most) {
      more = true;
      break;
    }
    const [row, next, whole] = readRow(body, at, delimiter);
    if (options.cut && (next >= body.length || !whole)) {
      more = true;
      break;
    }
    // Blank lines say nothing.
    if (row.length > 1 || row[0] !== '') {
      rows.push(row);
    }
    at = next;
  }
  return {
    header: rows[0] ?? [],
    rows: rows.slice(1),
    delimiter,
    more: more || Boolean(options.cut),
  };
}

/** One row, where the next one begins, and whether its quotes were closed. */
function readRow(text: string, from: number, delimiter: string): [string[], number, boolean] {
  const row: string[] = [];
  let at = from;
  for (;;) {
    let field = '';
    if (text[at] === '"') {
      at += 1;
      for (;;) {
        const quote = text.indexOf('"', at);
        if (quote < 0) {
          row.push(field + text.slice(at));
          return [row, text.length, false];
        }
        field += text.slice(at, quote);
        at = quote + 1;
        if (text[at] !== '"') {
          break;
        }
        field += '"';
        at += 1;
      }
    }
    const begin = at;
    while (at < text.length && text[at] !== delimiter && text[at] !== '\n' && text[at] !== '\r') {
      at += 1;
    }
    row.push(field + text.slice(begin, at));
    if (at < text.length && text[at] === delimiter) {
      at += 1;
      continue;
    }
    if (text[at] === '\r' && text[at + 1] === '\n') {
      at += 1;
    }
    return [row, at + 1, true];
  }
}

/** The delimiter that divides the first lines most evenly. */
export function guessDelimiter(text: string): string {
  const sample = text.slice(0, 64 * 1024);
  let best = ',';
  let most = 0;
  for (const delimiter of DELIMITERS) {
    const counts: number[] = [];
    for (let at = 0; at < sample.length && counts.length < 20;) {
      const [row, next] = readRow(sample, at, delimiter);
      counts.push(row.length);
      at = next;
    }
    const columns = counts[0] ?? 1;
    const even = counts.filter((count) => count === columns).length / Math.max(1, counts.length);
    const score = columns > 1 ? even * Math.log2(columns + 1) : 0;
    if (score > most) {
      best = delimiter;
      most = score;
    }
  }
  return best;
}

/** Whether a column has numbers, which are shown at its right side. */
export function isNumeric(rows: readonly string[][], column: number): boolean {
  let seen = 0;
  for (const row of rows) {
    const value = (row[column] ?? '').trim();
    if (!value || /^(nan|na|null|none)$/i.test(value)) {
      continue;
    }
    if (!/^[-+]?(\d[\d,]*\.?\d*|\.\d+)(e[-+]?\d+)?%?$/i.test(value)) {
      return false;
    }
    if (++seen >= 50) {
      break;
    }
  }
  return seen > 0;
}
