/** kill -9 of dfs put and dfs get: what they were building goes, what others are building stays. */
import test from 'brittle'
import { spawn, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Drive } from '../../lib/drive.js'
import { DFS, makeCli, type Cli } from '../helpers/cli.js'
import { bytesOnDisk } from '../helpers/mount.js'
import { sleep } from '../helpers/run.js'

const LONG = { timeout: 120_000 }

function start(t: { teardown(f: () => unknown, o?: object): void }, cli: Cli, ...args: string[]): ChildProcess {
  const child = spawn(process.execPath, [DFS, ...args], { cwd: cli.dir, env: { PATH: process.env.PATH, HOME: cli.dir, DFS_STORE: cli.store }, stdio: ['pipe', 'ignore', 'ignore'] })
  child.stdin!.on('error', () => {})
  t.teardown(() => void child.kill('SIGKILL'), { force: true, order: -1 })
  return child
}

async function kill(child: ChildProcess): Promise<void> {
  child.kill('SIGKILL')
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
}

const temporaries = (names: string[]) => names.filter((name) => name.startsWith('.dfs-copy-'))
const list = async (cli: Cli) => (await cli.ok('ls', '/')).split('\n').filter(Boolean)

test('a put through the daemon that is killed leaves nothing', LONG, async (t) => {
  const cli = makeCli(t)
  await cli.ok('create')
  await cli.serve()
  const [dead, alive] = [start(t, cli, 'put', '-', '/dead'), start(t, cli, 'put', '-', '/alive')]
  for (const child of [dead, alive]) child.stdin!.write(randomBytes(3 << 20))
  while (temporaries(await list(cli)).length < 2) await sleep(20)
  await kill(dead)
  while (temporaries(await list(cli)).length > 1) await sleep(20)
  alive.stdin!.end()
  if (alive.exitCode === null) await once(alive, 'exit')
  t.alike(await list(cli), ['alive'])
})

test('a put with the store to itself that is killed leaves nothing that gc does not take', LONG, async (t) => {
  const cli = makeCli(t)
  await cli.ok('create')
  const child = start(t, cli, 'put', '-', '/dead')
  child.stdin!.write(randomBytes(3 << 20))
  const segments = join(cli.store, 'segments')
  while (bytesOnDisk(segments) < 2 << 20) await sleep(20)
  await sleep(1500) // its name is committed after a second
  await kill(child)
  const drive = await Drive.open(cli.store)
  t.teardown(() => drive.close(), { force: true })
  t.is(drive.unfinished.left().length, 1)
  await drive.gc()
  await drive.close()
  t.alike(await list(cli), [])
  await cli.ok('fsck', '--data')
})

test('a get that is killed leaves nothing that the next does not take; one that lives goes on', LONG, async (t) => {
  const cli = makeCli(t)
  await cli.ok('create')
  await cli.serve()
  const source = join(cli.dir, 'source'), out = join(cli.dir, 'out')
  writeFileSync(source, randomBytes(96 << 20))
  writeFileSync(join(cli.dir, 'small'), 'small')
  mkdirSync(out)
  await cli.ok('put', source, '/large')
  await cli.ok('put', join(cli.dir, 'small'), '/small')

  const begun = async (name: string) => {
    const before = temporaries(readdirSync(out)).length
    const child = start(t, cli, 'get', '/large', join(out, name))
    while (temporaries(readdirSync(out)).length === before && child.exitCode === null) await sleep(1)
    return child
  }
  const alive = await begun('alive')
  alive.kill('SIGSTOP')
  const dead = await begun('dead')
  await kill(dead)
  t.is(temporaries(readdirSync(out)).length, 2)
  await cli.ok('get', '/small', out)
  t.is(temporaries(readdirSync(out)).length, 1)
  alive.kill('SIGCONT')
  if (alive.exitCode === null) await once(alive, 'exit')
  t.alike(readdirSync(out).sort(), ['alive', 'small'])
  t.ok(readFileSync(join(out, 'alive')).equals(readFileSync(source)))
})
