/** What was, as users have it back from real mounts: `dfs log` and `dfs restore`, after ordinary programs, kill -9, and on devices that lack the content. */
import test from 'brittle'
import { createHash, randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, openSync, closeSync, fsyncSync, promises as fs, readFileSync, readdirSync, writeFileSync, writeSync } from 'node:fs'
import { Client } from '../../lib/client.js'
import { joinDrive, TestDevice, until } from '../helpers/devices.js'
import { must, shell, sleep } from '../helpers/run.js'

/** Files that come back one after another: long enough to be interrupted. */
const MANY = 1500
const LONG = { timeout: 180_000 }
/** Writes of one device within half a second are one step. */
const BURST_MS = 550

interface Event { what: string; path: string; from?: string; size: number | null; time: string; timeMs: number; deviceName: string; isThisDevice: boolean }
interface VersionLog { retentionMs: number; from: string | null; events: Event[] }

/** Creating and writing is one step or several, as the machine is fast. */
const events = async (d: TestDevice, path: string) => (await d.json<VersionLog>('log', path)).events.filter((e) => e.what !== 'created' && e.what !== 'written').map((e) => `${e.what} ${e.path}${e.from ? ` from ${e.from}` : ''} ${e.size}`)

/** A moment between what came before and what comes after, as --at takes it. What is only buffered is not told apart from what comes later. */
async function moment(d: TestDevice): Promise<string> {
  const dir = await fs.open(d.dir)
  await dir.sync().finally(() => dir.close())
  await sleep(BURST_MS)
  const at = new Date().toISOString()
  await sleep(10)
  return at
}

/** Types, modes, owners, targets, content and attributes of all below a folder, and the times of files (git sets those of its objects again). */
const shown = (cwd: string) => shell(`find . -printf '%P %y %m %U:%G %l\\n' | LC_ALL=C sort; find . -type f -not -path './.git/*' -printf '%P %T@\\n' | LC_ALL=C sort
  find . -type f -print0 | LC_ALL=C sort -z | xargs -0r sha256sum; find . -print0 | LC_ALL=C sort -z | xargs -0 getfattr -h -d -m '^user' -e hex --`, { cwd })

/** Through its daemon, without a process for each. */
async function restore(d: TestDevice, wanted: Iterable<{ path: string; at: string; to: string }>): Promise<void> {
  const client = (await Client.connect(d.store))!
  try {
    for (const { path, at, to } of wanted) await client.restore(path, { atMs: Date.parse(at), to })
  } finally {
    await client.close()
  }
}

async function fails(d: TestDevice, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await d.dfs(args)
  if (code === 0 || !/^dfs: [^\n]+\n$/.test(stderr)) throw new Error(`dfs ${args.join(' ')}: exit code ${code}, not one line of error\n${stdout}${stderr}`)
  return stderr
}

