import { fenced, notebookOf } from '../notebook-text';
import { decodeText, previewKind } from '../preview-kind';

const bytes = (...all: number[]) => Uint8Array.from(all);

describe('how a file is shown', () => {
  it.each([
    ['a.PNG', 'image'],
    ['a.svg', 'image'],
    ['a.csv', 'table'],
    ['a.ipynb', 'notebook'],
    ['a.py', 'text'],
    ['model.pt', 'unknown'],
    ['LICENSE', 'unknown'],
  ])('%s: %s', (name, kind) => {
    expect(previewKind(name)).toBe(kind);
  });

  it('tells text from what is none', () => {
    expect(decodeText(bytes(0x68, 0xc3, 0xbc), false)).toEqual({ text: 'hü', encoding: 'UTF-8' });
    // The end of a beginning may be in the middle of a character.
    expect(decodeText(bytes(0x68, 0xc3), true)?.text).toBe('h');
    expect(decodeText(bytes(0x68, 0xfc), false)).toEqual({ text: 'hü', encoding: 'Windows-1252' });
    expect(decodeText(bytes(0xff, 0xfe, 0x68, 0), false)?.text).toBe('h');
    expect(decodeText(bytes(0x68, 0), false)).toBeNull();
    expect(decodeText(bytes(0x7f, 0x45, 0x4c, 0x46, 0x02, 0xff), false)).toBeNull();
  });
});

describe('a notebook', () => {
  it('is read as far as it is one', () => {
    const text = JSON.stringify({
      metadata: { language_info: { name: 'julia' } },
      cells: [
        { cell_type: 'markdown', source: ['# a\n', 'b'] },
        {
          cell_type: 'code',
          source: 'x',
          execution_count: 3,
          outputs: [{ output_type: 'stream' }, null],
        },
        { cell_type: 'odd', source: 5 },
        null,
      ],
    });
    expect(notebookOf(text)).toEqual({
      language: 'julia',
      more: 0,
      cells: [
        { kind: 'markdown', source: '# a\nb', count: null, outputs: [] },
        { kind: 'code', source: 'x', count: 3, outputs: [{ output_type: 'stream' }] },
        { kind: 'raw', source: '', count: null, outputs: [] },
      ],
    });
  });

  it.each(['', 'null', '[]', '{"cells": 3}', '{'])('%j is none', (text) => {
    expect(notebookOf(text)).toBeNull();
  });

  it('shows code that has backticks', () => {
    expect(fenced('print("```")', 'python')).toBe('````python\nprint("```")\n````');
    expect(fenced('x', 'a b')).toBe('```\nx\n```');
  });
});
