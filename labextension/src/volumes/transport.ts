/** How files get to the Jupyter server, and from there into volumes. */
import type { Gateway } from '../gateway/rest';
import type { Entry, VolumesApi } from './api';
import type { Transport } from './upload-types';

/** `skylift/uploads` of the server extension. */
export class ServerTransport implements Transport {
  constructor(
    private readonly gateway: Gateway,
    private readonly api: VolumesApi,
  ) {}

  async begin(
    volume: string,
    path: string,
    size: number,
    modified: number,
    signal: AbortSignal,
  ): Promise<{ upload_id: string; offset: number }> {
    const answer = await this.gateway.fetch('uploads', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ volume, path, size, modified }),
      signal,
    });
    return (await answer.json()) as { upload_id: string; offset: number };
  }

  async put(
    id: string,
    offset: number,
    part: ArrayBuffer,
    signal: AbortSignal,
  ): Promise<{ offset: number }> {
    const answer = await this.gateway.fetch(
      `uploads/${encodeURIComponent(id)}`,
      {
        method: 'PUT',
        headers: { 'Content-Type': 'application/octet-stream' },
        body: part,
        signal,
      },
      { offset },
    );
    return (await answer.json()) as { offset: number };
  }

  async finish(id: string, signal: AbortSignal): Promise<void> {
    await this.gateway.fetch(`uploads/${encodeURIComponent(id)}/finish`, {
      method: 'POST',
      signal,
    });
  }

  async cancel(id: string): Promise<void> {
    await this.gateway.fetch(`uploads/${encodeURIComponent(id)}`, { method: 'DELETE' });
  }

  stat(volume: string, path: string): Promise<Entry | null> {
    return this.api.stat(volume, path);
  }

  pause(milliseconds: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const { live } = this.gateway;
      const over = () => {
        clearTimeout(timer);
        live.stateChanged.disconnect(heard);
        signal.removeEventListener('abort', over);
        window.removeEventListener('online', over);
        resolve();
      };
      const heard = () => {
        if (live.state === 'connected') {
          over();
        }
      };
      const timer = setTimeout(over, milliseconds);
      live.stateChanged.connect(heard);
      signal.addEventListener('abort', over);
      window.addEventListener('online', over);
    });
  }
}
