import { useEffect, useRef, useState } from 'react';
import type { Gateway } from '../gateway/rest';
import type { CallDetail, CallUsage, UsageSample } from '../gateway/types';
import { FINAL } from '../runs/filters';
import { added, within } from '../runs/usage';

/** One run, live; null until it is known. */
export function useDetail(
  gateway: Gateway,
  callId: string,
): { detail: CallDetail | null; problem: string } {
  const [state, setState] = useState<{ detail: CallDetail | null; problem: string }>({
    detail: null,
    problem: '',
  });
  useEffect(() => {
    const watch = gateway.live.watch(
      { topic: 'call', call_id: callId },
      {
        frame: (frame) => {
          if (frame.type === 'call') {
            setState({ detail: frame.call, problem: '' });
          }
        },
        error: (problem) => setState((known) => ({ ...known, problem: problem.message })),
      },
    );
    return () => watch.dispose();
  }, [gateway, callId]);
  return state;
}

/** What a run has used: from the gateway's log, and while it runs from the live feed. */
export function useRunSamples(gateway: Gateway, detail: CallDetail | null): UsageSample[] {
  const [samples, setSamples] = useState<UsageSample[]>([]);
  const call = detail?.call;
  const callId = call?.call_id ?? '';
  const containerId = call?.container_id ?? '';
  const over = call ? FINAL.has(call.state) : false;
  const started = useRef(0);
  useEffect(() => {
    started.current = call?.started ?? 0;
  }, [call]);

  useEffect(() => {
    if (!callId) {
      return;
    }
    let gone = false;
    gateway.get<CallUsage>(`v1/calls/${callId}/usage`).then(
      (answer) => {
        if (!gone) {
          // While it runs, what has come meanwhile is newer.
          setSamples((known) =>
            over && answer.samples.length ? answer.samples : added(answer.samples, known),
          );
        }
      },
      // Said where the charts are, as no figures.
      () => undefined,
    );
    return () => {
      gone = true;
    };
  }, [gateway, callId, over]);

  useEffect(() => {
    if (!containerId || over) {
      return;
    }
    const watch = gateway.live.watch(
      { topic: 'usage' },
      {
        frame: (frame) => {
          if (frame.type === 'usage') {
            const mine = frame.containers.find((one) => one.container_id === containerId);
            if (mine && started.current) {
              setSamples((known) => added(known, within(mine.samples, started.current, Infinity)));
            }
          }
        },
      },
    );
    return () => watch.dispose();
  }, [gateway, containerId, over]);
  return samples;
}
