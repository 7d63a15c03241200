/**
 * The log of a run as lines that can be shown: numbered from 0, of which the page keeps only so many.
 *
 * Lines are kept in chunks. Where there are too many, those of the oldest chunks are let go of; `missing` says which part
 * of the output has them, and `refill` takes that in again.
 */
import type { OutputItem } from '../gateway/types';
import { AnsiLines } from './ansi';
import type { Line } from './ansi';

export type LineSource = 'stdout' | 'stderr' | 'note';

export interface LogLine extends Line {
  readonly source: LineSource;
}

interface Chunk {
  /** Events of the output, without the last. */
  fromSeq: number;
  endSeq: number;
  first: number;
  count: number;
  characters: number;
  lines: LogLine[] | null;
}

export interface LogLimits {
  /** Lines of a chunk, about. */
  chunk: number;
  /** Lines that are kept. */
  lines: number;
  /** Characters that are kept. */
  characters: number;
}

export const LIMITS: LogLimits = { chunk: 4000, lines: 200_000, characters: 48_000_000 };

/** Longer lines are cut, since a page can show no line of a million characters. */
const LONGEST_LINE = 20_000;

/** Turns events into lines. One for each run, and one for each part that is taken in again. */
class Reader {
  private _ansi = new AnsiLines();
  private _source: LineSource = 'stdout';

  get open(): LogLine | null {
    const line = this._ansi.open;
    return line && this._with(line);
  }

  /** Whether nothing of what comes depends on what was. */
  get atLineStart(): boolean {
    return this._ansi.open === null;
  }

  read(item: OutputItem): LogLine[] {
    if (item.kind === 'output') {
      const source = item.meta['stream'] === 'stderr' ? 'stderr' : 'stdout';
      const ended = source === this._source ? [] : this._flush();
      this._source = source;
      for (const line of this._ansi.push(item.text)) {
        ended.push(this._with(line));
      }
      return ended;
    }
    const note = noteOf(item);
    return note ? [...this._flush(), { text: note, spans: null, source: 'note' }] : [];
  }

  private _flush(): LogLine[] {
    return this._ansi.flush().map((line) => this._with(line));
  }

  private _with({ text, spans }: Line): LogLine {
    if (text.length <= LONGEST_LINE) {
      return { text, spans, source: this._source };
    }
    const more = (text.length - LONGEST_LINE).toLocaleString('en');
    return {
      text: `${text.slice(0, LONGEST_LINE)} … and ${more} characters more (Download has them)`,
      spans: spans && spans.filter((span) => span.at < LONGEST_LINE),
      source: this._source,
    };
  }
}

/** The line that stands for what is no text. */
function noteOf(item: OutputItem): string {
  switch (item.kind) {
    case 'display':
      return item.meta['update'] ? '' : `displayed: ${mimeOf(item)}`;
    case 'value':
      return `value: ${mimeOf(item)}`;
    case 'yield':
      return 'yielded an item';
    default:
      return '';
  }
}

/** The richest kind of what was displayed, for people. */
function mimeOf(item: OutputItem): string {
  let kinds: string[] = [];
  try {
    kinds = Object.keys((JSON.parse(item.text || '{}') as { data?: object }).data ?? {});
  } catch {
    // Said as below.
  }
  return kinds.find((kind) => kind !== 'text/plain') ?? kinds[0] ?? 'something large';
}

export class LogBuffer {
  private readonly _chunks: Chunk[] = [];
  private readonly _reader = new Reader();
  private _nextSeq: number;
  private _keptLines = 0;
  private _keptCharacters = 0;
  private _finished = 0;
  private _version = 0;

  /** `fromSeq`: the first event that is read. */
  constructor(
    readonly fromSeq = 0,
    private readonly _limits: LogLimits = LIMITS,
  ) {
    this._nextSeq = fromSeq;
  }

  /** The event that is wanted next. */
  get nextSeq(): number {
    return this._nextSeq;
  }

  /** Changes with every change. */
  get version(): number {
    return this._version;
  }

