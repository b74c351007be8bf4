/** Extended attributes in copies: which are kept, and how the machine's own are reached. */
import type { HostXattrs } from '../lib/transfer/host.js'
import { native } from '../mount/native/index.js'

/** From the addon, whose reach lib does not have; undefined where there is none (then copies go without). */
export function hostXattrs(): HostXattrs | undefined {
  if (process.platform !== 'linux') return undefined
  try {
    return native()
  } catch {
    return undefined
  }
}

const ANYBODY = /^(user\.|system\.posix_acl_(access|default)$)/
const ROOT = /^(trusted\.|security\.capability$)/

/** Into a drive. Labels (security.selinux) are the machine's own. */
export const putsXattr = (name: string): boolean => ANYBODY.test(name) || (process.geteuid?.() === 0 && ROOT.test(name))

/** Out of a drive, which may be shared: others must not be able to give programs or directories the powers that root alone hands out. */
export const getsXattr = (name: string): boolean => ANYBODY.test(name)
