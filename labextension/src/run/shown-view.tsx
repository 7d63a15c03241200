import { MimeModel } from '@jupyterlab/rendermime';
import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import type { IRenderMime } from '@jupyterlab/rendermime-interfaces';
import { MessageLoop } from '@lumino/messaging';
import { Widget } from '@lumino/widgets';
import React, { useLayoutEffect, useRef } from 'react';
import { count } from '../ui/formats';
import { useChanges } from '../ui/hooks';
import type { OutputFeed, Shown } from './output-feed';

/** What the run has displayed, as a notebook would show it. */
export function ShownView(props: {
  feed: OutputFeed;
  rendermime: IRenderMimeRegistry;
}): JSX.Element {
  const { feed, rendermime } = props;
  useChanges(feed.changed);
  return (
    <div className="jp-skylift-displays" tabIndex={0} role="region" aria-label="What it displayed">
      {feed.leftOut > 0 && (
        <p className="jp-skylift-empty">{count(feed.leftOut)} before these are not shown here.</p>
      )}
      {feed.shown.length === 0 && (
        <p className="jp-skylift-empty">
          {feed.over ? 'It has displayed nothing.' : 'Nothing displayed yet.'}
        </p>
      )}
      {feed.shown.map((one) => (
        <Displayed key={one.seq} shown={one} rendermime={rendermime} />
      ))}
    </div>
  );
}

function Displayed({
  shown,
  rendermime,
}: {
  shown: Shown;
  rendermime: IRenderMimeRegistry;
}): JSX.Element {
  const place = useRef<HTMLDivElement>(null);
  const { data, metadata } = shown;
  useLayoutEffect(() => {
    const node = place.current!;
    // What comes from a container is trusted as little as a notebook's output that was not run here.
    const model = new MimeModel({
      data: data as IRenderMime.IMimeModel['data'],
      metadata: metadata as IRenderMime.IMimeModel['metadata'],
      trusted: false,
    });
    const mime = rendermime.preferredMimeType(model.data, 'prefer');
    if (!mime) {
      node.textContent = Object.keys(data).length
        ? `It cannot be shown here: ${Object.keys(data).join(', ')}`
        : 'Loading…';
      return () => (node.textContent = '');
    }
    const renderer = rendermime.createRenderer(mime);
    Widget.attach(renderer, node);
    renderer.renderModel(model).catch((error: unknown) => {
      node.textContent = `It could not be shown: ${String(error)}`;
    });
    return () => {
      if (renderer.isAttached) {
        MessageLoop.sendMessage(renderer, Widget.Msg.BeforeDetach);
        renderer.node.remove();
        MessageLoop.sendMessage(renderer, Widget.Msg.AfterDetach);
      }
      renderer.dispose();
      node.textContent = '';
    };
  }, [data, metadata, rendermime]);
  return <div ref={place} className="jp-skylift-displays-item jp-RenderedHTMLCommon" />;
}
