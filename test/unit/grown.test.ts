import test from 'brittle'
import { GrownFiles } from '../../mount/grown.js'
import type { Attr } from '../../mount/operations.js'
import { Inode } from '../../lib/tree/inode.js'

function inode(ino: number, size: number): Attr {
  const i = new Inode(ino)
  i.size = size
  return i
}

function taking(): { taken: () => Promise<void>; done(): Promise<void> } {
  let resolve!: () => void
  const promise = new Promise<void>((r) => { resolve = r })
  return { taken: () => promise, done: async () => { resolve(); await promise; await null } }
}

test('what grew shows its old end until the kernel has dropped the last page', async (t) => {
  const grown = new GrownFiles()
  const { taken, done } = taking()
  grown.read(5, 4096, 100)
  t.is(grown.attr(inode(5, 100)).size, 100)
  grown.changed(5, 300, taken)
  const shown = grown.attr(inode(5, 300))
  t.is(shown.size, 100)
  t.is(shown.ino, 5, 'and all else as it is')
  grown.changed(5, 500, taken)
  t.is(grown.attr(inode(5, 500)).size, 100, 'the end that the page has')
  t.is(grown.attr(inode(6, 500)).size, 500)
  await done()
  t.is(grown.attr(inode(5, 500)).size, 500)
})

test('nothing is held back where no such page can be, nor for long', async (t) => {
  const grown = new GrownFiles()
  const never = () => new Promise<void>(() => {})
  grown.read(1, 4096, 10_000)
  grown.changed(1, 20_000, never)
  t.is(grown.attr(inode(1, 20_000)).size, 20_000, 'its last page was not read')
  grown.read(2, 8192, 8192)
  grown.changed(2, 9000, never)
  t.is(grown.attr(inode(2, 9000)).size, 9000, 'it filled its last page')
  grown.read(3, 100, 100)
  grown.changed(3, 50, never)
  t.is(grown.attr(inode(3, 50)).size, 50, 'it became shorter')
  grown.read(4, 100, 100)
  grown.forget(4)
  grown.changed(4, 200, never)
  t.is(grown.attr(inode(4, 200)).size, 200, 'the kernel has forgotten it')
  grown.read(5, 100, 100)
  grown.wrote(5, 150)
  grown.changed(5, 200, never)
  t.is(grown.attr(inode(5, 200)).size, 150, 'it ended where this mount left it')
  grown.changed(5, 120, never)
  t.is(grown.attr(inode(5, 120)).size, 120)
  grown.read(6, 100, 100)
  grown.changed(6, 200, never)
  t.is(grown.attr(inode(6, 200)).size, 100)
  while (grown.attr(inode(6, 200)).size === 100) await new Promise((resolve) => setTimeout(resolve, 5))
  t.is(grown.attr(inode(6, 200)).size, 200, 'at last')
})
