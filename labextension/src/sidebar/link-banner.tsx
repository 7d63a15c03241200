import React, { useEffect, useState } from 'react';
import type { Gateway } from '../gateway/rest';
import type { GatewayStatus } from '../gateway/types';
import { useLink } from '../ui/hooks';

/** Says that the gateway is away, why, and what to do; nothing while it is there. */
export function LinkBanner({ gateway }: { gateway: Gateway }): JSX.Element {
  const link = useLink(gateway);
  const [status, setStatus] = useState<GatewayStatus | null>(null);
  const [starting, setStarting] = useState(false);
  const [failed, setFailed] = useState('');
  const { state, problem } = link;

  useEffect(() => {
    setStatus(null);
    setFailed('');
    if (state !== 'gateway-away' && state !== 'server-away') {
      return;
    }
    let gone = false;
    gateway.get<GatewayStatus>('status').then(
      (answer) => !gone && setStatus(answer),
      (error: Error & { status?: number }) => {
        // Without an answer at all the feed's own words say it.
        if (!gone && error.status) {
          setFailed(error.message);
        }
      },
    );
    return () => {
      gone = true;
    };
  }, [gateway, state]);

  const start = async () => {
    setStarting(true);
    setFailed('');
    try {
      const answer = await gateway.post<GatewayStatus>('start');
      if (answer.state !== 'ready') {
        setFailed(answer.problem || 'The gateway did not start.');
      }
    } catch (error) {
      setFailed((error as Error).message);
    } finally {
      setStarting(false);
    }
  };

  const absent = state === 'gateway-away' && status?.state === 'absent';
  const words =
    failed || (absent ? 'No gateway runs on this machine.' : problem) || status?.problem || '';
  return (
    <div
      className="jp-skylift-banner-place"
      aria-live="polite"
      role="status"
      data-skylift-link={state}
    >
      {state !== 'connected' && (
        <div className={`jp-skylift-banner ${state === 'connecting' ? '' : 'jp-mod-away'}`}>
          <span>{state === 'connecting' ? 'Connecting…' : words}</span>
          {absent && (
            <button
              type="button"
              className="jp-skylift-button"
              disabled={starting}
              onClick={() => void start()}
            >
              {starting ? 'Starting…' : 'Start it'}
            </button>
          )}
        </div>
      )}
    </div>
  );
}
