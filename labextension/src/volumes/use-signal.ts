/** Signals in React. */
import { useEffect, useState } from 'react';
import type { ISignal } from '@lumino/signaling';

/** Draw again when something was said to have changed; many at once are one. */
export function useSignal(signal: ISignal<unknown, unknown>): void {
  const [, draw] = useState(0);
  useEffect(() => {
    let asked = false;
    let gone = false;
    const heard = () => {
      if (!asked) {
        asked = true;
        queueMicrotask(() => {
          asked = false;
          if (!gone) {
            draw((count) => count + 1);
          }
        });
      }
    };
    signal.connect(heard);
    // What happened between the first drawing and now.
    heard();
    return () => {
      gone = true;
      signal.disconnect(heard);
    };
  }, [signal]);
}
