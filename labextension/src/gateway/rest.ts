/** The gateway's REST API, by way of the Jupyter server's extension, which keeps the token. */
import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';
import { LiveFeed } from './live';

/** An answer that is no success. The message is for people; `error` names its kind. */
export class GatewayError extends Error {
  constructor(
    /** Of HTTP; 0 where there was no answer at all. */
    readonly status: number,
    readonly error: string,
    message: string,
  ) {
    super(message);
    this.name = 'GatewayError';
  }
}

export type Query = Record<string, string | number | boolean | undefined>;

/** Where this page speaks to its gateway. There is one, which index.ts makes. */
export class Gateway {
  /** What changes, as it does. */
  readonly live: LiveFeed;

  constructor(private readonly _settings: ServerConnection.ISettings) {
    this.live = new LiveFeed(_settings);
  }

  /** The URL of `path` below `{base}skylift/`; a `query`'s undefined values are left out. */
  url(path: string, query: Query = {}): string {
    const url = URLExt.join(this._settings.baseUrl, 'skylift', path);
    const search = new URLSearchParams();
    for (const [name, value] of Object.entries(query)) {
      if (value !== undefined) {
        search.set(name, String(value));
      }
    }
    const text = search.toString();
    return text ? `${url}${url.includes('?') ? '&' : '?'}${text}` : url;
  }

  /** As `fetch`, with Jupyter's authentication. Throws `GatewayError` where the answer is no success. */
  async fetch(path: string, init: RequestInit = {}, query: Query = {}): Promise<Response> {
    let response: Response;
    try {
      // With Jupyter's own "no-store" it would add the time to the query, which the gateway takes for a parameter.
      const request: RequestInit = { cache: 'no-cache', ...init };
      response = await ServerConnection.makeRequest(this.url(path, query), request, this._settings);
    } catch (error) {
      if (error instanceof DOMException && error.name === 'AbortError') {
        throw error;
      }
      throw new GatewayError(
        0,
        'Unreachable',
        'The Jupyter server does not answer. Is it still running, and the network there?',
      );
    }
    if (!response.ok) {
      throw await failure(response, path);
    }
    return response;
  }

  get<T>(path: string, query: Query = {}): Promise<T> {
    return this._json('GET', path, undefined, query);
  }

  post<T>(path: string, body?: unknown): Promise<T> {
    return this._json('POST', path, body ?? {});
  }

  put<T>(path: string, body?: unknown): Promise<T> {
    return this._json('PUT', path, body ?? {});
  }

  delete<T>(path: string): Promise<T> {
    return this._json('DELETE', path);
  }

  private async _json<T>(
    method: string,
    path: string,
    body?: unknown,
    query: Query = {},
  ): Promise<T> {
    const init: RequestInit = { method };
    if (body !== undefined) {
      init.body = JSON.stringify(body);
    }
    const response = await this.fetch(path, init, query);
    const text = await response.text();
    return (text ? JSON.parse(text) : undefined) as T;
  }
}

async function failure(response: Response, path: string): Promise<GatewayError> {
  try {
    const { error, message } = (await response.json()) as { error?: unknown; message?: unknown };
    if (typeof message === 'string' && message) {
      return new GatewayError(response.status, typeof error === 'string' ? error : '', message);
    }
  } catch {
    // No JSON: it came from something before the gateway.
  }
  return new GatewayError(response.status, '', withoutBody(response, path));
}

function withoutBody(response: Response, path: string): string {
  if (response.status === 403 || response.status === 401) {
    return 'The Jupyter server does not know you any more. Reload the page and log in again.';
  }
  if (response.status === 404) {
    return `The Jupyter server has no skylift/${path.split('?')[0]}. If it runs without Skylift's server extension: "jupyter server extension enable skylift.lab", then start it again.`;
  }
  return `skylift/${path.split('?')[0]} was answered with ${response.status} ${response.statusText}.`;
}
