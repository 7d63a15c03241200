import React from 'react';
import type { Gateway } from '../gateway/rest';
import type { ContainerView } from '../gateway/types';
import { Sparkline } from '../ui/sparkline';
import { Actions } from './actions';
import { Group } from './group';
import type { UsageById } from './usage';
import { line } from './usage';
import { containerCost, containerName, containerState, startPath, startReason } from './words';

/** The containers that are up. */
export function Containers(props: {
  gateway: Gateway;
  containers: ContainerView[] | null;
  usage: UsageById;
  now: number;
}): JSX.Element {
  const up = props.containers?.filter((container) => container.state !== 'exited') ?? null;
  return (
    <Group id="containers" title="Containers" count={up && up.length} empty="No container is up.">
      {up?.map((container) => (
        <Container key={container.container_id} {...props} container={container} />
      ))}
    </Group>
  );
}

function Container(props: {
  gateway: Gateway;
  container: ContainerView;
  usage: UsageById;
  now: number;
}): JSX.Element {
  const { container, gateway, now } = props;
  const name = containerName(container);
  const samples = props.usage.get(container.container_id) ?? [];
  const hasGpu = samples.some((sample) => sample[3] !== null);
  return (
    <li
      className="jp-skylift-row"
      data-skylift-container={container.container_id}
      data-state={container.running.length > 0 ? 'running' : container.state}
      title={startReason(container)}
    >
      <div className="jp-skylift-row-main">
        <span className="jp-skylift-row-name">{name}</span>
        <span className="jp-skylift-row-where">{container.gpu || 'cpu'}</span>
        <Sparkline
          values={line(samples, 1)}
          max={1}
          label={hasGpu ? `GPU use of ${name}` : `CPU use of ${name}`}
        />
      </div>
      <div className="jp-skylift-row-facts">
        {[
          containerState(container, now),
          container.simulated && 'simulated GPU',
          container.kept,
          startPath(container),
          containerCost(container),
        ]
          .filter(Boolean)
          .join(' · ')}
      </div>
      <Actions
        actions={[
          {
            label: 'Stop',
            name: `Stop ${name}`,
            confirm: {
              title: `Stop ${name}?`,
              body: container.session
                ? 'The container of this session ends. Its variables are gone, and a cell that runs in it fails.'
                : 'The container ends. What runs in it fails; another one is started where it is needed.',
              accept: 'Stop',
            },
            run: () => gateway.delete(`v1/containers/${container.container_id}`),
          },
        ]}
      />
    </li>
  );
}
