import test, { type Assert } from 'brittle'
import { randomBytes } from 'node:crypto'
import { mkdirSync, statSync, writeFileSync } from 'node:fs'
import { createConnection, type Socket } from 'node:net'
import { join } from 'node:path'
import type { Dirent, FsckReport, Stats } from '../../lib/api.js'
import { Client } from '../../lib/client.js'
import { socketPath } from '../../lib/config.js'
import { Drive } from '../../lib/drive.js'
import { fail } from '../../lib/errors.js'
import type { ServiceApi } from '../../lib/service/calls.js'
import { ControlServer } from '../../lib/service/control.js'
import { encodeFrame, MAX_CALLS, MAX_HANDLES, MAX_PAYLOAD_BYTES } from '../../lib/service/protocol.js'
import { codeOf, scratchDir } from '../helpers/scratch.js'

type Faults = { call: string; error: unknown }[]

/** A server over `drive` (the parts of one that a test needs) in a fresh store directory. */
async function serve(t: Assert, drive: object, dir = scratchDir(t)): Promise<{ dir: string; server: ControlServer; faults: Faults; connect(): Promise<Client> }> {
  const none = () => Promise.reject(fail('NOT_MOUNTED', 'not in this test'))
  const service = { drive, mount: none, unmount: none, unmounted: none, stop: none, mountpoints: () => [] } as unknown as ServiceApi
  const faults: Faults = []
  const server = await ControlServer.listen({ path: socketPath(dir), service, onFault: (call, error) => faults.push({ call, error }) })
  t.teardown(() => server.close(), { force: true })
  return {
    dir, server, faults,
    async connect() {
      const client = await Client.connect(dir)
      if (!client) throw new Error('nobody listens')
      t.teardown(() => client.close(), { force: true })
      return client
    },
  }
}

async function raw(t: Assert, dir: string): Promise<Socket> {
  const socket = createConnection(socketPath(dir))
  t.teardown(() => socket.destroy(), { force: true })
  await new Promise((resolve) => socket.once('data', resolve)) // the greeting
  socket.on('error', () => {})
  return socket
}

const closed = (socket: Socket) => new Promise<void>((resolve) => (socket.closed ? resolve() : socket.once('close', () => resolve())))
const call = (id: unknown, name: unknown, args: unknown = {}, payload?: Buffer) => Buffer.concat(encodeFrame({ id, call: name, args }, payload))

test('what is no frame ends that connection, and no other', async (t) => {
  const { dir, connect } = await serve(t, { readlink: async () => Buffer.from('alive') })
  const witness = await connect()
  const garbage = [
    Buffer.alloc(64), randomBytes(64 * 1024), Buffer.from('GET / HTTP/1.1\r\n\r\n'), Buffer.from([255, 255, 255, 255, 255, 255, 255, 255]),
    call('x', 'stat'), call(1, 2), call(1, 'stat', null), call(1.5, 'stat'), Buffer.concat(encodeFrame({})), Buffer.concat([call(7, 'opendir', { path: '/' }), Buffer.alloc(9)]),
  ]
  for (const bytes of garbage) {
    const socket = await raw(t, dir)
    socket.write(bytes)
    await closed(socket)
  }
  for (let length = 1; length < 20; length++) {
    const socket = await raw(t, dir)
    socket.end(call(1, 'readlink', { path: '/' }).subarray(0, length)) // cut off
    await closed(socket)
  }
  t.is((await witness.readlink('/')).toString(), 'alive')
})

test('arguments of the wrong kind are errors of the call', async (t) => {
  const { dir } = await serve(t, {})
  const socket = await raw(t, dir)
  const answers: string[] = []
  socket.on('data', (b) => answers.push(b.toString()))
  const bad: [string, object][] = [
    ['stat', {}], ['stat', { path: 3 }], ['read', { handle: -1 }], ['read', { handle: 1, offset: 0, length: 1 }], ['write', { handle: 'x' }], ['nope', {}],
    ['constructor', {}], ['__proto__', {}], ['mount', { dir: '/', driver: 'kernel', options: 'x' }], ['key', { kind: 'all' }], ['utimes', { path: '/', atimeMs: null, mtimeMs: 1 }],
    ['chmod', { path: '/', mode: 1e300 }], ['fsck', { data: 'yes' }],
  ]
  bad.forEach(([name, args], id) => socket.write(call(id, name, args)))
  while (answers.join('').split('"code"').length <= bad.length) await new Promise((resolve) => setTimeout(resolve, 5))
  const codes = [...answers.join('').matchAll(/"code":"([A-Z]+)"/g)].map((m) => m[1])
  t.is(codes.length, bad.length)
  t.ok(codes.every((code) => code === 'EINVAL' || code === 'EBADF'), codes.join())
})

