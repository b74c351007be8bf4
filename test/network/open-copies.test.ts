/** Files that two machines made under one name while apart, and that a program still has open when they meet: by real mounts. */
import test from 'brittle'
import { open, readdir, readFile, truncate } from 'node:fs/promises'
import { freePort } from '../bench/sync-pairs.js'
import { Drive } from '../../lib/drive.js'
import { closeMembers, Member, until } from '../helpers/member.js'
import { scratchDir } from '../helpers/scratch.js'

/** Node has no name for it. */
const ESTALE = 116

test('a program that may write keeps the name of its copy; one that reads does not, and its file cannot be opened to write', { timeout: 120_000 }, async (t) => {
  t.teardown(closeMembers, { force: true, order: 2 })
  const parent = scratchDir(t)
  const [a, b] = [new Member('a', parent, { port: await freePort() }), new Member('b', parent, { port: await freePort() })]
  await a.mount()
  await b.join(await a.key(), '--peer', a.address)
  await b.mount()
  await until('b is there', async () => (await a.status()).peers.length === 1)
  await a.dfs('stop')
  await until('b is alone', async () => (await b.status()).peers.length === 0)

  const writer = await open(b.at('written.txt'), 'wx+')
  const unwritten = await open(b.at('unwritten.txt'), 'wx+')
  await (await open(b.at('read.txt'), 'wx')).close()
  const reader = await open(b.at('read.txt'), 'r')
  t.teardown(() => Promise.allSettled([writer, unwritten, reader].map((f) => f.close())), { force: true, order: 1 })
  await b.dfs('sync')
  // Later, and so what has the names.
  const drive = await Drive.open(a.store)
  for (const name of ['written.txt', 'unwritten.txt', 'read.txt']) await (await drive.open(`/${name}`, 'w')).close()
  await drive.close()
  await a.mount()

  const names = async (m: Member) => (await readdir(m.dir)).map((n) => n.replace(/ \(conflict, [^)]*\)/, ' (conflict)')).sort()
  const meant = ['read.txt', 'unwritten (conflict).txt', 'unwritten.txt', 'written (conflict).txt', 'written.txt']
  for (const m of [b, a]) await until(`${m.name} shows both that are open`, async () => JSON.stringify(await names(m)) === JSON.stringify(meant))
  t.is((await reader.stat()).nlink, 0)
  t.is((await reader.read(Buffer.alloc(1), 0, 1, 0)).bytesRead, 0, 'it is read on')
  const again = `/proc/self/fd/${reader.fd}`
  const errno = (work: Promise<unknown>) => work.then(() => 0, (e: NodeJS.ErrnoException) => e.errno)
  t.is(await errno(open(again, 'r+').then((f) => f.close())), -ESTALE)
  t.is(await errno(truncate(again, 5)), -ESTALE)

  await writer.write('of b')
  for (const f of [writer, unwritten]) await f.close()
  meant.splice(1, 1)
  for (const m of [a, b]) {
    await until(`${m.name} has one copy left`, async () => JSON.stringify(await names(m)) === JSON.stringify(meant))
    const copy = (await readdir(m.dir)).find((n) => n.startsWith('written (conflict'))!
    await until('what was written is there', async () => String(await readFile(m.at(copy))) === 'of b')
    t.is(String(await readFile(m.at('written.txt'))), '')
  }
})