test('what ordinary programs did to files is told, and comes back to the byte', LONG, async (t) => {
  const d = new TestDevice(t, 'anna')
  await d.mount()
  const { ctimeMs } = await fs.stat(d.dir)
  await d.ok('config', 'set', 'retention', '30d')
  t.ok((await fs.stat(d.dir)).ctimeMs > ctimeMs, 'a setting is an attribute of the root, whose ctime the kernel does not keep')
  const before = new Date(Date.now() - 3_600_000).toISOString()
  const sh = (script: string) => shell(script, { cwd: d.dir, env: { ...process.env, HOME: d.scratch, GIT_CONFIG_NOSYSTEM: '1' } })

  await sh("mkdir folder; printf 'first line\\n' > folder/notes")
  const made = await moment(d)
  await sh("printf 'appended\\n' >> folder/notes")
  const appended = await moment(d)
  // As vim saves.
  await sh("mv folder/notes folder/notes~; printf 'saved by an editor\\n' > folder/notes; chmod 640 folder/notes; rm folder/notes~")
  const saved = await moment(d)
  await sh('truncate -s 5 folder/notes')
  const cut = await moment(d)
  await sh('mv folder/notes folder/renamed')
  const versions: [string, string, string][] = [[made, 'notes', 'first line\n'], [appended, 'notes', 'first line\nappended\n'], [saved, 'notes', 'saved by an editor\n'], [cut, 'notes', 'saved']]

  await sh(`mkdir folder/repo; cd folder/repo; git init -q .; git config user.name a; git config user.email a@b
    dd if=/dev/urandom of=big bs=100k count=5 status=none; ln -s big link; mkdir -m 750 sub; printf x > sub/x; chmod 4755 sub/x; setfattr -n user.kind -v file sub/x; setfattr -n user.kind -v dir sub; git add .; git commit -qm one`)
  const one = await moment(d)
  const tree = await shown(d.path('folder/repo'))
  await sh('cd folder/repo; printf more >> big; rm link; ln -s sub link; git commit -qam two')
  await moment(d)
  await sh('rm -rf folder')
  t.absent(existsSync(d.path('folder')))

  // While nothing of it is there.
  t.alike(await events(d, '/folder/renamed'), ['deleted /folder/renamed 5', 'renamed /folder/renamed from /folder/notes 5'])
  t.alike(await events(d, '/folder/notes'), ['renamed /folder/renamed from /folder/notes 5', 'renamed /folder/notes~ from /folder/notes 20'])
  const { events: [last], retentionMs, from } = await d.json<VersionLog>('log', '/folder')
  t.alike([last!.what, last!.path, last!.deviceName, last!.isThisDevice, retentionMs], ['deleted', '/folder', 'anna', true, 30 * 86_400_000])
  t.ok(Date.parse(from!) <= Date.parse(made) && Math.abs(Date.parse(last!.time) - Date.now()) < 60_000)
  t.ok((await d.ok('log', '-n', '1', '/folder/renamed')).includes('deleted'), 'and for people')

  await restore(d, versions.map(([at, name, content]) => ({ path: `/folder/${name}`, at, to: `/then ${content.length}` })))
  for (const [, , content] of versions) t.is(readFileSync(d.path(`then ${content.length}`), 'utf8'), content)
  t.is((await fs.stat(d.path('then 19'))).mode & 0o777, 0o640)
  await d.ok('restore', '/folder/repo', '--at', one)
  t.is(await shown(d.path('folder/repo')), tree, 'content, modes, owners, times, attributes, links')
  t.is((await shell('git fsck --strict 2>&1; git status --porcelain', { cwd: d.path('folder/repo') })).trim(), '', 'for git, too')
  // Made anew, and in place.
  for (const at of [made, appended]) await d.ok('restore', '/folder/notes', '--at', at)
  t.is(readFileSync(d.path('folder/notes'), 'utf8'), 'first line\nappended\n')

  t.ok((await fails(d, 'restore', '/folder', '--at', before)).includes('is not known any more; it is from'))
  t.ok((await fails(d, 'restore', '/nothing', '--at', made)).includes('there was no such file or directory'))
  t.ok((await fails(d, 'log', '/nothing')).includes('nothing is known of one'))
  mkdirSync(d.path('folder/renamed/inside'), { recursive: true })
  t.ok((await fails(d, 'restore', '/folder/notes', '--at', cut, '--to', '/folder/renamed')).includes('exists already'))
  await fs.rm(d.path('folder/notes'))
  mkdirSync(d.path('folder/notes/inside'), { recursive: true })
  t.ok((await fails(d, 'restore', '/folder', '--at', cut)).includes('/folder/notes is a directory now'))
  t.ok(existsSync(d.path('folder/notes/inside')))
  t.ok(existsSync(d.path('folder/renamed/inside')), 'and nothing has changed')
  t.is((await d.dfs(['fsck', '--data'])).code, 0)
})

