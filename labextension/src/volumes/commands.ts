/** Names of the commands about volumes. Each does it with the line that is selected. */
export const VolumeCommands = {
  open: 'skylift-volumes:open',
  newVolume: 'skylift-volumes:new-volume',
  newFolder: 'skylift-volumes:new-folder',
  upload: 'skylift-volumes:upload',
  uploadFolder: 'skylift-volumes:upload-folder',
  download: 'skylift-volumes:download',
  insertCode: 'skylift-volumes:insert-code',
  copyPath: 'skylift-volumes:copy-path',
  rename: 'skylift-volumes:rename',
  remove: 'skylift-volumes:delete',
  history: 'skylift-volumes:history',
  restore: 'skylift-volumes:restore',
  refresh: 'skylift-volumes:refresh',
  closeVersion: 'skylift-volumes:close-version',
} as const;