  /** How many lines there are, with the one that is not over. */
  get length(): number {
    return this._finished + (this._reader.open ? 1 : 0);
  }

  /** How many of them are kept here. */
  get kept(): number {
    return this._keptLines + (this._reader.open ? 1 : 0);
  }

  /** Take events in; those that were taken in already, as after a reconnect, are passed over. */
  push(items: readonly OutputItem[], nextSeq: number): void {
    for (const item of items) {
      if (item.seq < this._nextSeq) {
        continue;
      }
      const chunk = this._chunkFor(item.seq);
      const lines = this._reader.read(item);
      for (const line of lines) {
        chunk.lines!.push(line);
        chunk.characters += line.text.length;
        this._keptCharacters += line.text.length;
      }
      chunk.count += lines.length;
      chunk.endSeq = item.seq + 1;
      this._finished += lines.length;
      this._keptLines += lines.length;
      this._nextSeq = item.seq + 1;
    }
    this._nextSeq = Math.max(this._nextSeq, nextSeq);
    this._letGo(this._chunks.length - 1);
    this._version++;
  }

  /** Line `index`, or undefined where it is not kept. */
  line(index: number): LogLine | undefined {
    if (index >= this._finished) {
      return index === this._finished ? (this._reader.open ?? undefined) : undefined;
    }
    const chunk = this._chunks[this._find(index)];
    return chunk?.lines?.[index - chunk.first];
  }

  /** The part of the output that has line `index`, where that is not kept. */
  missing(index: number): { fromSeq: number; endSeq: number } | null {
    const chunk = index < this._finished ? this._chunks[this._find(index)] : undefined;
    return chunk && !chunk.lines ? { fromSeq: chunk.fromSeq, endSeq: chunk.endSeq } : null;
  }

  /** Take in what `missing` has named; the lines of others are let go of for it. */
  refill(fromSeq: number, items: readonly OutputItem[]): void {
    const at = this._chunks.findIndex((chunk) => chunk.fromSeq === fromSeq && !chunk.lines);
    const chunk = this._chunks[at];
    if (!chunk) {
      return;
    }
    const reader = new Reader();
    const lines = items
      .filter((item) => item.seq >= chunk.fromSeq && item.seq < chunk.endSeq)
      .flatMap((item) => reader.read(item));
    // Its number of lines was told already; what a gateway has dropped meanwhile is empty.
    lines.length = Math.min(lines.length, chunk.count);
    while (lines.length < chunk.count) {
      lines.push({ text: '', spans: null, source: 'stdout' });
    }
    chunk.lines = lines;
    this._keptLines += chunk.count;
    this._keptCharacters += chunk.characters;
    this._letGo(at);
    this._version++;
  }

  private _chunkFor(seq: number): Chunk {
    const last = this._chunks[this._chunks.length - 1];
    // A chunk can only be read by itself where its first line begins with it.
    if (last && (last.count < this._limits.chunk || !this._reader.atLineStart)) {
      return last;
    }
    const chunk: Chunk = {
      fromSeq: seq,
      endSeq: seq,
      first: this._finished,
      count: 0,
      characters: 0,
      lines: [],
    };
    this._chunks.push(chunk);
    return chunk;
  }

  /** The position of the chunk that has a line. */
  private _find(index: number): number {
    let low = 0;
    let high = this._chunks.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this._chunks[middle].first <= index) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return low;
  }

  /** Lets go of chunks until the rest is within the limits: of the one that is farthest from `needed`. */
  private _letGo(needed: number): void {
    while (this._keptLines > this._limits.lines || this._keptCharacters > this._limits.characters) {
      const newest = this._chunks.length - 1;
      let victim = -1;
      for (let at = 0; at < newest; at++) {
        if (
          this._chunks[at].lines &&
          at !== needed &&
          (victim < 0 || Math.abs(at - needed) > Math.abs(victim - needed))
        ) {
          victim = at;
        }
      }
      if (victim < 0) {
        return;
      }
      const chunk = this._chunks[victim];
      chunk.lines = null;
      this._keptLines -= chunk.count;
      this._keptCharacters -= chunk.characters;
    }
  }
}
