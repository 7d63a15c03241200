export { skyliftIcon } from './icon';
export { Sidebar } from './sidebar';
export type { ISection, ISectionProps } from './section';
