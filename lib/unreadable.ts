/** The part of the API that needs to read the drive, on a device that cannot: each call is KEY_KIND. */
import type { Dirent, DriveApi } from './api.js'
import { DfsError, fail } from './errors.js'
import type { DriveKeys } from './keys/derive.js'
import type { Device } from './keys/device.js'

const WHY = 'this device keeps the drive for others, sealed, and its storage key reads none of it; use one that has the full or the read-only key'

export function unreadable(): DfsError { return fail('KEY_KIND', WHY) }

/** Opening a store as a drive that can only be a storage peer; `unlocked` is what its key file holds. */
export class StorageOnly extends DfsError {
  constructor(readonly unlocked: { keys: DriveKeys; device: Device }) { super('KEY_KIND', WHY) }
}

const refuse = (): Promise<never> => Promise.reject(unreadable())

/** What `DriveApi` has beyond this concerns the store, its devices and its network. */
export abstract class Unreadable {
  readonly stat: DriveApi['stat'] = refuse
  readonly lstat: DriveApi['lstat'] = refuse
  readonly open: DriveApi['open'] = refuse
  readonly mkdir: DriveApi['mkdir'] = refuse
  readonly rm: DriveApi['rm'] = refuse
  readonly rename: DriveApi['rename'] = refuse
  readonly link: DriveApi['link'] = refuse
  readonly symlink: DriveApi['symlink'] = refuse
  readonly readlink: DriveApi['readlink'] = refuse
  readonly chmod: DriveApi['chmod'] = refuse
  readonly chown: DriveApi['chown'] = refuse
  readonly utimes: DriveApi['utimes'] = refuse
  readonly listXattrs: DriveApi['listXattrs'] = refuse
  readonly getXattr: DriveApi['getXattr'] = refuse
  readonly setXattr: DriveApi['setXattr'] = refuse
  readonly temporary: DriveApi['temporary'] = refuse
  readonly setDevice: DriveApi['setDevice'] = refuse
  readonly config: DriveApi['config'] = refuse
  readonly setConfig: DriveApi['setConfig'] = refuse
  readonly waitPlaced: DriveApi['waitPlaced'] = refuse
  readonly addDevice: DriveApi['addDevice'] = refuse
  readonly conflicts: DriveApi['conflicts'] = refuse
  readonly versions: DriveApi['versions'] = refuse
  readonly restore: DriveApi['restore'] = refuse
  readonly resolveConflict: DriveApi['resolveConflict'] = refuse
  readonly pin: DriveApi['pin'] = refuse
  readonly unpin: DriveApi['unpin'] = refuse
  readonly evict: DriveApi['evict'] = refuse
  readonly locality: DriveApi['locality'] = refuse

  async *opendir(): AsyncGenerator<Dirent> { throw unreadable() }
}
