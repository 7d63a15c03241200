import React from 'react';
import type { TemplateView } from '../gateway/types';
import { clock } from '../ui/formats';
import { Group } from './group';
import { templateSize, templateState } from './words';

/** What containers are forked from, and its snapshots. */
export function Templates({ templates }: { templates: TemplateView[] | null }): JSX.Element {
  return (
    <Group
      id="templates"
      title="Templates and snapshots"
      count={templates && templates.length}
      empty="None yet. The first container of a function or session makes one."
    >
      {templates?.map((template) => (
        <li
          key={`${template.host_id}-${template.template_id}`}
          className="jp-skylift-row"
          data-skylift-template={template.label}
          data-state={template.state}
        >
          <div className="jp-skylift-row-main">
            <span className="jp-skylift-row-name">{template.label}</span>
          </div>
          <div className="jp-skylift-row-facts">
            {[templateState(template), template.created > 0 && `made ${clock(template.created)}`]
              .filter(Boolean)
              .join(' · ')}
          </div>
          <div className="jp-skylift-row-facts">{templateSize(template)}</div>
          {template.reason && (
            <p
              className={
                template.state === 'failed' ? 'jp-skylift-problem' : 'jp-skylift-row-facts'
              }
            >
              {template.reason}
            </p>
          )}
        </li>
      ))}
    </Group>
  );
}
