/** How much of files is on this device. */
import type { Locality } from './api.js'
import type { Pins } from './pins.js'
import { ELSEWHERE } from './store/chunks.js'
import type { Inode } from './tree/inode.js'
import type { Tree } from './tree/tree.js'
import { extentsOf, filesBelow } from './tree/walk.js'

/** What of a file is here: "all", "none", or BYTES/TOTAL. It is read by name only, so that no copy of the file carries it. */
export const LOCAL_XATTR = Buffer.from('user.dfs.local')
const VIRTUAL = Buffer.from('user.dfs.')

/** Made up where it is asked for; cannot be set. */
export function isVirtualXattr(name: Buffer): boolean {
  return name.subarray(0, VIRTUAL.length).equals(VIRTUAL)
}

/** Of a file, or of all below a directory. */
export async function localityOf(p: { tree: Tree; pins: Pins }, inode: Inode): Promise<Locality> {
  const pinned = p.pins.of(inode)
  const out: Locality = { files: 0, bytesHere: 0, bytesElsewhere: 0, pinned, ...(pinned !== 'no' && { pinnedBytes: 0 }) }
  for await (const file of filesBelow(p.tree, inode)) {
    const { here, elsewhere } = await localBytes(p.tree, file)
    out.files++
    out.bytesHere += here
    out.bytesElsewhere += elsewhere
    if (pinned !== 'no') out.pinnedBytes! += here + elsewhere
  }
  return out
}

/** The value of LOCAL_XATTR. */
export async function localXattr(tree: Tree, file: Inode): Promise<Buffer> {
  const { here, elsewhere } = await localBytes(tree, file)
  return Buffer.from(elsewhere === 0 ? 'all' : here === 0 ? 'none' : `${here}/${here + elsewhere}`)
}

/** Bytes of a file's content that lie here, and elsewhere; holes and what is not flushed yet are neither. */
async function localBytes(tree: Tree, file: Inode): Promise<{ here: number; elsewhere: number }> {
  let here = 0
  let elsewhere = 0
  for await (const e of extentsOf(tree, file)) {
    if (e.seg === ELSEWHERE) elsewhere += e.len
    else here += e.len
  }
  return { here, elsewhere }
}
