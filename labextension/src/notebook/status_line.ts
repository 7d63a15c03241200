/** The status line of a `%%gpu` cell, as a renderer of what the kernel displays: live, and with a button that stops it. */
import type { IRenderMime } from '@jupyterlab/rendermime-interfaces';
import type { IDisposable } from '@lumino/disposable';
import { Widget } from '@lumino/widgets';
import type { Gateway } from '../gateway/rest';
import type { FollowedCalls } from './calls';
import type { SeenCall, StatusData } from './status';
import { carriedOn, isOver, parts, readStatus, spokenText, STATUS_MIME } from './status';

/** What the lines need. */
export interface StatusLineContext {
  gateway: Gateway;
  calls: FollowedCalls;
  openRun(callId: string): void;
}

/** How a run is stopped: as interrupting the kernel does, the first time gently, and for good after that. */
const STOPS = [
  {
    mode: 'interrupt',
    label: 'Stop',
    hint: 'Raises KeyboardInterrupt in the cell; its session and variables stay',
  },
  {
    mode: 'cancel',
    label: 'Stop for good',
    hint: 'The cell does not react. This ends it whatever it does; its session may end with it',
  },
] as const;

/** One line. It is updated in place, so that its buttons keep the focus. */
export class StatusLineWidget extends Widget implements IRenderMime.IRenderer {
  private readonly _dot = document.createElement('span');
  private readonly _where = document.createElement('b');
  private readonly _text = document.createElement('span');
  private readonly _note = document.createElement('div');
  private readonly _spoken = document.createElement('span');
  private readonly _problem = document.createElement('div');
  private readonly _stop = document.createElement('button');
  private readonly _open = document.createElement('button');
  private _data: StatusData | null = null;
  private _shown = 0;
  private _call: SeenCall | null = null;
  private _followed: IDisposable | null = null;
  private _followedId = '';
  private _timer = 0;
  private _stops = 0;
  private _stopping = false;

  constructor(private readonly _context: StatusLineContext) {
    super();
    this.addClass('jp-skylift-status');
    this._dot.className = 'jp-skylift-status-dot';
    this._dot.setAttribute('aria-hidden', 'true');
    this._text.className = 'jp-skylift-status-text';
    this._note.className = 'jp-skylift-status-note';
    this._problem.className = 'jp-skylift-status-problem';
    this._problem.setAttribute('role', 'alert');
    this._spoken.className = 'jp-skylift-status-spoken';
    this._spoken.setAttribute('role', 'status');
    for (const [button, action] of [
      [this._stop, () => void this._stopCell()],
      [this._open, () => this._data && this._context.openRun(this._data.call_id)],
    ] as const) {
      button.type = 'button';
      button.hidden = true;
      button.className = 'jp-skylift-status-button';
      button.addEventListener('click', action);
    }
    this._stop.classList.add('jp-skylift-status-stop');
    this._stop.dataset.skylift = 'stop-cell';
    this._open.dataset.skylift = 'open-run';
    this._open.textContent = 'Open run';
    const line = document.createElement('div');
    line.className = 'jp-skylift-status-line';
    line.append(this._dot, this._where, this._text, this._stop, this._open);
    this.node.append(line, this._note, this._problem, this._spoken);
  }

  /** Shows what the kernel has displayed now. */
  renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    this._take(readStatus(model.data[STATUS_MIME]));
    return Promise.resolve();
  }

  override dispose(): void {
    if (!this.isDisposed) {
      this._followed?.dispose();
      window.clearInterval(this._timer);
    }
    super.dispose();
  }

  private _take(data: StatusData | null): void {
    if (!data) {
      this._where.textContent = 'A status line that this version of Skylift does not know';
      return;
    }
    this._data = data;
    this._shown = now();
    this._follow();
    this._render();
  }

  private _follow(): void {
    const callId = this._data && !isOver(this._data.phase) ? this._data.call_id : '';
    if (callId === this._followedId) {
      return;
    }
    this._followedId = callId;
    this._followed?.dispose();
    this._call = null;
    this._followed = callId
      ? this._context.calls.follow(callId, (call) => {
          this._call = call;
          this._render();
        })
      : null;
  }

  private _render(): void {
    if (!this._data) {
      return;
    }
    const data = carriedOn(this._data, this._shown, this._call, now());
    const runs = !isOver(data.phase);
    this.node.dataset.phase = data.phase;
    this.node.dataset.skyliftCall = data.call_id;
    setText(this._where, data.where[0]);
    setText(
      this._text,
      parts(data)
        .map((part) => ` · ${part}`)
        .join(''),
    );
    setText(this._note, data.note);
    setText(this._spoken, spokenText(data));
    // Whether it still runs is known from the gateway alone: the line may be that of a notebook that was saved.
    const live = runs && this._call !== null;
    const stop = STOPS[Math.min(this._stops, STOPS.length - 1)];
    setText(this._stop, stop.label);
    this._stop.title = stop.hint;
    this._stop.setAttribute('aria-label', `${stop.label}: the cell on ${data.where[0]}`);
    this._stop.hidden = !live;
    this._open.hidden = !data.call_id;
    this._open.setAttribute('aria-label', `Open run ${data.call_id}`);
    if (!runs) {
      this._stops = 0;
      setText(this._problem, '');
    }
    this._tick(live);
  }

  /** Time passes in the line while the cell runs, whether or not anything is told. */
  private _tick(on: boolean): void {
    if (on === this._timer > 0) {
      return;
    }
    window.clearInterval(this._timer);
    this._timer = on ? window.setInterval(() => this.isVisible && this._render(), 1000) : 0;
  }

  private async _stopCell(): Promise<void> {
    const callId = this._data?.call_id;
    if (!callId || this._stopping) {
      return;
    }
    const stop = STOPS[Math.min(this._stops, STOPS.length - 1)];
    // Not `disabled`, which would take the focus from it.
    this._stopping = true;
    this._stop.setAttribute('aria-disabled', 'true');
    setText(this._problem, '');
    try {
      await this._context.gateway.post(`v1/calls/${callId}/cancel`, {
        mode: stop.mode,
        reason: 'stopped in the notebook',
      });
      this._stops += 1;
    } catch (error) {
      setText(
        this._problem,
        `It was not stopped. ${error instanceof Error ? error.message : String(error)}`,
      );
    }
    this._stopping = false;
    this._stop.removeAttribute('aria-disabled');
    if (!this.isDisposed) {
      this._render();
    }
  }
}

/** Makes them. */
export function statusLineFactory(context: StatusLineContext): IRenderMime.IRendererFactory {
  return {
    safe: true,
    mimeTypes: [STATUS_MIME],
    // Before HTML, which says the same.
    defaultRank: 10,
    createRenderer: () => new StatusLineWidget(context),
  };
}

function setText(node: HTMLElement, text: string): void {
  if (node.textContent !== text) {
    node.textContent = text;
  }
}

function now(): number {
  return Date.now() / 1000;
}
