import { useEffect, useState } from 'react';
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
        frame: (frame) => {
          if (frame.type === 'usage') {
            setUsage((known) => withSamples(known, frame.containers));
          }
        },
      },
    );
    return () => watch.dispose();
  }, [gateway]);
  return usage;
}
