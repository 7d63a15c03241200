import React from 'react';
import type { Gateway } from '../gateway/rest';
import type { SessionView } from '../gateway/types';
import type { Action } from './actions';
import { Actions } from './actions';
import { Group } from './group';
import { fileName, sessionActions, sessionFuture, sessionState } from './words';

/** The sessions behind `%%gpu` cells: awake, waited for, asleep. */
export function Sessions(props: {
  gateway: Gateway;
  sessions: SessionView[] | null;
  now: number;
}): JSX.Element {
  return (
    <Group
      id="sessions"
      title="Sessions"
      count={props.sessions && props.sessions.length}
      empty="No session. A %%gpu cell starts one, and its variables live from cell to cell."
    >
      {props.sessions?.map((session) => (
        <Session key={session.session_id} {...props} session={session} />
      ))}
    </Group>
  );
}

function Session(props: { gateway: Gateway; session: SessionView; now: number }): JSX.Element {
  const { session, gateway, now } = props;
  const route = `v1/sessions/${session.session_id}`;
  const all: Record<'sleep' | 'wake' | 'end', Action> = {
    sleep: {
      label: 'Sleep',
      name: `Put session ${session.name} to sleep`,
      run: () => gateway.post(`${route}/sleep`, {}),
    },
    wake: {
      label: 'Wake',
      name: `Wake session ${session.name}`,
      run: () => gateway.post(`${route}/wake`, {}),
    },
    end: {
      label: 'End',
      name: `End session ${session.name}`,
      confirm: {
        title: `End session ${session.name}?`,
        body: `Its variables are gone${session.running ? ', and the cell that runs in it fails' : ''}.`,
        accept: 'End session',
      },
      run: () => gateway.delete(route),
    },
  };
  return (
    <li
      className="jp-skylift-row"
      data-skylift-session={session.name}
      data-state={session.state === 'falling asleep' ? 'sleeping' : session.state}
    >
      <div className="jp-skylift-row-main">
        <span className="jp-skylift-row-name">{session.name}</span>
        <span className="jp-skylift-row-where">{where(session)}</span>
        <span className="jp-skylift-row-of" title={session.notebook}>
          {fileName(session.notebook)}
        </span>
      </div>
      <div className="jp-skylift-row-facts">
        {[sessionState(session, now), sessionFuture(session, now)].filter(Boolean).join(' · ')}
      </div>
      {session.problem && (
        <p className="jp-skylift-problem">It could not be woken: {session.problem}</p>
      )}
      <Actions actions={sessionActions(session).map((action) => all[action])} />
    </li>
  );
}

/** What it runs on, where its name does not say so; of one that sleeps it is not known. */
function where(session: SessionView): string {
  const gpu = session.gpu || (session.state === 'asleep' ? '' : 'cpu');
  return gpu === session.name ? '' : gpu;
}
