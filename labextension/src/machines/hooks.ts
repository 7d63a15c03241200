import { useEffect, useState } from 'react';
import type { RefObject } from 'react';
import type { Gateway } from '../gateway/rest';
import type { UsageById } from './usage';
import { withSamples } from './usage';

/** What containers use, as it comes. */
export function useUsage(gateway: Gateway): UsageById {
  const [usage, setUsage] = useState<UsageById>(new Map());
  useEffect(() => {
    const watch = gateway.live.watch(
      { topic: 'usage' },
      {
        frame: frame => {
          if (frame.type === 'usage') {
            setUsage(known => withSamples(known, frame.containers));
          }
        }
      }
    );
    return () => watch.dispose();
  }, [gateway]);
  return usage;
}

/** Unix time, once a second while `node` is on the screen and `counts` says that something counts. */
export function useNow(node: RefObject<HTMLElement | null>, counts: boolean): number {
  const [now, setNow] = useState(() => Date.now() / 1000);
  useEffect(() => {
    if (!counts) {
      return;
    }
    const tick = () => {
      if (node.current?.offsetParent) {
        setNow(Date.now() / 1000);
      }
    };
    tick();
    const timer = window.setInterval(tick, 1000);
    return () => window.clearInterval(timer);
  }, [node, counts]);
  return now;
}
