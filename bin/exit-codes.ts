/** What a command ends with. The README has this table too. */
import type { DfsErrorCode } from '../lib/errors.js'

export const EXIT = {
  ok: 0,
  failure: 1,
  usage: 2,
  notFound: 3,
  busy: 4,
  damaged: 5,
  locked: 6,
  waiting: 7,
  interrupted: 130,
  outputGone: 141,
  terminated: 143,
} as const

export const EXIT_TEXT = `\
Exit codes:
  0    done
  1    failed; the message says why
  2    wrong usage: unknown command or option, missing argument
  3    not found: file, store, mount point, mount or service
  4    busy: the store, or the mount, is in use by another program
  5    damage found in the store, or content that no device could give
  6    the key or passphrase is missing or wrong
  7    the drive was joined, and none of its devices has been met yet
  130  interrupted (ctrl-C), 143 terminated; nothing is left half done
  141  whoever read the output has gone`

const CODES: Partial<Record<DfsErrorCode, number>> = {
  USAGE: EXIT.usage,
  ENOENT: EXIT.notFound, STORE_MISSING: EXIT.notFound, MOUNTPOINT_MISSING: EXIT.notFound, NOT_MOUNTED: EXIT.notFound,
  SERVICE_MISSING: EXIT.notFound,
  STORE_LOCKED: EXIT.busy, EBUSY: EXIT.busy, MOUNTPOINT_BUSY: EXIT.busy,
  STORE_DAMAGED: EXIT.damaged,
  KEY_INVALID: EXIT.locked, KEY_KIND: EXIT.locked, PASSPHRASE_NEEDED: EXIT.locked, PASSPHRASE_WRONG: EXIT.locked,
  STORE_JOINING: EXIT.waiting,
  EINTR: EXIT.interrupted,
}

export function exitCodeOf(code: DfsErrorCode): number {
  return CODES[code] ?? EXIT.failure
}

/** What to do about it, where the message does not say so itself. */
export const ADVICE: Partial<Record<DfsErrorCode, string>> = {
  STORE_LOCKED: 'wait for it, or end it with dfs stop',
  MOUNTPOINT_BUSY: 'close what uses it, or see --lazy',
  PASSPHRASE_WRONG: 'try again',
  PASSPHRASE_NEEDED: 'use --passphrase-file FILE, or DFS_PASSPHRASE_FILE',
  STORE_DAMAGED: 'restore the store from a copy',
  STORE_STOPPED: 'see daemon.log in the store, then mount again',
  ENOSPC: 'free some space',
  EROFS: 'this store holds a key for reading only',
  DAEMON_UNREACHABLE: 'see dfs status',
}
