/** What must be equal on all devices: everything that can be reached by a name, by ids that mean the same everywhere. */
import { checkTree } from '../../../lib/tree/check.js'
import { treeSealer } from '../../../lib/drive.js'
import type { SimDevice } from './device.js'

type Row = Record<string, unknown>

export function dump(d: SimDevice): string[] {
  const { metadata, db } = d.s
  const { tree } = metadata
  const sealer = treeSealer(d.keys)
  tree.rows.flush()
  const id = (n: unknown) => d.globalId(Math.abs(n as number))
  const all = (text: string) => db.sql.prepare(text).all() as Row[]
  const out: unknown[][] = [
    ...all('SELECT ino,mode,nlink,uid,gid,rdev,size,parent,version,mtime,mtime_ns,ctime,ctime_ns,bytes FROM inode WHERE nlink>0')
      .map((r) => ['inode', id(r['ino']), { ...r, ino: id(r['ino']), parent: ((r['mode'] as number) & 0xf000) === 0x4000 ? id(r['parent']) : '', version: id(r['version']) }]),
    ...all('SELECT d.parent,d.key,d.name,d.ino,abs(d.op) AS op FROM dentry d JOIN inode i ON i.ino=d.parent WHERE i.nlink>0')
      .map((r) => ['name', id(r['parent']), sealer.openName(r['key'] as Buffer, r['name'] as Buffer).toString(), id(r['ino']), id(r['op'])]),
    ...all('SELECT e.ino,e.off,e.len,hex(c.h) AS h,e.coff FROM extent e JOIN chunk c ON c.num=e.chunk JOIN inode i ON i.ino=e.ino WHERE i.nlink>0')
      .map((r) => ['extent', id(r['ino']), String(r['off']).padStart(9), r['len'], r['h'], r['coff']]),
    ...all('SELECT c.ino,c.of,c.op FROM conflict c JOIN inode i ON i.ino=c.ino WHERE i.nlink>0').map((r) => ['conflict', id(r['ino']), id(r['of']), id(r['op'])]),
  ]
  for (const { ino } of all('SELECT DISTINCT x.ino FROM xattr x JOIN inode i ON i.ino=x.ino WHERE i.nlink>0')) {
    const inode = tree.get(ino as number)!
    out.push(['xattrs', id(ino), tree.xattrNames(inode).map((n) => `${n.toString()}=${tree.getXattr(inode, n)!.toString()}`).sort()])
  }
  for (const { ino } of all('SELECT s.ino FROM symlink s JOIN inode i ON i.ino=s.ino WHERE i.nlink>0')) out.push(['symlink', id(ino), tree.readlink(tree.get(ino as number)!).toString()])
  return out.map((o) => JSON.stringify(o)).sort()
}

export function findings(d: SimDevice): string[] {
  d.s.metadata.tree.rows.flush()
  return checkTree(d.s.db).map((f) => f.detail)
}

/** Names that conflicts have made. */
export function conflictNames(d: SimDevice): string[] {
  return dump(d).filter((line) => line.startsWith('["name"') && line.includes('(conflict, '))
}
