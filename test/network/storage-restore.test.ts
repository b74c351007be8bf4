/**
 * A drive that comes back from a storage-only device alone: real daemons and mounts, everything but the storage peer wiped,
 * and old entries dropped by the devices that wrote them before it came and after.
 */
import test, { type Assert } from 'brittle'
import { randomBytes } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { link, mkdir, readFile, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { PeerStatus } from '../../lib/api.js'
import { Client } from '../../lib/client.js'
import { freePort } from '../bench/sync-pairs.js'
import { TestDevice } from '../helpers/devices.js'
import { closeMembers, Member, removeAll, until } from '../helpers/member.js'
import { must, need } from '../helpers/run.js'
import { scratchDir } from '../helpers/scratch.js'
import { plantTree, TREE_SCRIPT_NEEDS } from '../posix/special-tree.js'

const LONG = { timeout: 300_000 }
/** In every kind of place where something readable could be left. */
const MARK = 'NOBODY-SHALL-READ-THIS'
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void closeMembers().then(() => process.exit(1)))

/** More in the log than a device keeps of what nobody needs: values of attributes are in the entries themselves. */
async function fillLog(m: Member): Promise<void> {
  await writeFile(m.at('attributes'), '')
  const client = (await Client.connect(m.store))!
  try {
    for (let i = 0; i < 330; i++) await client.setXattr('/attributes', Buffer.from('user.bulk'), randomBytes(60_000))
    await client.sync()
  } finally {
    await client.close()
  }
}

/** Until it has dropped the beginning of its log, which takes the word of the other. */
async function truncated(m: Member, other: Member): Promise<void> {
  const { seq } = (await m.status()).log
  await until(`${m.name} has dropped old entries`, async () => {
    await writeFile(other.at('heard'), String(Math.random()))
    const { log } = await m.status()
    return log.seq >= seq && log.entries < log.seq && log.bytes <= 16 << 20
  }, 90_000, 500)
}

async function keepsAll(s: TestDevice, ...members: Member[]): Promise<void> {
  let last: unknown
  const keeps = async () => {
    const { peers } = await s.json<{ peers: PeerStatus[] }>('peers')
    const { chunks, snapshot } = await s.status()
    const dirty = await Promise.all(members.map(async (m) => (await m.status()).dirtyBytes))
    last = { peers, chunks, snapshot, dirty }
    return peers.length === members.length && peers.every((p) => p.owedFromPeer === 0) && chunks.owed === 0 && snapshot !== null && dirty.every((n) => n === 0)
  }
  await until('the storage peer has everything', keeps, 120_000, 250).catch((e: Error) => { throw new Error(`${e.message}: ${JSON.stringify(last)}`) })
}

function filesBelow(dir: string): string[] {
  return readdirSync(dir, { recursive: true }).map((name) => join(dir, name as string)).filter((path) => statSync(path).isFile())
}

async function wipe(m: Member): Promise<void> {
  await m.unmount()
  await m.close()
  await removeAll(m.store)
  if (existsSync(m.store)) throw new Error('the store is still there')
}

/** All that is on a mount: names, types, modes, owners, sizes, times and links; contents; extended attributes. */
async function all(m: Member): Promise<[listing: string, sums: string, xattrs: string]> {
  const of = (command: string) => must('sh', ['-ec', `find . ${command}`], { cwd: m.dir, timeoutMs: 120_000 })
  return [await m.listing(), await of('-type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum'), await of('-print0 | LC_ALL=C sort -z | xargs -0 getfattr -h -d -m - -e hex --')]
}

function same(t: Assert, is: Awaited<ReturnType<typeof all>>, was: Awaited<ReturnType<typeof all>>): void {
  for (const [i, what] of ['names and attributes', 'contents', 'extended attributes'].entries()) {
    const [lines, others] = [is[i]!.split('\n'), new Set(was[i]!.split('\n'))]
    t.ok(is[i] === was[i], `${what}: ${lines.filter((l) => !others.has(l)).slice(0, 3).map((l) => l.slice(0, 200)).join('\n')}`)
  }
}

