import type { ISignal } from '@lumino/signaling';
import { useEffect, useReducer, useState } from 'react';
import type { LinkState } from '../gateway/live';
import type { Gateway } from '../gateway/rest';
import type { ListTopic } from '../gateway/types';

/** A list of the gateway's, live: null until it has come; what there was stays while the gateway is away. */
export function useList<T>(
  gateway: Gateway,
  topic: ListTopic,
): { rows: T[] | null; problem: string } {
  const [list, setList] = useState<{ rows: T[] | null; problem: string }>({
    rows: null,
    problem: '',
  });
  useEffect(() => {
    const watch = gateway.live.watch(
      { topic },
      {
        frame: (frame) => {
          if (frame.type === 'list') {
            setList({ rows: frame.rows as T[], problem: '' });
          }
        },
        error: (problem) => setList((known) => ({ ...known, problem: problem.message })),
      },
    );
    return () => watch.dispose();
  }, [gateway, topic]);
  return list;
}

/** Whether the gateway is there, and why not. */
export function useLink(gateway: Gateway): { state: LinkState; problem: string } {
  const { live } = gateway;
  const [link, setLink] = useState({ state: live.state, problem: live.problem });
  useEffect(() => {
    const changed = () => setLink({ state: live.state, problem: live.problem });
    changed();
    live.stateChanged.connect(changed);
    return () => {
      live.stateChanged.disconnect(changed);
    };
  }, [live]);
  return link;
}

/** Unix time now, once a second while `counts` and the page is to be seen. */
export function useNow(counts: boolean): number {
  const [now, setNow] = useState(() => Date.now() / 1000);
  useEffect(() => {
    if (!counts) {
      return;
    }
    const tick = () => {
      if (!document.hidden) {
        setNow(Date.now() / 1000);
      }
    };
    tick();
    const timer = window.setInterval(tick, 1000);
    return () => window.clearInterval(timer);
  }, [counts]);
  return now;
}

/** Renders again when `signal` is emitted, once for each frame of the screen. */
export function useChanges(signal: ISignal<unknown, unknown>): void {
  const [, render] = useReducer((count: number) => count + 1, 0);
  useEffect(() => {
    let frame = 0;
    const changed = () => {
      frame ||= window.requestAnimationFrame(() => {
        frame = 0;
        render();
      });
    };
    // What changed before it was listened to.
    changed();
    signal.connect(changed);
    return () => {
      signal.disconnect(changed);
      window.cancelAnimationFrame(frame);
    };
  }, [signal]);
}
