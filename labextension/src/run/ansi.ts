/**
 * Text with ANSI escapes as lines with styles, piece by piece: an escape or a line may be cut anywhere.
 *
 * A carriage return goes back to the start of the line, as progress bars want it; what moves the cursor elsewhere is left out.
 */

/** How a piece of text looks: colours are 0–15 of the palette, `#rrggbb`, or null for the usual one. */
export interface Style {
  readonly color: number | string | null;
  readonly background: number | string | null;
  readonly bold: boolean;
  readonly dim: boolean;
  readonly italic: boolean;
  readonly underline: boolean;
  readonly strike: boolean;
  readonly inverse: boolean;
}

export const PLAIN: Style = {
  color: null,
  background: null,
  bold: false,
  dim: false,
  italic: false,
  underline: false,
  strike: false,
  inverse: false,
};

/** From `at` on the text of a line has this style. */
export interface Span {
  readonly at: number;
  readonly style: Style;
}

export interface Line {
  readonly text: string;
  /** In order; null where all of it is plain. */
  readonly spans: readonly Span[] | null;
}

const ESCAPE = '\x1b';
/** What the fast way does not understand: anything but text and line ends. */
// eslint-disable-next-line no-control-regex
const SPECIAL = /[\x00-\x09\x0b-\x1f]/;
/** Characters of an escape after which it is taken for garbage. */
const LONGEST_ESCAPE = 4096;

/** Takes text in, gives lines. */
export class AnsiLines {
  private _style: Style = PLAIN;
  /** The line that is not over: characters, and their styles where one is not plain. */
  private _text = '';
  private _styles: Style[] | null = null;
  private _column = 0;
  /** An escape that was cut. */
  private _rest = '';

  /** The line that is not over yet; null where it has nothing. */
  get open(): Line | null {
    return this._text ? this._line() : null;
  }

  /** The lines that `text` ends. */
  push(text: string): Line[] {
    const lines: Line[] = [];
    if (this._rest) {
      text = this._rest + text;
      this._rest = '';
    }
    let start = 0;
    if (this._style === PLAIN && !this._styles && !SPECIAL.test(text)) {
      // Most of what is printed.
      for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n', start)) {
        this._write(text.slice(start, end));
        lines.push(this._end());
        start = end + 1;
      }
      this._write(text.slice(start));
      return lines;
    }
    let index = 0;
    for (; index < text.length; index++) {
      const code = text.charCodeAt(index);
      if (code >= 32 && code !== 127) {
        continue;
      }
      this._write(text.slice(start, index));
      start = index + 1;
      if (code === 10) {
        lines.push(this._end());
      } else if (code === 13) {
        this._column = 0;
      } else if (code === 8) {
        this._column = Math.max(this._column - 1, 0);
      } else if (code === 9) {
        this._write(' '.repeat(8 - (this._column % 8)));
      } else if (code === 27) {
        const end = this._escape(text, index);
        if (end < 0) {
          if (text.length - index < LONGEST_ESCAPE) {
            this._rest = text.slice(index);
          }
          return lines;
        }
        index = end - 1;
        start = end;
      }
    }
    this._write(text.slice(start));
    return lines;
  }

  /** Ends the line that is open, if there is one. */
  flush(): Line[] {
    this._rest = '';
    return this._text ? [this._end()] : [];
  }

  private _end(): Line {
    const line = this._line();
    this._text = '';
    this._styles = null;
    this._column = 0;
    return line;
  }

  private _line(): Line {
    const styles = this._styles;
    if (!styles) {
      return { text: this._text, spans: null };
    }
    const spans: Span[] = [];
    let last = PLAIN;
    for (let at = 0; at < this._text.length; at++) {
      const style = styles[at] ?? PLAIN;
      if (style !== last) {
        spans.push({ at, style });
        last = style;
      }
    }
    return { text: this._text, spans: spans.length ? spans : null };
  }

  private _write(piece: string): void {
    if (!piece) {
      return;
    }
    const column = this._column;
    const end = column + piece.length;
    if (this._style !== PLAIN || this._styles) {
      this._styles ??= new Array<Style>(this._text.length).fill(PLAIN);
      for (let at = column; at < end; at++) {
        this._styles[at] = this._style;
      }
    }
    this._text =
      column >= this._text.length
        ? this._text.padEnd(column) + piece
        : this._text.slice(0, column) + piece + this._text.slice(end);
    this._column = end;
  }

  /** Where the escape that begins at `index` ends; -1 where it is cut. */
  private _escape(text: string, index: number): number {
    const kind = text[index + 1];
    if (kind === undefined) {
      return -1;
    }
    if (kind === '[') {
      let end = index + 2;
      while (end < text.length && !(text.charCodeAt(end) >= 0x40 && text.charCodeAt(end) <= 0x7e)) {
        end++;
      }
      if (end >= text.length) {
        return -1;
      }
      this._control(text[end], text.slice(index + 2, end));
      return end + 1;
    }
    if (kind === ']') {
      // Titles and links: up to BEL or ESC \.
      const bell = text.indexOf('\x07', index);
      const string = text.indexOf(`${ESCAPE}\\`, index);
      if (bell < 0 && string < 0) {
        return -1;
      }
      return bell >= 0 && (string < 0 || bell < string) ? bell + 1 : string + 2;
    }
    return index + 2;
  }

  private _control(final: string, parameters: string): void {
    const first = parseInt(parameters, 10);
    switch (final) {
      case 'm':
        this._style = styled(this._style, parameters);
        break;
      case 'K':
        if (parameters === '2') {
          this._text = '';
          this._styles = null;
        } else if (parameters === '1') {
          const column = this._column;
          this._column = 0;
          const style = this._style;
          this._style = PLAIN;
          this._write(' '.repeat(column));
          this._style = style;
        } else {
          this._text = this._text.slice(0, this._column);
          if (this._styles) {
            this._styles.length = Math.min(this._styles.length, this._column);
          }
        }
        break;
      case 'G':
        this._column = Math.min(Math.max((first || 1) - 1, 0), LONGEST_ESCAPE);
        break;
      case 'C':
        this._column = Math.min(this._column + (first || 1), this._column + LONGEST_ESCAPE);
        break;
      case 'D':
        this._column = Math.max(this._column - (first || 1), 0);
        break;
    }
  }
}

