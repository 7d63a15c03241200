/**
 * Completion in the `%%gpu` line, with what is free and what it costs.
 *
 * The kernel's own completer answers too where `%load_ext skylift` has run: it knows the notebook's variables (`--image`)
 * and sessions. JupyterLab puts both together, and what both offer is there once. This one also answers where the magics
 * are not loaded yet, and while the kernel is busy.
 */
import type {
  CompletionHandler,
  ICompletionContext,
  ICompletionProvider,
} from '@jupyterlab/completer';
import { NotebookPanel } from '@jupyterlab/notebook';
import type { Offered } from './completion_words';
import { complete } from './completion_words';
import { runOnIcon } from './icon';
import type { KnownLists } from './known';
import { findMagicLine } from './magic_line';

const NO_BREAK = '\u00a0';

export class MagicCompletion implements ICompletionProvider {
  readonly identifier = 'CompletionProvider:skylift';
  /** Before the kernel's (550), so that what is said beside a word stays when both offer it. */
  readonly rank = 600;
  readonly renderer = null;

  constructor(private readonly _lists: KnownLists) {}

  isApplicable(context: ICompletionContext): Promise<boolean> {
    return Promise.resolve(context.widget instanceof NotebookPanel && atMagic(context));
  }

  async fetch(
    request: CompletionHandler.IRequest,
    context: ICompletionContext,
  ): Promise<CompletionHandler.ICompletionItemsReply> {
    const nothing = { start: request.offset, end: request.offset, items: [] };
    const panel = context.widget as NotebookPanel;
    if (!findMagicLine(request.text)) {
      return nothing;
    }
    const lists = await this._lists.get();
    const found = complete(request.text, request.offset, {
      ...lists,
      notebook: panel.context?.path ?? '',
    });
    if (!found) {
      return nothing;
    }
    return {
      start: found.start,
      end: found.end,
      items: found.words.map((word, index) => ({
        label: labelOf(word, found.words),
        insertText: word.text,
        type: 'magic',
        icon: runOnIcon,
        documentation: word.help ?? (word.detail || undefined),
        // They come in an order of their own.
        sortText: String(index).padStart(3, '0'),
      })),
    };
  }
}

/** The word and what is said of it, in columns: the list is in a font of one width, and makes room for labels alone. */
function labelOf(word: Offered, words: readonly Offered[]): string {
  const width = Math.max(...words.map((each) => each.text.length)) + 2;
  return word.detail
    ? word.text.padEnd(width, NO_BREAK) + word.detail.replaceAll(' ', NO_BREAK)
    : word.text;
}

function atMagic(context: ICompletionContext): boolean {
  const editor = context.editor;
  if (!editor) {
    return false;
  }
  const line = findMagicLine(editor.model.sharedModel.getSource());
  const offset = editor.getOffsetAt(editor.getCursorPosition());
  return line !== null && offset > line.afterName && offset <= line.end;
}