test('who interrupts a restore finds each file as it was, or not at all; the same again does the rest', LONG, async (t) => {
  const d = new TestDevice(t, 'anna')
  await d.mount()
  await d.ok('config', 'set', 'retention', '1d')
  const block = randomBytes(20_000)
  mkdirSync(d.path('many'))
  for (let i = 0; i < MANY; i++) writeFileSync(d.path('many', String(i)), block.subarray(i))
  const at = await moment(d)
  await fs.rm(d.path('many'), { recursive: true })
  const interrupted = async (to: string, when: () => Promise<unknown>) => {
    const { child, said, ended } = d.start('restore', '/many', '--at', at, '--to', to)
    await when()
    child.kill('SIGINT')
    const code = await ended
    return { to, code, back: Number(/interrupted; files that had come back: (\d+)/.exec(said())?.[1] ?? (code === 0 ? MANY : 0)) }
  }
  const served = await interrupted('/again', () => until('it has begun', () => existsSync(d.path('again'))))
  t.is(served.code, 130)
  t.is(readdirSync(d.path('again')).length, served.back, 'as many as it says')
  await sleep(200)
  t.is(readdirSync(d.path('again')).length, served.back, 'it goes on no further')

  // With no daemon, ever later until it is in the midst of it: null is a process that had not begun.
  await d.unmount()
  const tries = []
  for (let ms = 200; !tries.at(-1)?.back && ms < 20_000; ms *= 1.1) tries.push(await interrupted(`/alone ${ms.toFixed()}`, () => sleep(ms)))
  await d.mount()
  t.comment(`${served.back} files had come back by the daemon, ${tries.map((x) => `${x.back} (${x.code})`).join(', ')} without`)
  t.ok(tries.every(({ code }) => code === 130 || code === null) && tries.at(-1)!.back > 0, 'interrupted in the midst')
  for (const { to, back } of [served, ...tries]) {
    const names = existsSync(d.path(to)) ? readdirSync(d.path(to)) : []
    t.is(names.length, back, to)
    for (const name of names) if (!readFileSync(d.path(to, name)).equals(block.subarray(Number(name)))) t.fail(`${name} is not what it was`)
  }
  for (const { to } of [served, tries.at(-1)!]) {
    await d.ok('restore', '/many', '--at', at, '--to', to, '--force')
    t.is(readdirSync(d.path(to)).length, MANY)
  }
  t.is((await d.dfs(['fsck', '--data'])).code, 0)
})

test('what others have is fetched when it is read; without them it comes back by name, and who reads it is told', LONG, async (t) => {
  const [a, b] = [new TestDevice(t, 'anna'), new TestDevice(t, 'bert')]
  await a.mount()
  await a.ok('config', 'set', 'retention', '1d')
  await joinDrive(a, b)
  await b.ok('mount', '--cache', '16M', b.dir)
  await fs.writeFile(a.path('seen'), 'x')
  await until('bert has heard', () => existsSync(b.path('seen')))
  const next = randomBytes(3_000_000)
  await fs.writeFile(a.path('next'), next)
  const then = await moment(a)
  await until('bert has it', () => existsSync(b.path('next')) && readFileSync(b.path('seen')).length === 1)
  await fs.rm(b.path('next'))
  await until('anna has heard', () => !existsSync(a.path('next')))
  await b.ok('restore', '/next', '--at', then)
  const digest = createHash('sha256').update(next).digest('hex')
  t.is((await must('sha256sum', [b.path('next')])).slice(0, 64), digest, 'it is fetched')
})

test('kill -9 while programs write: what was fsynced before can be had back afterwards', LONG, async (t) => {
  const d = new TestDevice(t, 'anna')
  await d.mount()
  await d.ok('config', 'set', 'retention', '1d')
  const kept: { path: string; at: string; content: Buffer }[] = []
  let n = 0
  for (let round = 0; round < 2; round++) {
    let isOver = false
    const lane = async (lane: number) => {
      for (let i = 0; !isOver; i++) {
        const [path, content] = [`f${lane}-${i % 3}`, randomBytes(1 + Math.floor(Math.random() * 300_000))]
        const file = openSync(d.path(path), 'w')
        writeSync(file, content)
        fsyncSync(file)
        closeSync(file)
        const beganMs = Date.now()
        await sleep(BURST_MS)
        // Nothing is said of the last moment.
        if (!isOver && Date.now() - beganMs >= BURST_MS) kept.push({ path, at: new Date(beganMs + 20).toISOString(), content })
        if (i % 4 === 3 && !isOver) await fs.rm(d.path(path))
        n++
      }
    }
    const lanes = [0, 1, 2].map((i) => lane(i).catch((e: NodeJS.ErrnoException) => { if (!isOver) throw e }))
    await sleep(1300)
    isOver = true
    await d.crash()
    await Promise.all(lanes)
    await d.mount()
    t.is((await d.dfs(['fsck', '--data'])).code, 0)
  }
  t.ok(kept.length >= 4, `${kept.length} versions`)
  await restore(d, kept.map(({ path, at }, i) => ({ path: `/${path}`, at, to: `/back/${i}` })))
  for (const [i, { path, at, content }] of kept.entries()) if (!readFileSync(d.path('back', String(i))).equals(content)) t.fail(`${path} of ${at} is not what it was`)
  t.is((await d.dfs(['fsck', '--data'])).code, 0)
})
