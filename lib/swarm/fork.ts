/**
 * Proof that a device has forked its log. Two signatures alone prove nothing:
 * every two entries of an honest log are signed.
 */
import { entryHash, headerOf } from '../log/entry.js'
import type { LogName } from './messages.js'

/**
 * Whether two signed headers, `one` not after `other`, can not be of one chain: both of this log, and either of one seq but different,
 * or `other` is the next one and names another hash for `one`. `isSigned` checks the signature by the log's device.
 */
export function isForkProof(log: LogName, one: Buffer, other: Buffer, isSigned: (signed: Buffer, device: Buffer) => boolean): boolean {
  const a = headerOf(one), b = headerOf(other)
  if (!a || !b || !a.drive.equals(b.drive)) return false
  if (!a.incarnation.equals(log.incarnation) || !b.incarnation.equals(log.incarnation)) return false
  const isSplit = (a.seq === b.seq && !entryHash(one).equals(entryHash(other))) || (b.seq === a.seq + 1 && !b.previous.equals(entryHash(one)))
  return isSplit && isSigned(one, log.device) && isSigned(other, log.device)
}