test('two devices are wiped, and a new one gets every byte back from the storage peer alone; so does one that may only read', LONG, async (t) => {
  for (const what of TREE_SCRIPT_NEEDS) need(what)
  const scratch = scratchDir(t)
  t.teardown(closeMembers, { order: 1, force: true })
  const member = async (name: string) => new Member(name, scratch, { port: await freePort() })
  const a = await member('a')
  await a.mount()
  const key = await a.key()
  const b = await member('b')
  await b.join(key, '--peer', a.address)
  await b.mount()

  // --- before there is a storage peer
  await plantTree(a.dir)
  await mkdir(a.at(`folder-${MARK}`))
  await writeFile(a.at(`folder-${MARK}`, 'small'), `${MARK} small`)
  await writeFile(a.at(`folder-${MARK}`, 'large'), Buffer.concat([Buffer.alloc(200_000, MARK), randomBytes(5_000_000)]))
  await symlink(`target-${MARK}`, a.at('mark'))
  await must('setfattr', ['-n', `user.${MARK}`, '-v', `value-${MARK}`, a.at('small')])
  for (const name of ['gone', 'moved', 'replaced', 'both', 'cut']) await writeFile(a.at(name), randomBytes(300_000))
  await until('b has it', async () => existsSync(b.at('cut')) && (await b.status()).chunks.owed === 0)
  await rm(a.at('gone'))
  await rename(b.at('moved'), b.at(`folder-${MARK}`, 'moved'))
  await rename(a.at('replaced'), a.at('folder/deep/replaced'))
  await truncate(b.at('cut'), 100_001)
  await link(b.at(`folder-${MARK}`, 'small'), b.at('another name'))
  // Each writes to one file without the other.
  await b.unmount()
  await writeFile(a.at('both'), randomBytes(200_000))
  await a.unmount()
  await b.mount()
  await writeFile(b.at('both'), randomBytes(200_000))
  await a.mount()
  await until('both versions are on both', () => [a, b].every((m) => readdirSync(m.dir).some((name) => name.startsWith('both (conflict'))))
  await fillLog(a)
  await truncated(a, b)

  // --- it joins; then more of everything
  const s = new TestDevice(t, 'shed')
  const storageKey = (await a.dfs('key', '--storage')).trim().split('\n').find((line) => line.includes('dfs1-'))!.trim()
  const readKey = (await a.dfs('key', '--read-only')).trim().split('\n').find((line) => line.includes('dfs1-'))!.trim()
  t.is((await s.dfs(['join', '-', '--peer', a.address, '--peer', b.address], { input: storageKey })).code, 0)
  const served = s.start('serve')
  await keepsAll(s, a, b)
  const before = (await s.status()).snapshot!
  t.comment(`a snapshot of ${before.bytes} bytes by ${before.name}`)
  await rm(a.at('folder/deep/1'))
  await rename(a.at('folder/deep/2'), a.at('folder/deep/1'))
  await writeFile(b.at('afterwards'), randomBytes(2_500_000))
  await writeFile(b.at('folder', `${MARK}-small`), MARK)
  await must('setfattr', ['-n', 'user.note', '-v', 'another value', a.at('small')])
  await fillLog(b)
  await truncated(b, a)
  await keepsAll(s, a, b)
  // One is renewed when as much was written as it is long: how long the first is depends on when it was taken.
  for (let n = 0; n < 4 && (await s.status()).snapshot!.madeMs === before.madeMs; n++) {
    await fillLog(b)
    await keepsAll(s, a, b)
  }
  t.ok((await s.status()).snapshot!.madeMs > before.madeMs, 'it has a newer snapshot')
  await writeFile(a.at('last'), randomBytes(400_000))
  await rename(b.at('afterwards'), b.at('afterwards, moved'))
  await until('both have the last', () => existsSync(b.at('last')) && existsSync(a.at('afterwards, moved')))
  await until('both show the same', async () => await a.listing().catch(() => 'not yet') === await b.listing().catch(() => ''))
  await keepsAll(s, a, b)
  const was = await all(a)
  t.ok(was[0].includes('./folder/deep/hard link|') && was[1].includes('both (conflict') && was[2].includes('user.bulk'))

  // --- nothing is left but the storage peer
  await wipe(a)
  await wipe(b)
  await s.ok('stop')
  t.is(await served.ended, 0)
  for (const path of filesBelow(s.store)) t.absent(readFileSync(path).includes(MARK), `nothing to be read in ${path.slice(s.store.length)}`)
  const port = String(await freePort())
  s.start('serve', '--port', port)
  const address = `127.0.0.1:${port}`

  const c = await member('c')
  await c.join(key, '--peer', address)
  await c.mount()
  await until('the entries since the snapshot have come', async () => await c.listing().catch(() => '') === was[0])
  same(t, await all(c), was)
  await until('every chunk is here', async () => (await c.status()).chunks.owed === 0)
  t.ok(/\b0 problems|no problems|sound/i.test(await c.dfs('fsck', '--data')), 'and sound')
  // It is a member like any other.
  await writeFile(c.at('by c'), randomBytes(700_000))
  await rm(c.at('last'))
  await until('the storage peer has what it writes', async () => {
    const { peers } = await s.json<{ peers: PeerStatus[] }>('peers')
    return peers.length === 1 && peers[0]!.owedFromPeer === 0 && (await s.status()).chunks.owed === 0 && (await c.status()).dirtyBytes === 0
  })
  const now = await all(c)
  await wipe(c)

  const d = await member('d')
  await d.join(readKey, '--peer', address)
  await d.mount()
  await until('the entries since the snapshot have come', async () => await d.listing().catch(() => '') === now[0])
  same(t, await all(d), now)
  t.absent(existsSync(d.at('last')))
  t.is((await readFile(d.at('by c'))).length, 700_000)
  t.is(await writeFile(d.at('refused'), '').then(() => '', (e: NodeJS.ErrnoException) => e.code), 'EROFS')
})
