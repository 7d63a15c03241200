/** Packages below are published as ES modules, and the tests run as CommonJS. */
const modules = [
  '@codemirror',
  '@jupyter',
  '@jupyterlab',
  '@lezer',
  '@lumino',
  '@marijn',
  '@microsoft',
  '@rjsf',
  'exenv-es6',
  'lib0',
  'nanoid',
  'style-mod',
  'vscode-ws-jsonrpc',
  'y-protocols',
  'y-websocket',
  'yjs',
];

module.exports = {
  testEnvironment: 'jsdom',
  testMatch: ['<rootDir>/src/**/__tests__/*.spec.{ts,tsx}'],
  setupFiles: ['<rootDir>/jest.setup.cjs'],
  transform: {
    '\\.svg$': '<rootDir>/jest.text.cjs',
    '\\.m?[jt]sx?$': [
      '@swc/jest',
      {
        jsc: {
          target: 'es2022',
          parser: { syntax: 'typescript', tsx: true, decorators: true },
          transform: { react: { runtime: 'classic' } },
        },
      },
    ],
  },
  transformIgnorePatterns: [`/node_modules/(?!(${modules.join('|')})/)`],
  moduleNameMapper: { '\\.css$': '<rootDir>/jest.empty.cjs' },
  maxWorkers: 2,
};