test('errors keep code and message; faults of the daemon are told to its log alone', async (t) => {
  const { connect, faults } = await serve(t, {
    stat: async () => { throw fail('ELOOP', '/a: too many symlinks') },
    lstat: async () => { throw new TypeError('secret /name of a file') },
  })
  const client = await connect()
  try {
    await client.stat('/a')
    t.fail()
  } catch (error) {
    t.alike([(error as { code: string }).code, (error as Error).message], ['ELOOP', '/a: too many symlinks'])
  }
  try {
    await client.lstat('/a')
    t.fail()
  } catch (error) {
    t.is((error as { code: string }).code, 'DAEMON_FAILED')
    t.absent((error as Error).message.includes('secret'))
  }
  t.alike(faults.map((f) => f.call), ['lstat'])
})

test('an answer of many megabytes comes in pieces', async (t) => {
  const problems = Array.from({ length: 20_000 }, (_, i) => ({ kind: 'nlink', path: `/${'ü'.repeat(20)}${i}`, detail: 'x'.repeat(100), mended: false }))
  const report: FsckReport = { inodes: 1, dentries: 1, extents: 0, chunks: 0, entries: 0, bytesRead: 0, problems }
  const { connect } = await serve(t, { fsck: async () => report })
  t.alike(await (await connect()).fsck({}), report)
})

test('a directory streams: no more is read than is taken', async (t) => {
  const stats = { type: 'file' } as Stats
  let produced = 0
  let isReturned = false
  async function* entries(): AsyncGenerator<Dirent> {
    try {
      for (; produced < 1_000_000; produced++) yield { name: Buffer.from(`n${produced}`), ino: produced, type: 'file', stats }
    } finally {
      isReturned = true
    }
  }
  const { connect } = await serve(t, { opendir: () => entries() })
  const client = await connect()
  let taken = 0
  for await (const entry of client.opendir('/')) {
    if (entry.name.toString() !== `n${taken}`) t.fail()
    if (++taken === 1000) break
  }
  t.ok(produced < 3000, `${produced} produced`)
  t.ok(isReturned, 'closed with the loop')
})

test('open files are closed with their connection, and bounded', async (t) => {
  let open = 0
  const { connect } = await serve(t, { open: async () => (open++, { close: async () => void open-- }) })
  const client = await connect()
  await Promise.all(Array.from({ length: MAX_HANDLES }, () => client.open('/x')))
  t.is(await codeOf(() => client.open('/x')), 'EINVAL')
  t.is(open, MAX_HANDLES)
  await client.close()
  while (open > 0) await new Promise((resolve) => setTimeout(resolve, 5))
  t.is(open, 0)
})

test('a client that sends faster than it is served is held back', async (t) => {
  let running = 0
  let most = 0
  let go!: () => void
  const gate = new Promise<void>((resolve) => (go = resolve))
  const { dir } = await serve(t, { stat: async () => { most = Math.max(most, ++running); await gate; running--; return {} } })
  const socket = await raw(t, dir)
  for (let i = 0; i < 20_000; i++) socket.write(call(i, 'stat', { path: '/' }))
  await new Promise((resolve) => setTimeout(resolve, 100))
  // One push of the socket (64 KiB of small calls) may pass the bound.
  t.ok(most >= MAX_CALLS && most < MAX_CALLS + 2000, `${most} at once`)
  t.ok(socket.writableLength > 0, 'the rest waits at the sender')
  go()
  let bytes = 0
  socket.on('data', (b) => (bytes += b.length))
  while (socket.writableLength > 0 || running > 0) await new Promise((resolve) => setTimeout(resolve, 5))
  t.ok(bytes > 0)
})

test('a check is cancelled by its client, or with it', async (t) => {
  let ended = 0
  const fsck = async (_: object, onProgress: (p: object) => void) => {
    try {
      for (let done = 0; ; done++) {
        onProgress({ phase: 'chunks', done, total: 0, unit: 'chunks' })
        await new Promise((resolve) => setTimeout(resolve, 2))
      }
    } finally {
      ended++
    }
  }
  const { connect } = await serve(t, { fsck })
  const client = await connect()
  t.is(await codeOf(() => client.fsck({}, () => { throw fail('EINTR', 'enough') })), 'EINTR')
  while (ended < 1) await new Promise((resolve) => setTimeout(resolve, 5))
  const pending = codeOf(() => client.fsck({}))
  await new Promise((resolve) => setTimeout(resolve, 20))
  await client.close()
  t.is(await pending, 'DAEMON_UNREACHABLE')
  while (ended < 2) await new Promise((resolve) => setTimeout(resolve, 5))
  t.is(ended, 2)
})

