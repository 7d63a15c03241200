import { useEffect, useState } from 'react';
import type { Gateway } from '../gateway/rest';
import type { Spend, SpendBy } from '../gateway/types';

/** What containers cost over some days, live; null until it is known. */
export function useSpend(
  gateway: Gateway,
  by: SpendBy,
  days: number,
): { spend: Spend | null; problem: string } {
  const [state, setState] = useState<{ spend: Spend | null; problem: string }>({
    spend: null,
    problem: '',
  });
  useEffect(() => {
    setState({ spend: null, problem: '' });
    const watch = gateway.live.watch(
      { topic: 'spend', by, days },
      {
        frame: (frame) => {
          if (frame.type === 'list') {
            setState({ spend: (frame.rows[0] as Spend | undefined) ?? null, problem: '' });
          }
        },
        error: (problem) => setState((known) => ({ ...known, problem: problem.message })),
      },
    );
    return () => watch.dispose();
  }, [gateway, by, days]);
  return state;
}

/** The UTC day, which changes while the page is open. */
export function useToday(): string {
  const [today, setToday] = useState(() => new Date().toISOString().slice(0, 10));
  useEffect(() => {
    const next = Date.parse(`${today}T00:00:00Z`) + 86_400_000;
    const timer = window.setTimeout(
      () => setToday(new Date().toISOString().slice(0, 10)),
      Math.max(next - Date.now(), 0) + 1000,
    );
    return () => window.clearTimeout(timer);
  }, [today]);
  return today;
}
