import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { INotebookTracker } from '@jupyterlab/notebook';
import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { ReactWidget } from '@jupyterlab/ui-components';
import React, { useEffect, useRef, useState } from 'react';
import type { Gateway } from '../gateway/rest';
import type { CallDetail, CallRow, HostView } from '../gateway/types';
import { showCell } from '../notebook/show_cell';
import { FINAL } from '../runs/filters';
import {
  costOf,
  gpuWords,
  inputsWords,
  notebookName,
  STATE_WORDS,
  timeWords,
  title,
  whereWords,
} from '../runs/words';
import { bytes, clock, count } from '../ui/formats';
import { useChanges, useLink, useList, useNow } from '../ui/hooks';
import { StateIcon } from '../ui/state-icon';
import {
  attach,
  canAttach,
  canCancel,
  cancelAfterAsking,
  canRetry,
  copyId,
  retry,
} from './actions';
import { AnsiText } from './ansi-text';
import { Charts } from './charts';
import { useDetail, useRunSamples } from './detail';
import { LogView } from './log-view';
import { OutputFeed } from './output-feed';
import { ShownView } from './shown-view';
import { startWords, Timeline } from './timeline';

export interface IRunViewOptions {
  callId: string;
  app: JupyterFrontEnd;
  gateway: Gateway;
  notebooks: INotebookTracker | null;
  rendermime: IRenderMimeRegistry;
}

/** One run: its log as it is written, what it displayed, its timeline, what it used. */
export class RunView extends ReactWidget {
  private readonly _feed: OutputFeed;

  constructor(private readonly _options: IRunViewOptions) {
    super();
    this.addClass('jp-skylift-run');
    this.title.label = _options.callId;
    this._feed = new OutputFeed(_options.gateway, _options.callId);
  }

  get callId(): string {
    return this._options.callId;
  }

  override dispose(): void {
    this._feed.dispose();
    super.dispose();
  }

  protected override render(): JSX.Element {
    return (
      <Run
        {...this._options}
        feed={this._feed}
        named={(name) => {
          // The tab's; the widget around this one takes it over.
          const tab = this.parent?.title ?? this.title;
          tab.label = name.length > 28 ? `${name.slice(0, 27)}…` : name;
          tab.caption = `${name}\n${this.callId}`;
        }}
      />
    );
  }
}

interface IRunProps extends IRunViewOptions {
  feed: OutputFeed;
  named(name: string): void;
}

const TABS = [
  ['log', 'Log'],
  ['shown', 'Displayed'],
  ['timeline', 'Timeline'],
  ['use', 'Use'],
] as const;

type Tab = (typeof TABS)[number][0];

function Run(props: IRunProps): JSX.Element {
  const { gateway, callId, rendermime, feed, named } = props;
  const { detail, problem } = useDetail(gateway, callId);
  const link = useLink(gateway);
  const samples = useRunSamples(gateway, detail);
  const hosts = useList<HostView>(gateway, 'hosts').rows;
  const running = detail !== null && !FINAL.has(detail.call.state);
  const now = useNow(running);
  const [tab, setTab] = useState<Tab>('log');
  const tabs = useRef<HTMLDivElement>(null);
  useChanges(feed.changed);

  const name = detail ? title(detail.call) : '';
  useEffect(() => {
    if (detail) {
      feed.begin(detail);
    }
  }, [feed, detail]);
  useEffect(() => {
    if (name) {
      named(name);
    }
    // eslint-disable-next-line react-hooks/exhaustive-deps -- a new function each time
  }, [name]);

  if (!detail) {
    return (
      <div className="jp-skylift-run-waiting" role="status">
        {problem ? (
          <p className="jp-skylift-problem">{problem}</p>
        ) : (
          <p className="jp-skylift-empty">
            {link.state === 'connected' || link.state === 'connecting' ? 'Loading…' : link.problem}
          </p>
        )}
      </div>
    );
  }
  const keyDown = (event: React.KeyboardEvent) => {
    const at = TABS.findIndex(([id]) => id === tab);
    const step = { ArrowRight: 1, ArrowLeft: TABS.length - 1 }[event.key];
    if (step) {
      const target = (at + step) % TABS.length;
      setTab(TABS[target][0]);
      tabs.current?.querySelectorAll<HTMLElement>('[role=tab]')[target].focus();
      event.preventDefault();
    }
  };
  const id = (part: string) => `jp-skylift-${callId}-${part}`;
  return (
    <>
      {link.state !== 'connected' && link.state !== 'connecting' && (
        <div className="jp-skylift-banner jp-mod-away" role="status">
          {link.problem} What is shown here may be old.
        </div>
      )}
      <Header {...props} detail={detail} hosts={hosts} now={now} />
      {problem && (
        <p className="jp-skylift-problem" role="alert">
          {problem}
        </p>
      )}
      <Failure feed={feed} call={detail.call} />
      <div
        ref={tabs}
        role="tablist"
        aria-label="Of this run"
        className="jp-skylift-tabs"
        onKeyDown={keyDown}
      >
        {TABS.map(([one, text]) => (
          <button
            key={one}
            type="button"
            role="tab"
            id={id(`tab-${one}`)}
            aria-controls={id('panel')}
            aria-selected={one === tab}
            tabIndex={one === tab ? 0 : -1}
            className="jp-skylift-tab"
            onClick={() => setTab(one)}
          >
            {one === 'shown' && feed.shown.length ? `${text} (${count(feed.shown.length)})` : text}
          </button>
        ))}
      </div>
      <div
        role="tabpanel"
        id={id('panel')}
        aria-labelledby={id(`tab-${tab}`)}
        data-skylift-tab={tab}
        className="jp-skylift-run-panel"
      >
        {/* Kept, so that a search and its place are there when one comes back. */}
        <div className="jp-skylift-run-log" hidden={tab !== 'log'}>
          <LogView feed={feed} name={callId} />
        </div>
        {tab === 'shown' && <ShownView feed={feed} rendermime={rendermime} />}
        {tab === 'timeline' && (
          <div className="jp-skylift-run-scroll" tabIndex={0} role="region" aria-label="Timeline">
            <Timeline detail={detail} now={now} />
          </div>
        )}
        {tab === 'use' && (
          <div className="jp-skylift-run-scroll" tabIndex={0} role="region" aria-label="Use">
            <Charts samples={samples} />
          </div>
        )}
      </div>
    </>
  );
}

