/**
 * One drive, devices on which a person has different numbers: the uid and gid of the drive's creator are shown to a
 * mount made by another user as that user's, and the other way round. A swap, so that no id is lost and what is shown
 * goes back unchanged; all other ids are as they are.
 *
 *   out   attributes, POSIX ACLs
 *   in    who asks (and so who owns what is made), chown, POSIX ACLs
 *
 * Stands between driver and file system, and only where ids differ: other mounts do not pay for it.
 */
import { ACL_ACCESS, ACL_DEFAULT, mapAclIds } from '../lib/tree/acl.js'
import type {
  Attr, Caller, Created, DirSink, Interrupt, Notifier, Opened, Operations, Reply, SetAttr, StatFs,
} from './operations.js'

export interface Ids { uid: number; gid: number }

/** Its own inverse: the same functions serve both directions. */
export class IdMap {
  readonly #drive: Ids
  readonly #here: Ids

  /** `drive`: the creator; `here`: who mounts. */
  constructor(drive: Ids, here: Ids) {
    this.#drive = drive
    this.#here = here
  }

  uid(id: number): number { return swap(id, this.#drive.uid, this.#here.uid) }
  gid(id: number): number { return swap(id, this.#drive.gid, this.#here.gid) }
}

function swap(id: number, a: number, b: number): number {
  return id === a ? b : id === b ? a : id
}

/** As a mount by `here` is to see them. Root sees ids as they are, and so does who has the creator's: then the same operations. */
export function withIdMap(operations: Operations, creator: Ids, here: Ids = { uid: process.getuid!(), gid: process.getgid!() }): Operations {
  if (here.uid === 0 || (creator.uid === here.uid && creator.gid === here.gid)) return operations
  return new Mapped(operations, new IdMap(creator, here))
}

class Mapped implements Operations {
  readonly #to: Operations
  readonly #map: IdMap

  constructor(to: Operations, map: IdMap) {
    this.#to = to
    this.#map = map
  }

  // --- ids in -------------------------------------------------------------

  #caller({ uid, gid, pid }: Caller): Caller {
    return { uid: this.#map.uid(uid), gid: this.#map.gid(gid), pid, ids: this.#map }
  }

  setattr(ino: number, set: SetAttr, caller: Caller): Reply<Attr> {
    const { uid, gid } = set
    const raw = { ...set, ...(uid !== undefined && { uid: this.#map.uid(uid) }), ...(gid !== undefined && { gid: this.#map.gid(gid) }) }
    return this.#attr(this.#to.setattr(ino, raw, this.#caller(caller)))
  }

  setxattr(ino: number, name: Buffer, value: Buffer, flags: number, killSgid: boolean, caller: Caller): Reply<0> {
    return this.#to.setxattr(ino, name, this.#acl(name, value), flags, killSgid, this.#caller(caller))
  }

  write(ino: number, fh: number, offset: number, data: Buffer, killFor: Caller | undefined, cached: boolean): Reply<0> {
    return this.#to.write(ino, fh, offset, data, killFor && this.#caller(killFor), cached)
  }

  // --- ids out ------------------------------------------------------------

  #shown(attr: Attr): Attr {
    const uid = this.#map.uid(attr.uid)
    const gid = this.#map.gid(attr.gid)
    if (uid === attr.uid && gid === attr.gid) return attr
    // Not { ...attr }: it is the tree's inode, whose fields need not be its own.
    return {
      ino: attr.ino, mode: attr.mode, nlink: attr.nlink, uid, gid, rdev: attr.rdev, size: attr.size, blocks: attr.blocks,
      atime: attr.atime, atimeNs: attr.atimeNs, mtime: attr.mtime, mtimeNs: attr.mtimeNs, ctime: attr.ctime, ctimeNs: attr.ctimeNs,
    }
  }

  #attr(reply: Reply<Attr>): Reply<Attr> {
    if (reply instanceof Promise) return reply.then((r) => (typeof r === 'number' ? r : this.#shown(r)))
    return typeof reply === 'number' ? reply : this.#shown(reply)
  }

  #created(reply: Reply<Created>): Reply<Created> {
    if (reply instanceof Promise) return reply.then((r) => (typeof r === 'number' ? r : { ...r, attr: this.#shown(r.attr) }))
    return typeof reply === 'number' ? reply : { ...reply, attr: this.#shown(reply.attr) }
  }

  /** What is no ACL goes as it is, to be judged there. */
  #acl(name: Buffer, value: Buffer): Buffer {
    return name.equals(ACL_ACCESS) || name.equals(ACL_DEFAULT) ? mapAclIds(value, this.#map) : value
  }

  getxattr(ino: number, name: Buffer, caller: Caller): Reply<Buffer> {
    const reply = this.#to.getxattr(ino, name, this.#caller(caller))
    if (typeof reply === 'number') return reply
    if (!(reply instanceof Promise)) return this.#acl(name, reply)
    const kept = Buffer.from(name)
    return reply.then((r) => (typeof r === 'number' ? r : this.#acl(kept, r)))
  }

  readdir(ino: number, cookie: number, sink: DirSink): Reply<0> {
    if (!sink.plus) return this.#to.readdir(ino, cookie, sink)
    const shown = (attr?: Attr) => attr && this.#shown(attr)
    return this.#to.readdir(ino, cookie, { plus: true, add: (name, child, mode, next, attr) => sink.add(name, child, mode, next, shown(attr)) })
  }

  // --- both ---------------------------------------------------------------

  lookup(parent: number, name: Buffer, caller: Caller): Reply<Attr> {
    return this.#attr(this.#to.lookup(parent, name, this.#caller(caller)))
  }

  getattr(ino: number, fh: number | undefined, caller: Caller): Reply<Attr> {
    return this.#attr(this.#to.getattr(ino, fh, this.#caller(caller)))
  }

  mknod(parent: number, name: Buffer, mode: number, rdev: number, umask: number, caller: Caller): Reply<Attr> {
    return this.#attr(this.#to.mknod(parent, name, mode, rdev, umask, this.#caller(caller)))
  }

  mkdir(parent: number, name: Buffer, mode: number, umask: number, caller: Caller): Reply<Attr> {
    return this.#attr(this.#to.mkdir(parent, name, mode, umask, this.#caller(caller)))
  }

  symlink(parent: number, name: Buffer, target: Buffer, caller: Caller): Reply<Attr> {
    return this.#attr(this.#to.symlink(parent, name, target, this.#caller(caller)))
  }

  link(ino: number, parent: number, name: Buffer, caller: Caller): Reply<Attr> {
    return this.#attr(this.#to.link(ino, parent, name, this.#caller(caller)))
  }

  create(parent: number, name: Buffer, mode: number, flags: number, umask: number, caller: Caller): Reply<Created> {
    return this.#created(this.#to.create(parent, name, mode, flags, umask, this.#caller(caller)))
  }

  tmpfile(parent: number, mode: number, flags: number, umask: number, caller: Caller): Reply<Created> {
    return this.#created(this.#to.tmpfile(parent, mode, flags, umask, this.#caller(caller)))
  }

  // --- callers alone ------------------------------------------------------

  unlink(parent: number, name: Buffer, caller: Caller): Reply<0> { return this.#to.unlink(parent, name, this.#caller(caller)) }
  rmdir(parent: number, name: Buffer, caller: Caller): Reply<0> { return this.#to.rmdir(parent, name, this.#caller(caller)) }
  rename(parent: number, name: Buffer, newParent: number, newName: Buffer, flags: number, caller: Caller): Reply<0> {
    return this.#to.rename(parent, name, newParent, newName, flags, this.#caller(caller))
  }

  open(ino: number, flags: number, killSuidGid: boolean, caller: Caller): Reply<Opened> {
    return this.#to.open(ino, flags, killSuidGid, this.#caller(caller))
  }

  fallocate(ino: number, fh: number, offset: number, length: number, mode: number, caller: Caller): Reply<0> {
    return this.#to.fallocate(ino, fh, offset, length, mode, this.#caller(caller))
  }

  copyFileRange(inoIn: number, fhIn: number, offsetIn: number, inoOut: number, fhOut: number, offsetOut: number, length: number, caller: Caller): Reply<{ bytes: number }> {
    return this.#to.copyFileRange(inoIn, fhIn, offsetIn, inoOut, fhOut, offsetOut, length, this.#caller(caller))
  }

  listxattr(ino: number, caller: Caller): Reply<Buffer> { return this.#to.listxattr(ino, this.#caller(caller)) }
  removexattr(ino: number, name: Buffer, caller: Caller): Reply<0> { return this.#to.removexattr(ino, name, this.#caller(caller)) }

  // --- neither ------------------------------------------------------------

  init(notifier: Notifier | undefined): void { this.#to.init(notifier) }
  destroy(): Promise<void> { return this.#to.destroy() }
  forget(ino: number, nlookup: number): void { this.#to.forget(ino, nlookup) }
  readlink(ino: number): Reply<Buffer> { return this.#to.readlink(ino) }
  read(ino: number, fh: number, offset: number, size: number, signal: Interrupt): Reply<Buffer | Buffer[]> { return this.#to.read(ino, fh, offset, size, signal) }
  flush(ino: number, fh: number): Reply<0> { return this.#to.flush(ino, fh) }
  release(ino: number, fh: number): Reply<0> { return this.#to.release(ino, fh) }
  fsync(ino: number, fh: number, dataOnly: boolean, signal: Interrupt): Reply<0> { return this.#to.fsync(ino, fh, dataOnly, signal) }
  fsyncdir(ino: number, signal: Interrupt): Reply<0> { return this.#to.fsyncdir(ino, signal) }
  lseek(ino: number, fh: number, offset: number, whence: number): Reply<{ offset: number }> { return this.#to.lseek(ino, fh, offset, whence) }
  statfs(): Reply<StatFs> { return this.#to.statfs() }
}