test('a store deeper than a socket address reaches', async (t) => {
  const dir = join(scratchDir(t), 'a'.repeat(90), 'b'.repeat(90))
  mkdirSync(dir, { recursive: true })
  t.is(await Client.connect(dir), undefined)
  const { server, connect } = await serve(t, { readlink: async () => Buffer.from('deep') }, dir)
  t.is(statSync(join(dir, 'control.sock')).mode & 0o777, 0o600)
  const client = await connect()
  t.is((await client.readlink('/')).toString(), 'deep')
  await server.close()
  await client.closed
  t.is(await Client.connect(dir), undefined)
  t.is(await codeOf(() => statSync(join(dir, 'control.sock'))), `not a DfsError: Error: ENOENT: no such file or directory, stat '${join(dir, 'control.sock')}'`)
})

test('what a killed daemon left behind is replaced', async (t) => {
  const dir = scratchDir(t)
  writeFileSync(socketPath(dir), '')
  t.is(await Client.connect(dir), undefined)
  const { connect } = await serve(t, { readlink: async () => Buffer.from('new') }, dir)
  t.is((await (await connect()).readlink('/')).toString(), 'new')
})

test('no daemon where there is no store', async (t) => {
  t.is(await Client.connect(join(scratchDir(t), 'none')), undefined)
})

test('a daemon of another version says who it is', async (t) => {
  const { createServer } = await import('node:net')
  const dir = scratchDir(t)
  const server = createServer((socket) => encodeFrame({ hello: 99, pid: 4711 }).forEach((part) => socket.write(part)))
  await new Promise<void>((resolve) => server.listen(socketPath(dir), resolve))
  t.teardown(() => server.close(), { force: true })
  try {
    await Client.connect(dir)
    t.fail()
  } catch (error) {
    t.is((error as { code: string }).code, 'DAEMON_UNREACHABLE')
    t.ok((error as Error).message.includes('4711'))
  }
})

test('a client does with a real drive what the drive does', async (t) => {
  const dir = join(scratchDir(t), 'store')
  const drive = await Drive.create(dir)
  t.teardown(() => drive.close(), { force: true, order: 1 })
  const { connect, server } = await serve(t, drive, dir)
  t.teardown(() => server.close(), { force: true, order: -1 })
  const client = await connect()
  const odd = Buffer.from([47, 0xff, 0xe4])
  const content = randomBytes(3 * MAX_PAYLOAD_BYTES + 17)
  await client.mkdir('/d/e', { recursive: true })
  const file = await client.open(odd, 'w', 0o640)
  await file.write(0, content)
  await file.truncate(content.length + 10)
  await file.sync()
  t.ok((await file.read(0, content.length + 100)).equals(Buffer.concat([content, Buffer.alloc(10)])))
  t.ok((await file.read(5, 10)).equals(content.subarray(5, 15)))
  t.is((await file.stat()).size, content.length + 10)
  await file.close()
  await file.close()
  t.is(await codeOf(() => file.read(0, 1)), 'EBADF')
  await client.symlink('d', '/l')
  t.is((await client.readlink('/l')).toString(), 'd')
  t.is((await client.stat('/l')).type, 'directory')
  t.is((await client.lstat('/l')).type, 'symlink')
  await client.chmod(odd, 0o600)
  await client.utimes(odd, 1000.5, 2000.25)
  await client.link(odd, '/again')
  await client.rename('/again', '/d/again')
  const stats = await client.stat(odd)
  t.alike([stats.mode & 0o7777, stats.nlink, stats.mtimeMs], [0o600, 2, 2000.25])
  t.alike(stats, await drive.stat(odd))
  const names = async (api: Pick<Client, 'opendir'>) => {
    const found: string[] = []
    for await (const e of api.opendir('/')) found.push(`${e.name.toString('hex')} ${e.type} ${e.stats.size}`)
    return found
  }
  t.alike(await names(client), await names(drive))
  t.is((await names(client)).length, 3)
  await client.rm('/d', { recursive: true })
  t.is(await codeOf(() => client.stat('/d')), 'ENOENT')
  await client.sync()
  t.is((await client.status()).drive, (await drive.status()).drive)
  t.alike((await client.fsck({ data: true })).problems, [])
  t.ok((await client.gc()).bytesFreed >= 0)
  t.is(await client.key('full'), await drive.key('full'))
})
