/** Icons that JupyterLab has not. */
import { LabIcon } from '@jupyterlab/ui-components';

/** A volume: a drum. */
export const volumeIcon = new LabIcon({
  name: 'skylift:volume',
  svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" height="16" viewBox="0 0 16 16">
  <g class="jp-icon3" fill="none" stroke="#616161" stroke-width="1.4">
    <ellipse cx="8" cy="3.8" rx="5.3" ry="2.1"/>
    <path d="M2.7 3.8v8.4c0 1.2 2.4 2.1 5.3 2.1s5.3-.9 5.3-2.1V3.8"/>
    <path d="M2.7 8c0 1.2 2.4 2.1 5.3 2.1s5.3-.9 5.3-2.1"/>
  </g>
</svg>`,
});
