/** What is open and has no name any more is fetched, kept, and waited for, for a while. */
import test from 'brittle'
import { systemTimers } from '../../lib/clock.js'
import { HOLD_MS, KeptOpen } from '../../lib/kept-open.js'
import { ELSEWHERE } from '../../lib/store/chunks.js'
import type { Residents } from '../../lib/store/residents.js'
import type { Inode } from '../../lib/tree/inode.js'
import type { Tree } from '../../lib/tree/tree.js'

const settled = () => new Promise((resolve) => setImmediate(resolve))

/** Files, by inode: where each of their chunks is. */
function make(mayEvict: boolean) {
  const files = new Map<number, { chunk: number; seg: number }[]>()
  const open = new Map<number, Inode>()
  const w = {
    files, nowMs: 1000, pinned: new Set<number>(), lacking: [] as number[], fewer: 0,
    open: (ino: number) => open.set(ino, { ino, size: 1000 } as Inode),
    close: (ino: number) => open.delete(ino),
  }
  const kept = new KeptOpen({
    tree: { rows: { extents: (ino: number) => files.get(ino)!.map((c, i) => ({ ...c, off: i, len: 1 })) } } as unknown as Tree,
    residents: { pinned: (num: number) => void w.pinned.add(num) } as unknown as Residents,
    timers: { ...systemTimers, nowMs: () => w.nowMs }, unlinked: () => open.values(), mayEvict: () => mayEvict,
    named: (lacking) => void w.lacking.push(lacking), fewer: () => void w.fewer++,
  })
  return { w, kept }
}

test('what is elsewhere is named, and waited for until it is here', async (t) => {
  const { w, kept } = make(true)
  t.absent(kept.isAwaiting)
  w.files.set(7, [{ chunk: 1, seg: 3 }, { chunk: 2, seg: ELSEWHERE }, { chunk: 3, seg: ELSEWHERE }])
  w.open(7)
  t.ok(kept.isAwaiting, 'at once')
  await settled()
  t.alike([...w.pinned], [1, 2, 3], 'what is here must not go')
  t.alike(w.lacking, [2])
  t.ok(await kept.has(2))
  t.absent(await kept.has(4))
  w.files.get(7)![1]!.seg = 4
  w.nowMs += 2000
  t.ok(kept.isAwaiting)
  await settled()
  t.ok(kept.isAwaiting)
  await settled()
  w.files.get(7)![2]!.seg = 4
  w.nowMs += 2000
  kept.tick()
  await settled()
  t.absent(kept.isAwaiting)
  t.is(w.fewer, 0)
  w.close(7)
  kept.tick()
  t.is(w.fewer, 1)
  t.ok(kept.isEmpty)
  await kept.close()
})

test('where everything is kept what is here is not named', async (t) => {
  const { w, kept } = make(false)
  w.files.set(7, [{ chunk: 1, seg: 3 }, { chunk: 2, seg: ELSEWHERE }])
  w.open(7)
  kept.tick()
  await settled()
  t.alike([...w.pinned], [2])
  await kept.close()
})

test('others do not wait for ever; the next file is waited for anew', async (t) => {
  const { w, kept } = make(true)
  w.files.set(7, [{ chunk: 1, seg: ELSEWHERE }])
  w.open(7)
  t.ok(kept.isAwaiting)
  w.nowMs += HOLD_MS - 1
  t.ok(kept.isAwaiting)
  w.nowMs += 1
  t.absent(kept.isAwaiting)
  w.nowMs += HOLD_MS
  w.files.set(8, [{ chunk: 2, seg: ELSEWHERE }])
  w.open(8)
  t.ok(kept.isAwaiting)
  await settled()
  kept.tick()
  await settled()
  t.ok(w.pinned.has(2))
  await kept.close()
})
