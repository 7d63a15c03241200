/** The Machines section of the sidebar. */
import type { ISection } from '../sidebar/section';
import { Machines } from './machines';

export const machinesSection: ISection = { id: 'machines', title: 'Machines', Component: Machines };
