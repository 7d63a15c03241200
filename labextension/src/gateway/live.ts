/** One WebSocket for all that this page watches, by way of the Jupyter server. */
import { URLExt } from '@jupyterlab/coreutils';
import type { ServerConnection } from '@jupyterlab/services';
import type { IDisposable } from '@lumino/disposable';
import { DisposableDelegate } from '@lumino/disposable';
import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';
import type { LiveFrame, Problem, WatchRequest } from './types';

export type LinkState = 'connecting' | 'connected' | 'gateway-away' | 'server-away';

export type { LiveFrame, Problem, WatchRequest } from './types';

/** What becomes of a watch. */
export interface IWatcher {
  frame(frame: LiveFrame): void;
  /** The gateway refused it, or it is over. It is sent again after a reconnect all the same. */
  error?(problem: Problem): void;
  /** It is sent again after a reconnect, and begins anew; called right before. */
  again?(): void;
}

type OtherFrame =
  | { type: 'gateway'; state: 'connected' | 'away'; problem?: string }
  | { type: 'hello'; gateway_id: string; version: string }
  | { type: 'error'; id: string; problem: Problem };

interface IWatch {
  request: WatchRequest;
  on: IWatcher;
  sent: boolean;
}

const FIRST_DELAY = 250;
const LONGEST_DELAY = 5000;
const NO_SERVER = 'The Jupyter server does not answer. This goes on by itself when it does.';
const NO_GATEWAY = 'The gateway is away. This goes on by itself when it is back.';

/** The live feed. It dials by itself, again and again, and sends its watches again each time. */
export class LiveFeed implements IDisposable {
  private readonly _watches = new Map<string, IWatch>();
  private readonly _stateChanged = new Signal<this, LinkState>(this);
  private readonly _onLine = () => this._dialNow();
  private _socket: WebSocket | null = null;
  private _timer: ReturnType<typeof setTimeout> | null = null;
  private _delay = FIRST_DELAY;
  private _state: LinkState = 'connecting';
  private _problem = '';
  private _counter = 0;
  private _disposed = false;

  constructor(private readonly _settings: ServerConnection.ISettings) {
    window.addEventListener('online', this._onLine);
    this._dial();
  }

  get state(): LinkState {
    return this._state;
  }

  /** Why it is not connected, for people; "" where it is. */
  get problem(): string {
    return this._problem;
  }

  get stateChanged(): ISignal<this, LinkState> {
    return this._stateChanged;
  }

  get isDisposed(): boolean {
    return this._disposed;
  }

  /** Watch until what is returned is disposed of. */
  watch(request: WatchRequest, on: IWatcher): IDisposable {
    const id = `w${++this._counter}`;
    const watch: IWatch = { request, on, sent: false };
    this._watches.set(id, watch);
    if (this._state === 'connected') {
      this._sendWatch(id, watch);
    }
    return new DisposableDelegate(() => {
      this._watches.delete(id);
      if (watch.sent && this._state === 'connected') {
        this._send({ type: 'unwatch', id });
      }
    });
  }

  dispose(): void {
    if (this._disposed) {
      return;
    }
    this._disposed = true;
    window.removeEventListener('online', this._onLine);
    this._watches.clear();
    this._clearTimer();
    this._socket?.close();
    this._socket = null;
    Signal.clearData(this);
  }

  private _dial(): void {
    const { wsUrl, token, appendToken, WebSocket: Socket } = this._settings;
    let url = URLExt.join(wsUrl, 'skylift', 'live');
    if (appendToken && token) {
      url += `?token=${encodeURIComponent(token)}`;
    }
    const socket = new Socket(url);
    this._socket = socket;
    socket.onmessage = (event) => {
      if (this._socket === socket) {
        this._received(String(event.data));
      }
    };
    // An error is followed by a close.
    socket.onclose = () => {
      if (this._socket === socket) {
        this._socket = null;
        this._lost();
      }
    };
  }

  private _lost(): void {
    this._setState('server-away', NO_SERVER);
    const delay = this._delay * (0.75 + Math.random() / 2);
    this._delay = Math.min(this._delay * 2, LONGEST_DELAY);
    this._timer = setTimeout(() => this._dialNow(), delay);
  }

  private _dialNow(): void {
    this._clearTimer();
    if (!this._socket && !this._disposed) {
      this._dial();
    }
  }

  private _clearTimer(): void {
    if (this._timer !== null) {
      clearTimeout(this._timer);
      this._timer = null;
    }
  }

  private _received(data: string): void {
    const frame = JSON.parse(data) as LiveFrame | OtherFrame;
    switch (frame.type) {
      case 'gateway':
        this._delay = FIRST_DELAY;
        if (frame.state === 'connected') {
          this._connected();
        } else {
          this._setState('gateway-away', frame.problem || NO_GATEWAY);
        }
        break;
      case 'hello':
        break;
      case 'error':
        if (frame.id) {
          this._watches.get(frame.id)?.on.error?.(frame.problem);
        } else {
          console.error(`Skylift's live feed: ${frame.problem.message}`);
        }
        break;
      default:
        this._watches.get(frame.id)?.on.frame(frame);
    }
  }

  private _connected(): void {
    this._setState('connected', '');
    for (const [id, watch] of [...this._watches]) {
      // A callback may have disposed of it.
      if (this._watches.get(id) !== watch) {
        continue;
      }
      if (watch.sent) {
        watch.on.again?.();
      }
      this._sendWatch(id, watch);
    }
  }

  private _sendWatch(id: string, watch: IWatch): void {
    watch.sent = true;
    const request = typeof watch.request === 'function' ? watch.request() : watch.request;
    this._send({ type: 'watch', id, ...request });
  }

  private _send(frame: object): void {
    if (this._socket?.readyState === 1) {
      this._socket.send(JSON.stringify(frame));
    }
  }

  private _setState(state: LinkState, problem: string): void {
    if (state !== this._state || problem !== this._problem) {
      this._state = state;
      this._problem = problem;
      this._stateChanged.emit(state);
    }
  }
}
