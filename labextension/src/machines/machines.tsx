import React from 'react';
import type { ContainerView, HostView, SessionView, TemplateView } from '../gateway/types';
import type { ISectionProps } from '../sidebar/section';
import { useList, useNow } from '../ui/hooks';
import { Containers } from './containers';
import { useUsage } from './hooks';
import { Hosts } from './hosts';
import { Sessions } from './sessions';
import { Templates } from './templates';

/** The Machines section: hosts, containers, sessions, templates. */
export function Machines({ gateway }: ISectionProps): JSX.Element {
  const hosts = useList<HostView>(gateway, 'hosts');
  const containers = useList<ContainerView>(gateway, 'containers');
  const sessions = useList<SessionView>(gateway, 'sessions');
  const templates = useList<TemplateView>(gateway, 'templates');
  const usage = useUsage(gateway);
  const counts = Boolean(containers.rows?.length || sessions.rows?.length);
  const now = useNow(counts);
  const problems = new Set(
    [hosts, containers, sessions, templates].map((list) => list.problem).filter(Boolean),
  );
  return (
    <div className="jp-skylift-machines">
      {[...problems].map((problem) => (
        <p key={problem} role="alert" className="jp-skylift-problem">
          {problem}
        </p>
      ))}
      <Hosts hosts={hosts.rows} />
      <Containers gateway={gateway} containers={containers.rows} usage={usage} now={now} />
      <Sessions gateway={gateway} sessions={sessions.rows} now={now} />
      <Templates templates={templates.rows} />
    </div>
  );
}
