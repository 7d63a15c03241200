import { ReactWidget } from '@jupyterlab/ui-components';
import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';
import React, { useEffect, useRef, useState } from 'react';
import { LinkBanner } from './link-banner';
import type { ISection, ISectionProps } from './section';

/** The sidebar: a tab for each section. */
export class Sidebar extends ReactWidget {
  private readonly _shownChanged = new Signal<this, ISection['id']>(this);
  private _shown: ISection['id'];

  constructor(
    private readonly _sections: readonly ISection[],
    private readonly _given: ISectionProps,
  ) {
    super();
    this._shown = _sections[0].id;
    this.addClass('jp-skylift-sidebar');
  }

  /** The section that is to be seen. */
  get shown(): ISection['id'] {
    return this._shown;
  }

  set shown(id: ISection['id']) {
    if (id !== this._shown) {
      this._shown = id;
      this._shownChanged.emit(id);
    }
  }

  get shownChanged(): ISignal<this, ISection['id']> {
    return this._shownChanged;
  }

  protected override render(): JSX.Element {
    return <Tabs sidebar={this} sections={this._sections} given={this._given} />;
  }
}

/** Sections keep what they show while another one is looked at; one that was never looked at is not made. */
function Tabs(props: {
  sidebar: Sidebar;
  sections: readonly ISection[];
  given: ISectionProps;
}): JSX.Element {
  const { sidebar, sections, given } = props;
  const [shown, setShown] = useState(sidebar.shown);
  const [made, setMade] = useState<ReadonlySet<string>>(new Set([sidebar.shown]));
  const tabs = useRef<HTMLDivElement>(null);

  useEffect(() => {
    const changed = (_: Sidebar, id: ISection['id']) => {
      setShown(id);
      setMade((known) => (known.has(id) ? known : new Set(known).add(id)));
    };
    changed(sidebar, sidebar.shown);
    sidebar.shownChanged.connect(changed);
    return () => {
      sidebar.shownChanged.disconnect(changed);
    };
  }, [sidebar]);

  const keyDown = (event: React.KeyboardEvent) => {
    const at = sections.findIndex((section) => section.id === shown);
    const target = {
      ArrowRight: (at + 1) % sections.length,
      ArrowLeft: (at + sections.length - 1) % sections.length,
      Home: 0,
      End: sections.length - 1,
    }[event.key];
    if (target !== undefined) {
      event.preventDefault();
      sidebar.shown = sections[target].id;
      tabs.current?.querySelectorAll<HTMLElement>('[role=tab]')[target].focus();
    }
  };

  return (
    <>
      <div
        ref={tabs}
        role="tablist"
        aria-label="Skylift"
        className="jp-skylift-tabs"
        onKeyDown={keyDown}
      >
        {sections.map(({ id, title }) => (
          <button
            key={id}
            type="button"
            role="tab"
            id={`jp-skylift-tab-${id}`}
            aria-controls={`jp-skylift-section-${id}`}
            aria-selected={id === shown}
            tabIndex={id === shown ? 0 : -1}
            className="jp-skylift-tab"
            onClick={() => (sidebar.shown = id)}
          >
            {title}
          </button>
        ))}
      </div>
      <LinkBanner gateway={given.gateway} />
      {sections.map(({ id, Component, toolbar: Toolbar }) => (
        <div
          key={id}
          role="tabpanel"
          id={`jp-skylift-section-${id}`}
          aria-labelledby={`jp-skylift-tab-${id}`}
          data-skylift-section={id}
          hidden={id !== shown}
          className="jp-skylift-section"
        >
          {made.has(id) && (
            <>
              {Toolbar && (
                <div className="jp-skylift-section-toolbar">
                  <Toolbar {...given} />
                </div>
              )}
              <div className="jp-skylift-section-content">
                <Component {...given} />
              </div>
            </>
          )}
        </div>
      ))}
    </>
  );
}
