/**
 * Names of files, which may be any bytes.
 *
 * A path is a string in which a byte that is no UTF-8 is a lone surrogate (0xDC00 + byte), as in Python. So a path is
 * the same text here, in JSON and in the code that we insert, and nothing is lost on the way.
 */

/** Bytes as a path. */
export function decodeBytes(bytes: Uint8Array): string {
  let text = '';
  let at = 0;
  while (at < bytes.length) {
    const length = sequenceLength(bytes, at);
    if (length === 0) {
      text += String.fromCharCode(0xdc00 + bytes[at]);
      at += 1;
      continue;
    }
    let code = length === 1 ? bytes[at] : bytes[at] & (0xff >> (length + 1));
    for (let next = 1; next < length; next++) {
      code = (code << 6) | (bytes[at + next] & 0x3f);
    }
    text += String.fromCodePoint(code);
    at += length;
  }
  return text;
}

/** How many bytes are one character of valid UTF-8; 0 where they are none. */
function sequenceLength(bytes: Uint8Array, at: number): number {
  const first = bytes[at];
  if (first < 0x80) {
    return 1;
  }
  const length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : first >= 0xc2 ? 2 : 0;
  if (length === 0 || first > 0xf4 || at + length > bytes.length) {
    return 0;
  }
  for (let next = 1; next < length; next++) {
    if ((bytes[at + next] & 0xc0) !== 0x80) {
      return 0;
    }
  }
  const second = bytes[at + 1];
  // Overlong ones, surrogates, and what is beyond Unicode.
  if (
    (first === 0xe0 && second < 0xa0) ||
    (first === 0xed && second > 0x9f) ||
    (first === 0xf0 && second < 0x90) ||
    (first === 0xf4 && second > 0x8f)
  ) {
    return 0;
  }
  return length;
}

/** Hex digits as a path. */
export function decodeHex(hex: string): string {
  const bytes = new Uint8Array(hex.length >> 1);
  for (let at = 0; at < bytes.length; at++) {
    bytes[at] = parseInt(hex.slice(2 * at, 2 * at + 2), 16);
  }
  return decodeBytes(bytes);
}

const LONE = /[\ud800-\udbff][\udc00-\udfff]|[\ud800-\udfff]/g;

/** A path's bytes, percent-encoded: for a query or a form. */
export function percentEncode(path: string): string {
  let encoded = '';
  let from = 0;
  for (const match of path.matchAll(LONE)) {
    if (match[0].length === 2) {
      continue;
    }
    encoded += encodeURIComponent(path.slice(from, match.index));
    const code = match[0].charCodeAt(0);
    // Other lone surrogates stand for nothing; they cannot come from a volume.
    encoded +=
      code >= 0xdc80 && code <= 0xdcff
        ? `%${(code - 0xdc00).toString(16).toUpperCase()}`
        : '%EF%BF%BD';
    from = (match.index ?? 0) + 1;
  }
  return encoded + encodeURIComponent(path.slice(from));
}

/** A path's bytes. */
export function encodeBytes(path: string): Uint8Array {
  const encoded = percentEncode(path);
  const bytes: number[] = [];
  for (let at = 0; at < encoded.length; at++) {
    if (encoded[at] === '%') {
      bytes.push(parseInt(encoded.slice(at + 1, at + 3), 16));
      at += 2;
    } else {
      bytes.push(encoded.charCodeAt(at));
    }
  }
  return Uint8Array.from(bytes);
}

// Characters that show nothing, or turn the direction of what follows: a name must not look like another one.
// eslint-disable-next-line no-control-regex
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** A name as people see it: bytes that are no text, and characters that do not show, as escapes. */
export function shown(name: string): string {
  return name
    .replace(LONE, (match) =>
      match.length === 2
        ? match
        : `\\x${(match.charCodeAt(0) & 0xff).toString(16).padStart(2, '0')}`,
    )
    .replace(HIDDEN, (match) => {
      const code = match.charCodeAt(0);
      return code < 0x100
        ? `\\x${code.toString(16).padStart(2, '0')}`
        : `\\u${code.toString(16).padStart(4, '0')}`;
    });
}

/** Whether all bytes of a path are text, so that it can be sent as such. */
export function isText(path: string): boolean {
  return [...path.matchAll(LONE)].every((match) => match[0].length === 2);
}

/** A string of Python. */
export function pythonString(text: string): string {
  const escaped = text
    .replace(/\\/g, '\\\\')
    .replace(/"/g, '\\"')
    .replace(/\n/g, '\\n')
    .replace(/\r/g, '\\r')
    .replace(/\t/g, '\\t')
    .replace(LONE, (match) =>
      match.length === 2 ? match : `\\u${match.charCodeAt(0).toString(16)}`,
    )
    .replace(HIDDEN, (match) => {
      const code = match.charCodeAt(0);
      return code < 0x100
        ? `\\x${code.toString(16).padStart(2, '0')}`
        : `\\u${code.toString(16).padStart(4, '0')}`;
    });
  return `"${escaped}"`;
}

/** The last part of a path. */
export function baseName(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

/** The folder that a path is in; "" for the root. */
export function parentOf(path: string): string {
  const slash = path.lastIndexOf('/');
  return slash < 0 ? '' : path.slice(0, slash);
}

/** A name in a folder. */
export function joinPath(folder: string, name: string): string {
  return folder ? `${folder}/${name}` : name;
}

/** What is wrong with a name for a file or a folder, or "". */
export function nameProblem(name: string): string {
  if (!name) {
    return 'A name is needed.';
  }
  if (name === '.' || name === '..') {
    return `“${name}” cannot be a name, since it means a folder itself.`;
  }
  if (name.includes('/')) {
    return 'A name cannot have a “/” in it.';
  }
  if (name.includes('\0')) {
    return 'A name cannot have a NUL character in it.';
  }
  if (encodeBytes(name).length > 255) {
    return 'This name is too long: 255 bytes are the most.';
  }
  return '';
}

const VOLUME_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

/** What is wrong with a name for a volume, or "". */
export function volumeNameProblem(name: string): string {
  if (!name) {
    return 'A name is needed.';
  }
  return VOLUME_NAME.test(name)
    ? ''
    : 'A volume’s name is 1 to 64 letters, digits, “.”, “_” and “-”, and begins with a letter or a digit.';
}

/** The same name with a number in it, which is not among those that are taken: `train (2).csv`. */
export function freeName(name: string, taken: (name: string) => boolean): string {
  const dot = name.lastIndexOf('.');
  const [stem, ending] = dot > 0 ? [name.slice(0, dot), name.slice(dot)] : [name, ''];
  for (let number = 2; ; number++) {
    const candidate = `${stem} (${number})${ending}`;
    if (!taken(candidate)) {
      return candidate;
    }
  }
}
