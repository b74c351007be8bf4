/** Files with more extents than are looked up at a time: none may be missed, wherever a look-up begins. */
import test, { type Assert } from 'brittle'
import { Drive } from '../../lib/drive.js'
import { scratchDir } from '../helpers/scratch.js'

const COUNT = 2100
const STEP = 8192

/** A byte every 8 KiB, and nothing between them; opened again, so that nothing is remembered of it. */
async function sparse(t: Assert) {
  const dir = scratchDir(t)
  const made = await Drive.create(dir)
  const file = await made.open('/sparse', 'w')
  for (let i = 0; i < COUNT; i++) await file.write(i * STEP, Buffer.from([1 + i % 250]))
  await file.close()
  await made.close()
  const drive = await Drive.open(dir)
  t.teardown(() => drive.close(), { order: -1, force: true })
  const at = async (path: string) => drive.tree.get((await drive.stat(path)).ino)!
  const bytes = async (path: string, from: number) => {
    const opened = await drive.open(path)
    try { return await opened.read(from, COUNT * STEP) } finally { await opened.close() }
  }
  const wanted = Buffer.alloc((COUNT - 1) * STEP + 1)
  for (let i = 0; i < COUNT; i++) wanted[i * STEP] = 1 + i % 250
  return { drive, at, bytes, wanted }
}

test('a copy that begins in a hole has all that follows', async (t) => {
  const { drive, at, bytes, wanted } = await sparse(t)
  await (await drive.open('/copy', 'w')).close()
  const [from, to] = [await at('/sparse'), await at('/copy')]
  const start = 100
  for (let done = 0; start + done < from.size;) done += await drive.posix.copy(from, start + done, to, done, from.size - start - done)
  t.ok((await bytes('/copy', 0)).equals(wanted.subarray(start)))
  t.ok((await bytes('/sparse', 0)).equals(wanted), 'and so has the file itself when it is read after that')
})

test('data is looked for from a hole on, one after the other, and read', async (t) => {
  const { drive, at, bytes, wanted } = await sparse(t)
  const inode = await at('/sparse')
  let found = 0
  for (let from = 100; found < 600; found++) {
    const data = await drive.posix.seek(inode, from, true)
    if (data !== (found + 1) * STEP) t.fail(`data at ${data}`)
    from = data + 1
  }
  t.ok((await bytes('/sparse', 100)).equals(wanted.subarray(100)))
})
