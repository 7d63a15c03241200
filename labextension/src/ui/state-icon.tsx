import React from 'react';
import type { CallState } from '../gateway/types';

const PATHS: Record<CallState, JSX.Element> = {
  queued: <circle cx="8" cy="8" r="5.2" strokeDasharray="2.6 2.2" />,
  running: <path d="M8 2.500a5.500 5.500 0 1 1-5.500 5.500" />,
  done: <path d="M3 8.500l3.300 3.300L13 5" />,
  failed: <path d="M4 4l8 8M12 4l-8 8" />,
  cancelled: (
    <>
      <circle cx="8" cy="8" r="5.5" />
      <path d="M4.200 11.800l7.600-7.600" />
    </>
  ),
  timeout: (
    <>
      <circle cx="8" cy="8" r="5.5" />
      <path d="M8 4.800V8l2.200 1.600" />
    </>
  ),
};

/** A run's state as a shape of its own, so that colour is not all there is. The words are beside it. */
export function StateIcon({ state }: { state: CallState }): JSX.Element {
  return (
    <svg
      className="jp-skylift-state"
      data-state={state}
      viewBox="0 0 16 16"
      width="16"
      height="16"
      aria-hidden="true"
    >
      {PATHS[state]}
    </svg>
  );
}
