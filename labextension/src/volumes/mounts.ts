/** Which volumes a `%%gpu` cell has, by its first line. */

/** A volume in a cell's container. */
export interface Mount {
  volume: string;
  /** In the container. */
  path: string;
}

/** Of a cell's text. A cell that runs in the notebook's own kernel has none. */
export function mountsOf(cell: string): Mount[] {
  const first = cell.split('\n').find((line) => line.trim() !== '') ?? '';
  const magic = /^\s*%%gpu(?:\s+(.*))?$/.exec(first);
  if (!magic) {
    return [];
  }
  const words = shellWords(magic[1] ?? '');
  const mounts: Mount[] = [];
  words.forEach((word, at) => {
    const value =
      word === '--volume'
        ? words[at + 1]
        : word.startsWith('--volume=')
          ? word.slice('--volume='.length)
          : undefined;
    const parts =
      value === undefined
        ? null
        : /^([A-Za-z0-9][A-Za-z0-9._-]{0,63}):(\/[^:]*)(?::(?:ro|rw))?$/.exec(value);
    if (parts) {
      mounts.push({ volume: parts[1], path: parts[2].replace(/\/+/g, '/') });
    }
  });
  return mounts;
}

/** Words as a shell divides a line. */
export function shellWords(line: string): string[] {
  const words: string[] = [];
  let word: string | null = null;
  let quote = '';
  for (let at = 0; at < line.length; at++) {
    const letter = line[at];
    if (quote) {
      if (letter === quote) {
        quote = '';
      } else if (letter === '\\' && quote === '"' && '"\\'.includes(line[at + 1] ?? ' ')) {
        word += line[++at];
      } else {
        word += letter;
      }
    } else if (letter === '"' || letter === "'") {
      quote = letter;
      word = word ?? '';
    } else if (/\s/.test(letter)) {
      if (word !== null) {
        words.push(word);
      }
      word = null;
    } else {
      word = (word ?? '') + (letter === '\\' && at + 1 < line.length ? line[++at] : letter);
    }
  }
  if (word !== null) {
    words.push(word);
  }
  return words;
}
