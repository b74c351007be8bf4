/**
 * Three real daemons, each with an address of its own in a network namespace: cut off from each other and killed, they
 * come together again with nothing lost (trio.ts; more rounds: npm run test:namespaces). And what a program on one device sees of
 * work on another while it has something open.
 */
import test, { type Assert } from 'brittle'
import { spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { closeSync, existsSync, fstatSync, openSync, readFileSync, readSync, statSync } from 'node:fs'
import { appendFile, mkdir, open, rename, writeFile } from 'node:fs/promises'
import { once } from 'node:events'
import { closeMembers, shaOf, until } from '../helpers/member.js'
import { closeNetworks } from '../helpers/namespaces.js'
import { compile } from '../helpers/run.js'
import { scratchDir } from '../helpers/scratch.js'
import { playTrio, Trio } from './trio.js'

const LONG = { timeout: 400_000 }

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void closeMembers().then(closeNetworks).then(() => process.exit(1)))

test('three devices on a private DHT: cut off, written on both sides, killed: the same in the end, and all of it', LONG, async (t) => {
  const seed = Number(process.env.DFS_TEST_SEED ?? 1 + Math.floor(Math.random() * 1e6))
  await playTrio(scratchDir(t), { seed, by: 'dht', ops: 30, kills: true, log: (text) => t.comment(text) })
  t.pass(`seed ${seed}`)
})

async function pair(t: Assert, joinArgs: string[] = []): Promise<Trio> {
  const dir = scratchDir(t)
  const trio = await Trio.make(dir, 'peer', { names: ['a', 'b'], joinArgs })
  t.teardown(() => trio.close(), { order: 1, force: true })
  return trio
}

test('what is open on one device shows what another does', LONG, async (t) => {
  const trio = await pair(t)
  const [a, b] = [trio.member('a'), trio.member('b')]

  // A follower, as tail -f.
  await writeFile(a.at('log'), 'line 0\n')
  await until('the log is on b', () => existsSync(b.at('log')) && statSync(b.at('log')).size === 7)
  const log = openSync(b.at('log'), 'r')
  let followed = ''
  const follow = () => {
    const buffer = Buffer.alloc(4096)
    for (let n; (n = readSync(log, buffer, 0, buffer.length, followed.length)) > 0;) followed += buffer.toString('latin1', 0, n)
    return followed
  }
  let expected = 'line 0\n'
  t.is(follow(), expected)
  for (let i = 1; i <= 20; i++) {
    await appendFile(a.at('log'), `line ${i}\n`)
    expected += `line ${i}\n`
    await until(`line ${i} is seen by who has the log open`, () => follow() === expected)
  }
  t.is(fstatSync(log).size, expected.length, 'tail -f')
  closeSync(log)

  // A name that was known to be missing.
  for (let i = 0; i < 3; i++) t.absent(existsSync(b.at('new')))
  await writeFile(a.at('new'), 'x')
  await until('a missing name is there', () => existsSync(b.at('new')))

  // Somebody works in a directory that is renamed elsewhere.
  await mkdir(a.at('one/deep'), { recursive: true })
  await writeFile(a.at('one/deep/file'), 'in it')
  await until('the directory is on b', () => existsSync(b.at('one/deep/file')) && readFileSync(b.at('one/deep/file'), 'utf8') === 'in it')
  const worker = spawn('sh', ['-c', 'while read line; do cat file; echo " $(/bin/pwd)"; done'], { cwd: b.at('one/deep'), stdio: ['pipe', 'pipe', 'inherit'] })
  t.teardown(() => { worker.kill('SIGKILL') }, { force: true })
  let said = ''
  worker.stdout.setEncoding('utf8').on('data', (part: string) => { said += part })
  const asked = async (what: string) => {
    const before = said.length
    worker.stdin.write('go\n')
    await until(what, () => said.slice(before).includes('\n'))
    return said.slice(before).trim()
  }
  t.is(await asked('it works there'), `in it ${b.at('one/deep')}`)
  await rename(a.at('one'), a.at('two'))
  await until('the new name is on b', () => existsSync(b.at('two')) && !existsSync(b.at('one')))
  t.is(await asked('it still works there'), `in it ${b.at('two/deep')}`)
  worker.stdin.end()
  await once(worker, 'exit')

  // A page that is mapped.
  await writeFile(a.at('mapped'), Buffer.alloc(8192, 'a'))
  await until('the mapped file is on b', () => existsSync(b.at('mapped')) && statSync(b.at('mapped')).size === 8192)
  const mapped = spawn(compile('test/posix/mmap.c'), ['watch', b.at('mapped'), '5000'], { stdio: ['pipe', 'pipe', 'inherit'] })
  t.teardown(() => { mapped.kill('SIGKILL') }, { force: true })
  let seen = ''
  mapped.stdout.setEncoding('latin1').on('data', (part: string) => { seen += part })
  await until('the mapping is read', () => seen === 'a')
  const file = await open(a.at('mapped'), 'r+')
  await file.write(Buffer.from('b'), 0, 1, 5000)
  await file.sync()
  await file.close()
  await until('the mapping shows the change', () => seen === 'ab')
  t.pass('mmap')
  mapped.kill('SIGTERM')
})

test('a chunk whose only holder is cut off: the reader can be interrupted, and has it when the holder is back', LONG, async (t) => {
  const trio = await pair(t)
  const [a, b] = [trio.member('a'), trio.member('b')]
  // Names come across, content hardly.
  await trio.lan.limit('a', '2mbit')
  const content = randomBytes(12 << 20)
  await writeFile(a.at('far'), content)
  await until('its name and size are on b', () => existsSync(b.at('far')) && statSync(b.at('far')).size === content.length)
  await trio.lan.split(['a'], ['b'])
  t.ok((await b.status()).chunks.owed > 0)
  const reader = spawn('cat', [b.at('far')], { stdio: ['ignore', 'ignore', 'pipe'] })
  await until('it waits in a read', () => readFileSync(`/proc/${reader.pid}/syscall`, 'latin1').startsWith('0 '))
  reader.kill('SIGINT')
  t.is((await once(reader, 'exit'))[1], 'SIGINT', 'at once with its program')
  await writeFile(b.at('near'), 'goes on')
  t.is(statSync(b.at('near')).size, 7, 'what is here works as ever')
  await trio.lan.limit('a', undefined)
  await trio.lan.heal()
  await trio.same()
  t.is(await shaOf(b.at('far')), createHash('sha256').update(content).digest('hex'))
})
