import React from 'react';
import type { GpuView, HostView } from '../gateway/types';
import { Group } from './group';
import { gpuText, hostRoom, isolation } from './words';

/** Hosts by where they come from; a group without a host is not shown. */
export function Hosts({ hosts }: { hosts: HostView[] | null }): JSX.Element {
  const engines = [...new Set((hosts ?? []).map((host) => host.engine))];
  const groups = engines.filter((engine) => engine !== 'local');
  return (
    <>
      {['local', ...groups].map((engine) => {
        const there = hosts?.filter((host) => host.engine === engine) ?? null;
        return (
          <Group
            key={engine}
            id={engine === 'local' ? 'hosts' : `hosts-${engine}`}
            title={engine === 'local' ? 'Hosts' : `Hosts · ${engine}`}
            count={there && there.length}
            empty="No machine is connected, so nothing can run. %skylift doctor says why."
          >
            {there?.map((host) => (
              <Host key={host.host_id || host.hostname} host={host} />
            ))}
          </Group>
        );
      })}
    </>
  );
}

function Host({ host }: { host: HostView }): JSX.Element {
  const state = host.problem ? 'problem' : host.connected ? 'connected' : 'away';
  return (
    <li className="jp-skylift-row" data-skylift-host={host.hostname} data-state={state}>
      <div className="jp-skylift-row-main">
        <span className="jp-skylift-row-name">{host.hostname || 'This machine'}</span>
        <span className="jp-skylift-row-state">{host.connected ? '' : 'not connected'}</span>
      </div>
      {host.connected && (
        <div className="jp-skylift-row-facts" title={host.kernel && `Linux ${host.kernel}`}>
          {[hostRoom(host), isolation(host), containers(host.containers)]
            .filter(Boolean)
            .join(' · ')}
        </div>
      )}
      {host.problem && <p className="jp-skylift-problem">{host.problem}</p>}
      {host.gpus.length > 0 ? (
        <ul className="jp-skylift-gpus" aria-label={`GPUs of ${host.hostname}`}>
          {host.gpus.map((gpu) => (
            <Gpu key={gpu.model} gpu={gpu} />
          ))}
        </ul>
      ) : (
        host.connected && <div className="jp-skylift-row-facts">no GPU</div>
      )}
    </li>
  );
}

function Gpu({ gpu }: { gpu: GpuView }): JSX.Element {
  return (
    <li data-skylift-gpu={gpu.model}>
      <span className="jp-skylift-gpu-name">{gpu.model}</span>
      {gpu.simulated && <span className="jp-skylift-tag">simulated</span>}
      <span className="jp-skylift-row-facts">{gpuText(gpu)}</span>
      {gpu.holders.length > 0 && (
        <div className="jp-skylift-row-facts">{gpu.holders.join(', ')}</div>
      )}
    </li>
  );
}

function containers(count: number): string {
  return count === 1 ? '1 container' : `${count} containers`;
}
