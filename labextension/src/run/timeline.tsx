import React from 'react';
import type { CallDetail, CallRow, ContainerView } from '../gateway/types';
import { FINAL } from '../runs/filters';
import { clock, duration, ticking } from '../ui/formats';

/** A stretch of the run's time. */
export interface Phase {
  name: string;
  kind: 'queued' | 'starting' | 'running';
  seconds: number;
}

/** How its container came: `restored in 0.24 s`. */
export function startWords(container: ContainerView | null): string {
  if (!container || container.state === 'starting') {
    return '';
  }
  const words = {
    running: 'in a running container',
    fork: 'forked',
    restore: 'restored',
    cold: 'cold start',
  }[container.path];
  return container.path === 'running' || !container.path_seconds
    ? words
    : `${words} in ${duration(container.path_seconds)}`;
}

/** Queued, starting, running: what its time went to. */
export function phases(detail: CallDetail, now: number): Phase[] {
  const { call, container, timeline } = detail;
  const end = call.ended || now;
  const starting = timeline.find((entry) => entry.what === 'starting container')?.time ?? 0;
  const begun = call.started || end;
  const found: Phase[] = [];
  const begin = starting && starting < begun ? Math.max(starting, call.queued) : begun;
  found.push({ name: 'queued', kind: 'queued', seconds: Math.max(begin - call.queued, 0) });
  if (begin < begun) {
    const name = startWords(container).split(' in ')[0] || 'starting';
    found.push({ name, kind: 'starting', seconds: begun - begin });
  }
  if (call.started) {
    found.push({
      name: FINAL.has(call.state) ? 'ran' : 'running',
      kind: 'running',
      seconds: Math.max(end - call.started, 0),
    });
  }
  return found;
}

/** How long each part took, and what happened when. */
export function Timeline({ detail, now }: { detail: CallDetail; now: number }): JSX.Element {
  const parts = phases(detail, now);
  const total = parts.reduce((sum, part) => sum + part.seconds, 0) || 1;
  const words = (part: Phase) => `${part.name} ${durationOf(part, detail.call)}`;
  return (
    <div className="jp-skylift-timeline">
      <div
        className="jp-skylift-phases"
        role="img"
        aria-label={`Its time: ${parts.map(words).join(', ')}`}
      >
        {parts.map((part) => (
          <div
            key={part.kind}
            data-phase={part.kind}
            style={{ flexGrow: Math.max(part.seconds / total, 0.004) }}
          />
        ))}
      </div>
      <ul className="jp-skylift-phase-words">
        {parts.map((part) => (
          <li key={part.kind} data-phase={part.kind}>
            {words(part)}
          </li>
        ))}
      </ul>
      <table className="jp-skylift-timeline-table">
        <thead>
          <tr>
            <th scope="col">When</th>
            <th scope="col">After</th>
            <th scope="col">What</th>
          </tr>
        </thead>
        <tbody>
          {detail.timeline.map((entry, index) => (
            <tr key={index}>
              <td>{clock(entry.time)}</td>
              <td>{duration(Math.max(entry.time - detail.call.queued, 0))}</td>
              <td>
                {entry.what}
                {entry.detail && (
                  <span className="jp-skylift-timeline-detail"> {entry.detail}</span>
                )}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      {detail.container?.path_reason && (
        <p className="jp-skylift-empty">No faster start: {detail.container.path_reason}</p>
      )}
    </div>
  );
}

function durationOf(part: Phase, call: CallRow): string {
  return FINAL.has(call.state) ? duration(part.seconds) : ticking(part.seconds);
}
