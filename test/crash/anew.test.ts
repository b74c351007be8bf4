/** A device that begins anew with the metadata of others is killed on the way: it is as it was, or it has both what they have and what it had alone. */
import test from 'brittle'
import { copyFileSync, cpSync, existsSync, linkSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { NetworkConfig } from '../../lib/config.js'
import { Drive } from '../../lib/drive.js'
import { finishJoin, prepareJoin } from '../../lib/join.js'
import { Journal } from '../../lib/log/journal.js'
import { ServedNetwork } from '../../lib/service/network.js'
import { until } from '../helpers/devices.js'
import { scratchDir } from '../helpers/scratch.js'

const QUIET = { onNotice() {} }
const ALONE: NetworkConfig = { peers: [], discovery: [] }
const LEFT = ['before.db', 'anew.db']

/** Names and contents. */
async function treeOf(drive: Drive, dir = '/'): Promise<string[]> {
  const out: string[] = []
  const names: { name: string; type: string }[] = []
  for await (const { name, type } of drive.opendir(dir)) names.push({ name: name.toString(), type })
  for (const { name, type } of names.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const path = join(dir, name)
    out.push(type === 'directory' ? `${path}/` : `${path}: ${await read(drive, path)}`)
    if (type === 'directory') out.push(...await treeOf(drive, path))
  }
  return out
}

/** Nobody else is reached: what only others have is not read. */
async function read(drive: Drive, path: string): Promise<string> {
  const file = await drive.open(path)
  try { return (await file.read(0, 1000)).toString() } catch { return 'elsewhere' } finally { await file.close() }
}

async function write(drive: Drive, path: string, text: string): Promise<void> {
  const file = await drive.open(path, 'w')
  try { await file.write(0, Buffer.from(text)) } finally { await file.close() }
}

async function opened(store: string, look: (drive: Drive) => Promise<void>): Promise<void> {
  const drive = await Drive.open(store)
  try { await look(drive) } finally { await drive.close() }
}

test('killed at each step of beginning anew', { timeout: 180_000 }, async (t) => {
  const scratch = scratchDir(t)
  const at = (name: string) => join(scratch, name)
  const a = await Drive.create(at('a'))
  t.teardown(() => a.close(), { force: true })
  await ServedNetwork.start(a, ALONE, QUIET)
  const port = (await a.network!.status())!.port
  await prepareJoin(at('b'), await a.key('full'), { peers: [`127.0.0.1:${port}`], deviceName: 'bert' })
  await finishJoin(at('b'), { network: { dht: false, mdns: false } })
  const b = await Drive.open(at('b'))
  t.teardown(() => b.close(), { force: true })
  await ServedNetwork.start(b, ALONE, QUIET)
  await a.mkdir('/dir')
  for (const name of ['/kept', '/changed', '/dir/removed by others', '/moved', '/both']) await write(a, name, `base of ${name}`)
  await until('b has it', async () => (await treeOf(b)).join() === (await treeOf(a)).join() && (await b.status()).chunks.owed === 0)
  await until('a knows its log', () => a.log.head(a.log.find(b.log.incarnationId(b.journal.incarnation))).seq === b.log.head(b.journal.incarnation).seq)
  await b.network!.close()

  await write(b, '/changed', 'by b alone')
  await write(b, '/dir/removed by others', 'written by b')
  await b.rename('/moved', '/elsewhere')
  await write(b, '/both', 'of b')
  await b.mkdir('/new')
  await write(b, '/new/file', 'only here')
  await b.setXattr('/new/file', Buffer.from('user.kept'), Buffer.from('with it'))
  await b.sync()
  // As if it had been silent for long: its log ends.
  a.metadata.welcome(b.device.publicKey)
  await write(a, '/both', 'of a')
  await a.rm('/dir/removed by others')
  await a.rm('/dir', { recursive: true })
  await a.sync()
  const ready = new Promise<void>((resolve) => { b.onAnew = resolve })
  await ServedNetwork.start(b, ALONE, QUIET)
  await ready
  await b.network!.close()
  // What has come by now is on the disk, too: it is copied.
  await b.sync()
  b.journal.commit()
  const before = await treeOf(b)
  t.ok(existsSync(at('b/anew.db')), 'it is taken in beside')
  cpSync(at('b'), at('taken'), { recursive: true })
  await b.close()
  t.ok(existsSync(at('b/before.db')) && !existsSync(at('b/anew.db')), 'and has taken the place of the index')
  cpSync(at('b'), at('exchanged'), { recursive: true })
  cpSync(at('b'), at('again'), { recursive: true })

  cpSync(at('taken'), at('linked'), { recursive: true })
  linkSync(at('linked/index.db'), at('linked/before.db'))
  cpSync(at('taken'), at('half'), { recursive: true })
  writeFileSync(at('half/anew.db'), 'half of it')
  for (const name of ['taken', 'linked', 'half']) {
    await opened(at(name), async (drive) => {
      t.alike(await treeOf(drive), before, `${name}: as it was`)
      t.absent(LEFT.some((file) => existsSync(at(`${name}/${file}`))), 'nothing is left of it')
    })
  }

  let after: string[] = []
  await opened(at('exchanged'), async (drive) => {
    after = await treeOf(drive)
    const both = after.filter((line) => line.startsWith('/both'))
    t.ok(both.length === 2 && both.some((line) => /: (of a|elsewhere)$/.test(line)) && both.some((line) => line.endsWith(': of b')), both.join('; '))
    const rest = after.filter((line) => !line.startsWith('/both'))
    t.alike(rest, ['/changed: by b alone', '/dir/', '/dir/removed by others: written by b', '/elsewhere: base of /moved', '/kept: base of /kept', '/new/', '/new/file: only here'])
    await until('what was before is not needed any more', () => !LEFT.some((file) => existsSync(at(`exchanged/${file}`))))
  })
  await opened(at('exchanged'), async (drive) => t.alike(await treeOf(drive), after, 'it stays so'))

  // Every op is a commit of its own; after each the store is kept as kill -9 leaves it.
  const cuts: string[] = []
  const isKept = (path: string) => !path.includes('lock')
  const { append } = Journal.prototype
  Journal.prototype.append = function (op) {
    append.call(this, op)
    this.commit()
    cpSync(at('again'), at(`cut-${cuts.length}`), { recursive: true, filter: isKept })
    cuts.push(`${cuts.length}: after ${op.type}`)
  }
  t.teardown(() => { Journal.prototype.append = append })
  try {
    await opened(at('again'), async () => {})
  } finally {
    Journal.prototype.append = append
  }
  t.ok(cuts.length > 8 && ['create', 'content', 'xattr'].every((type) => cuts.some((cut) => cut.endsWith(type))), cuts.join('; '))
  for (const [i, cut] of cuts.entries()) {
    // The same files with what they held then: another file would be a copy, which waits for others.
    for (const name of readdirSync(at('again'), { recursive: true }) as string[]) if (isKept(name) && !existsSync(at(`cut-${i}/${name}`))) rmSync(at(`again/${name}`), { recursive: true, force: true })
    for (const name of readdirSync(at(`cut-${i}`), { recursive: true }) as string[]) if (!statSync(at(`cut-${i}/${name}`)).isDirectory()) copyFileSync(at(`cut-${i}/${name}`), at(`again/${name}`))
    await opened(at('again'), async (drive) => {
      t.alike(await treeOf(drive), after, `${cut}: the rest is done, and nothing twice`)
      t.is((await drive.getXattr('/new/file', Buffer.from('user.kept'))).toString(), 'with it', cut)
    })
  }
})
