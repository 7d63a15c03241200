import { Dialog, showDialog } from '@jupyterlab/apputils';
import React, { useCallback, useLayoutEffect, useRef, useState } from 'react';

/** What is asked before something is done that cannot be undone. */
export interface Confirmation {
  title: string;
  body: string;
  accept: string;
}

/** Something that can be done with a row. */
export interface Action {
  /** On the button. */
  label: string;
  /** For screen readers: `"Stop session H100"`. */
  name: string;
  confirm?: Confirmation;
  run(): Promise<unknown>;
}

/** The buttons of a row, and below them why the last one failed. */
export function Actions({ actions }: { actions: Action[] }): JSX.Element {
  const [busy, setBusy] = useState('');
  const [problem, setProblem] = useState('');
  const here = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    const node = here.current;
    return () => {
      // The row goes, and the focus must not go with it.
      if (node?.contains(document.activeElement)) {
        node.closest('section')?.querySelector<HTMLElement>('h3 button')?.focus();
      }
    };
  }, []);
  const start = useCallback(async (action: Action) => {
    if (action.confirm && !(await confirmed(action.confirm))) {
      return;
    }
    setBusy(action.label);
    setProblem('');
    try {
      await action.run();
    } catch (error) {
      setProblem(error instanceof Error ? error.message : String(error));
    }
    setBusy('');
    // The row may have other buttons now, and the focus must not be lost with the one that was pressed.
    window.setTimeout(() => {
      if (here.current && document.activeElement === document.body) {
        here.current.querySelector('button')?.focus();
      }
    });
  }, []);
  return (
    <div className="jp-skylift-actions" ref={here}>
      {actions.map((action) => (
        <button
          key={action.label}
          type="button"
          className="jp-skylift-action"
          aria-label={action.name}
          aria-disabled={busy !== '' || undefined}
          aria-busy={busy === action.label || undefined}
          onClick={() => busy === '' && void start(action)}
        >
          {busy === action.label ? `${action.label}…` : action.label}
        </button>
      ))}
      {problem && (
        <p role="alert" className="jp-skylift-problem">
          {problem}
        </p>
      )}
    </div>
  );
}

async function confirmed(confirm: Confirmation): Promise<boolean> {
  const answer = await showDialog({
    title: confirm.title,
    body: confirm.body,
    buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: confirm.accept })],
    defaultButton: 0,
  });
  return answer.button.accept;
}
