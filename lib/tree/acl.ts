/**
 * POSIX ACLs as the kernel stores them in system.posix_acl_access and
 * system.posix_acl_default (linux/posix_acl_xattr.h): the kernel checks them;
 * inheriting them and keeping them in step with the mode is the file system's
 * work (Documentation: fs/posix_acl.c, posix_acl_create and posix_acl_chmod).
 */
export const ACL_ACCESS = Buffer.from('system.posix_acl_access')
export const ACL_DEFAULT = Buffer.from('system.posix_acl_default')

const VERSION = 2
const USER_OBJ = 0x01, GROUP_OBJ = 0x04, MASK = 0x10, OTHER = 0x20

interface Entry { tag: number; perm: number; id: number }

/** undefined for what is not an ACL. */
export function parseAcl(value: Buffer): Entry[] | undefined {
  if (value.length < 4 || (value.length - 4) % 8 !== 0 || value.readUInt32LE(0) !== VERSION) return undefined
  const entries: Entry[] = []
  for (let at = 4; at < value.length; at += 8) {
    entries.push({ tag: value.readUInt16LE(at), perm: value.readUInt16LE(at + 2), id: value.readUInt32LE(at + 4) })
  }
  return entries
}

function format(entries: Entry[]): Buffer {
  const out = Buffer.alloc(4 + entries.length * 8)
  out.writeUInt32LE(VERSION, 0)
  entries.forEach((e, i) => {
    out.writeUInt16LE(e.tag, 4 + i * 8)
    out.writeUInt16LE(e.perm, 6 + i * 8)
    out.writeUInt32LE(e.id, 8 + i * 8)
  })
  return out
}

const USER = 0x02, GROUP = 0x08

/** The ACL with its users and groups called otherwise, in the same order. What is no ACL is given back as it is. */
export function mapAclIds(acl: Buffer, ids: { uid(id: number): number; gid(id: number): number }): Buffer {
  const entries = parseAcl(acl)
  if (!entries) return acl
  for (const e of entries) {
    if (e.tag === USER) e.id = ids.uid(e.id)
    else if (e.tag === GROUP) e.id = ids.gid(e.id)
  }
  return format(entries)
}

const find = (entries: Entry[], tag: number) => entries.find((e) => e.tag === tag)
const isMinimal = (entries: Entry[]) => entries.every((e) => e.tag === USER_OBJ || e.tag === GROUP_OBJ || e.tag === OTHER)

/** Permission bits that show an access ACL in st_mode. */
function bits(entries: Entry[]): number {
  const group = find(entries, MASK) ?? find(entries, GROUP_OBJ)
  return ((find(entries, USER_OBJ)?.perm ?? 0) << 6) | ((group?.perm ?? 0) << 3) | (find(entries, OTHER)?.perm ?? 0)
}

/** Mode and access ACL of a new inode under a directory with this default ACL. `access` undefined: the mode says it all. */
export function inherit(defaultAcl: Buffer, mode: number): { mode: number; access?: Buffer } {
  const entries = parseAcl(defaultAcl)
  if (!entries) return { mode }
  const user = find(entries, USER_OBJ)
  const group = find(entries, MASK) ?? find(entries, GROUP_OBJ)
  const other = find(entries, OTHER)
  if (user) user.perm &= (mode >> 6) & 7
  if (group) group.perm &= (mode >> 3) & 7
  if (other) other.perm &= mode & 7
  const out = (mode & ~0o777) | bits(entries)
  return isMinimal(entries) ? { mode: out } : { mode: out, access: format(entries) }
}

/** The access ACL after chmod. */
export function chmodAcl(acl: Buffer, mode: number): Buffer {
  const entries = parseAcl(acl)
  if (!entries) return acl
  const user = find(entries, USER_OBJ)
  const group = find(entries, MASK) ?? find(entries, GROUP_OBJ)
  const other = find(entries, OTHER)
  if (user) user.perm = (mode >> 6) & 7
  if (group) group.perm = (mode >> 3) & 7
  if (other) other.perm = mode & 7
  return format(entries)
}

/** Permission bits that follow from setting this access ACL, and whether they say all of it. undefined: not an ACL. */
export function aclMode(acl: Buffer): { bits: number; minimal: boolean } | undefined {
  const entries = parseAcl(acl)
  return entries && { bits: bits(entries), minimal: isMinimal(entries) }
}
