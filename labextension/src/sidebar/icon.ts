import { LabIcon } from '@jupyterlab/ui-components';

/** Two wings that rise from the ground. */
export const skyliftIcon = new LabIcon({
  name: 'skylift:logo',
  svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24">
  <g class="jp-icon3" fill="none" stroke="#616161" stroke-width="2" stroke-linecap="round" stroke-linejoin="round">
    <path d="M4.500 11.500l7.500-7 7.500 7M4.500 17.500l7.500-7 7.500 7"/>
    <path d="M9 20.500h6"/>
  </g>
</svg>`,
});