/** `style` after the escape `ESC [ parameters m`. */
export function styled(style: Style, parameters: string): Style {
  const codes = parameters.split(/[;:]/).map((code) => parseInt(code, 10) || 0);
  const next: { -readonly [K in keyof Style]: Style[K] } = { ...style };
  for (let index = 0; index < codes.length; index++) {
    const code = codes[index];
    if (code === 0) {
      Object.assign(next, PLAIN);
    } else if (code === 1) {
      next.bold = true;
    } else if (code === 2) {
      next.dim = true;
    } else if (code === 3) {
      next.italic = true;
    } else if (code === 4) {
      next.underline = true;
    } else if (code === 7) {
      next.inverse = true;
    } else if (code === 9) {
      next.strike = true;
    } else if (code === 22) {
      next.bold = next.dim = false;
    } else if (code === 23) {
      next.italic = false;
    } else if (code === 24) {
      next.underline = false;
    } else if (code === 27) {
      next.inverse = false;
    } else if (code === 29) {
      next.strike = false;
    } else if (code >= 30 && code <= 37) {
      next.color = code - 30;
    } else if (code >= 90 && code <= 97) {
      next.color = code - 90 + 8;
    } else if (code === 39) {
      next.color = null;
    } else if (code >= 40 && code <= 47) {
      next.background = code - 40;
    } else if (code >= 100 && code <= 107) {
      next.background = code - 100 + 8;
    } else if (code === 49) {
      next.background = null;
    } else if (code === 38 || code === 48) {
      const [color, used] = extended(codes, index + 1);
      if (color !== null) {
        next[code === 38 ? 'color' : 'background'] = color;
      }
      index += used;
    }
  }
  const same = (Object.keys(PLAIN) as (keyof Style)[]).every((key) => next[key] === PLAIN[key]);
  return same ? PLAIN : next;
}

function extended(codes: number[], at: number): [number | string | null, number] {
  if (codes[at] === 2) {
    return [hex(codes.slice(at + 1, at + 4)), 4];
  }
  if (codes[at] !== 5) {
    return [null, 1];
  }
  const index = codes[at + 1] ?? 0;
  if (index < 16) {
    return [index, 2];
  }
  if (index >= 232) {
    const grey = 8 + 10 * Math.min(index - 232, 23);
    return [hex([grey, grey, grey]), 2];
  }
  const cube = [Math.floor((index - 16) / 36), Math.floor((index - 16) / 6) % 6, (index - 16) % 6];
  return [hex(cube.map((step) => (step ? 55 + 40 * step : 0))), 2];
}

function hex(parts: number[]): string {
  const two = (part = 0) => Math.min(Math.max(part, 0), 255).toString(16).padStart(2, '0');
  return `#${two(parts[0])}${two(parts[1])}${two(parts[2])}`;
}
