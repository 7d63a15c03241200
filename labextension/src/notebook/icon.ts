import { LabIcon } from '@jupyterlab/ui-components';

/** A chip with an arrow into it: a cell that runs on a GPU. */
export const runOnIcon = new LabIcon({
  name: 'skylift:run-on',
  svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24">
  <g class="jp-icon3" fill="none" stroke="#616161" stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round">
    <path d="M6.5 6.5h11v11h-11z"/>
    <path d="M9.5 6.5v-3M14.5 6.5v-3M9.5 20.5v-3M14.5 20.5v-3M6.5 9.5h-3M6.5 14.5h-3M20.5 9.5h-3M20.5 14.5h-3"/>
  </g>
  <path class="jp-icon3" fill="#616161" d="M10.3 9.200v5.600l4.600-2.800z"/>
</svg>`,
});
