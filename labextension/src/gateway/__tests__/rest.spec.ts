import { ServerConnection } from '@jupyterlab/services';
import { Gateway } from '../rest';

class NoSocket {
  close(): void {}
}

const answer = jest.fn<Promise<Partial<Response>>, [Request]>();

const gateway = new Gateway({
  ...ServerConnection.makeSettings(),
  baseUrl: 'http://here/base/',
  wsUrl: 'ws://here/base/',
  WebSocket: NoSocket as unknown as typeof WebSocket,
  Request: class {
    headers = { append: () => undefined, has: () => false, set: () => undefined };

    constructor(
      readonly url: string,
      readonly init: RequestInit,
    ) {}
  } as unknown as typeof Request,
  fetch: answer as unknown as typeof fetch,
});

afterAll(() => gateway.live.dispose());

const reply = (status: number, text: string) => ({
  ok: status < 400,
  status,
  statusText: 'Words',
  headers: new Map() as unknown as Headers,
  text: async () => text,
  json: async () => JSON.parse(text) as unknown,
});

describe('Gateway', () => {
  it('makes URLs', () => {
    expect(gateway.url('v1/calls')).toBe('http://here/base/skylift/v1/calls');
    expect(gateway.url('v1/calls', { limit: 5, before: undefined, search: 'a b' })).toBe(
      'http://here/base/skylift/v1/calls?limit=5&search=a+b',
    );
  });

  it('reads JSON', async () => {
    answer.mockResolvedValue(reply(200, '{"next": ""}'));
    expect(await gateway.get('v1/calls')).toEqual({ next: '' });
    answer.mockResolvedValue(reply(204, ''));
    expect(await gateway.delete('v1/sessions/se-1')).toBeUndefined();
  });

  it("throws the gateway's own words", async () => {
    answer.mockResolvedValue(
      reply(409, '{"error": "ConflictError", "message": "It is over already."}'),
    );
    await expect(gateway.post('v1/calls/fc-1/cancel')).rejects.toMatchObject({
      status: 409,
      error: 'ConflictError',
      message: 'It is over already.',
    });
  });

  it.each([
    [404, /no skylift\/v1\/calls.*jupyter server extension enable skylift\.lab/],
    [403, /does not know you any more.*log in/],
    [502, /answered with 502 Words/],
  ])('has words of its own for a bare %d', async (status, words) => {
    answer.mockResolvedValue(reply(status, '<html>'));
    await expect(gateway.get('v1/calls')).rejects.toThrow(words);
  });

  it('says that nobody answers', async () => {
    answer.mockRejectedValue(new TypeError('Failed to fetch'));
    await expect(gateway.get('v1/calls')).rejects.toMatchObject({
      status: 0,
      message: expect.stringMatching(/Jupyter server does not answer/),
    });
  });
});