function Header(
  props: IRunProps & { detail: CallDetail; hosts: HostView[] | null; now: number },
): JSX.Element {
  const { detail, hosts, now } = props;
  const { call, container } = detail;
  const [said, setSaid] = useState('');
  const [busy, setBusy] = useState(false);
  const act = async (action: Promise<string>) => {
    setBusy(true);
    setSaid('');
    try {
      setSaid(await action);
    } catch (error) {
      setSaid((error as Error).message);
    } finally {
      setBusy(false);
    }
  };
  const cost = costOf(call);
  const price = call.price > 0 && !FINAL.has(call.state) ? ` at $${call.price.toFixed(2)}/h` : '';
  const gpu = container?.simulated && call.gpu ? `${call.gpu} simulated` : gpuWords(call, hosts);
  const parts: [string, React.ReactNode][] = [
    ['State', stateWords(call)],
    ['On', [gpu, whereWords(call, hosts)].filter(Boolean).join(' · ')],
    ['Start', startWords(container)],
    [
      FINAL.has(call.state) ? 'Took' : call.started ? 'Running' : 'Waiting',
      timeWords(call, now).replace(/^waits /, ''),
    ],
    ['Cost', cost && `${cost}${price}`],
    ['Inputs', inputsWords(call)],
    ['Peak memory', detail.peak_memory ? bytes(detail.peak_memory) : ''],
    [
      'Given to a container',
      detail.attempts > 1 && call.kind !== 'map' ? `${detail.attempts} times` : '',
    ],
    ['Queued', clock(call.queued)],
    ['From', call.notebook ? notebookName(call.notebook) : ''],
  ];
  return (
    <div className="jp-skylift-run-header">
      <div className="jp-skylift-run-head">
        <StateIcon state={call.state} />
        <h2 title={call.summary || undefined}>{title(call)}</h2>
        <div className="jp-skylift-run-buttons">
          {canCancel(call) && (
            <Button busy={busy} act={() => act(cancelAfterAsking(props, call))}>
              Cancel
            </Button>
          )}
          {canRetry(call) && (
            <Button
              busy={busy}
              act={() => act(retry(props, call))}
              title="Runs its cell again, as it is in the notebook now"
            >
              Run again
            </Button>
          )}
          {canAttach(call) && (
            <Button
              busy={busy}
              act={() => act(attach(props, call))}
              title="Streams its output into a new cell of the current notebook"
            >
              Attach
            </Button>
          )}
          {call.cell && (
            <Button busy={busy} act={() => act(showCell(props.app, props.notebooks, call))}>
              Show the cell
            </Button>
          )}
          <Button busy={false} act={() => copyId(call)} title={call.call_id}>
            Copy ID
          </Button>
        </div>
      </div>
      <dl className="jp-skylift-run-parts">
        {parts
          .filter(([, value]) => value)
          .map(([term, value]) => (
            <div key={term}>
              <dt>{term}</dt>
              <dd>{value}</dd>
            </div>
          ))}
      </dl>
      {call.summary.includes('\n') && (
        <details className="jp-skylift-run-summary">
          <summary>What it runs</summary>
          <pre tabIndex={0}>{call.summary}</pre>
        </details>
      )}
      <p className="jp-skylift-visually-hidden" aria-live="polite">
        {stateWords(call)}
      </p>
      {said && (
        <p className="jp-skylift-problem" role="alert">
          {said}
        </p>
      )}
    </div>
  );
}

function Button(props: {
  busy: boolean;
  act(): unknown;
  title?: string;
  children: string;
}): JSX.Element {
  return (
    <button
      type="button"
      className="jp-skylift-button"
      disabled={props.busy}
      title={props.title}
      onClick={() => void props.act()}
    >
      {props.children}
    </button>
  );
}

/** The error with its traceback, open while it is small. */
function Failure({ feed, call }: { feed: OutputFeed; call: CallRow }): JSX.Element | null {
  const text = feed.errors.length ? feed.errors.join('\n') : '';
  if (!call.error && !text) {
    return null;
  }
  return (
    <details className="jp-skylift-run-error" open>
      <summary>{call.error || 'An error'}</summary>
      {text && (
        <pre tabIndex={0} aria-label="Traceback">
          <AnsiText text={text} />
        </pre>
      )}
    </details>
  );
}

function stateWords(call: CallRow): string {
  const words = STATE_WORDS[call.state];
  return call.state === 'queued' && call.detail ? `${words}: ${call.detail}` : words;
}
