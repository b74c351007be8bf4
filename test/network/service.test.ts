/** `dfs service` on a systemd of its own (helpers/systemd.ts). */
import test, { type Assert } from 'brittle'
import { randomBytes } from 'node:crypto'
import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { DriveKeys } from '../../lib/keys/derive.js'
import { execWords, word } from '../../lib/service/systemd.js'
import { DFS } from '../helpers/cli.js'
import { hasProgram, sleep, type Ran } from '../helpers/run.js'
import { Machine, USER, whyNoMachine } from '../helpers/systemd.js'

const LONG = { timeout: 240_000 }
const WAIT_MS = 60_000
const missing = await whyNoMachine()
if (missing !== undefined) console.log(`# skipped: no systemd of its own can be booted here: ${missing}`)
const OPTIONS = { ...LONG, skip: missing !== undefined }

interface Box {
  machine: Machine
  store: string
  mnt: string
  dfs(...args: string[]): Promise<Ran>
  /** Its standard output; throws unless it ends with 0. */
  ok(...args: string[]): Promise<string>
  /** In systemd's own words. */
  state(): Promise<{ active: string; pid: number; restarts: number; status: string }>
  isMounted(): Promise<boolean>
}

async function makeBox(t: Assert, { as = 0, name = 'store' } = {}): Promise<Box> {
  const machine = await Machine.boot(t)
  for (const scope of ['system', 'user']) {
    const dropIn = join(machine.dir, 'etc/systemd', scope, 'dfs-box.service.d')
    mkdirSync(dropIn, { recursive: true })
    writeFileSync(join(dropIn, 'quick.conf'), '[Service]\nRestartSec=100ms\n')
  }
  // Entered by an ordinary user too.
  chmodSync(machine.dir, 0o755)
  if (as !== 0) {
    chownSync(machine.home, as, as)
    await machine.must(['systemctl', 'start', `manager@${as}.service`])
  }
  const store = join(as === 0 ? machine.dir : machine.home, name)
  const mnt = join(as === 0 ? machine.dir : machine.home, 'mnt')
  const options = { as, env: { DFS_STORE: store, DFS_DISCOVERY: 'none', ...(as !== 0 && { XDG_RUNTIME_DIR: `/run/user/${as}` }) } }
  const dfs = (...args: string[]) => machine.run([process.execPath, DFS, ...args], options)
  const ok = (...args: string[]) => machine.must([process.execPath, DFS, ...args], options)
  return {
    machine, store, mnt, dfs, ok,
    state: async () => {
      const said = await machine.must(['systemctl', ...(as === 0 ? [] : ['--user']), 'show', '--property=ActiveState,MainPID,NRestarts,StatusText', 'dfs-box'], options)
      const value = (name: string) => new RegExp(`^${name}=(.*)$`, 'm').exec(said)?.[1] ?? ''
      return { active: value('ActiveState'), pid: Number(value('MainPID')), restarts: Number(value('NRestarts')), status: value('StatusText') }
    },
    isMounted: async () => (await machine.must(['cat', '/proc/self/mountinfo'])).includes(` ${mnt} `),
  }
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  for (const start = performance.now(); !(await condition()); await sleep(50)) if (performance.now() - start > WAIT_MS) throw new Error('waited in vain')
}

test('a service with a mount runs, comes back after kill -9 and after a reboot, and ends flushed and unmounted', OPTIONS, async (t) => {
  // A path that has to be quoted.
  const { machine, store, mnt, dfs, ok, state, isMounted } = await makeBox(t, { name: 'a "store" of %h \\ $HOME' })
  t.is((await dfs('service', 'install')).code, 3, 'a store that is missing')
  await ok('create')
  const said = await ok('service', 'install', '--name', 'box', '--mount', mnt, '-o', 'noatime', '--memory-max', '512M', '--cpu-weight', '50', '--io-weight', '60', '--nice', '5')
  t.ok(said.includes('Wrote /etc/systemd/system/dfs-box.service') && said.includes(`mounted on ${mnt}`), said)
  t.ok(await isMounted(), 'seen outside of the service')
  await machine.must(['sh', '-c', 'echo first > "$1/f"', 'sh', mnt])
  const first = await state()
  const told = JSON.parse(await ok('service', 'status', '--json')) as Record<string, unknown>
  t.alike([told.name, told.scope, told.store, told.active, told.enabled, told.restarts, told.pid], ['dfs-box', 'system', store, 'active', 'enabled', 0, first.pid])
  t.is(await machine.must(['systemctl', 'show', '--property=MemoryMax,MemoryHigh,CPUWeight,IOWeight,Nice,LimitNOFILE', '--value', 'dfs-box']).then((text) => text.split('\n').filter(Boolean).sort().join(' ')),
    '469762048 5 50 536870912 60 65536')

  t.ok((await ok('service', 'install', '--name', 'box', '--mount', mnt, '-o', 'noatime', '--memory-max', '512M', '--cpu-weight', '50', '--io-weight', '60', '--nice', '5')).includes('as it should be'))
  t.is((await state()).pid, first.pid, 'the same again changes nothing')
  t.is((await dfs('service', 'install', '--name', 'other')).code, 2, 'one service to a store')
  t.ok((await ok('service', 'install', '--name', 'box', '--mount', mnt)).includes('Replaced'))
  t.not((await state()).pid, first.pid, 'what is given otherwise restarts it')

  await ok('sync')
  const { pid } = await state()
  await machine.must(['kill', '-9', String(pid)])
  await until(async () => (await state()).pid !== pid && (await state()).active === 'active')
  t.is((await state()).restarts, 1)
  t.is(await machine.must(['cat', join(mnt, 'f')]), 'first\n', 'mounted anew over the dead mount')

  await machine.must(['sh', '-c', 'echo second > "$1/f"', 'sh', mnt])
  await machine.reboot()
  t.is((await state()).active, 'active')
  t.is(await machine.must(['cat', join(mnt, 'f')]), 'second\n', 'unflushed before the reboot, and there after it')

  await machine.must(['sh', '-c', 'echo third > "$1/f"', 'sh', mnt])
  await ok('service', 'stop')
  t.absent(await isMounted())
  t.is((await state()).active, 'inactive')
  t.is(await ok('cat', '/f'), 'third\n')
  await ok('service', 'start')
  t.ok(await isMounted())
  await ok('service', 'restart')
  t.ok(await isMounted())
  const logs = await ok('service', 'logs', '-n', '200')
  for (const line of ['the daemon runs', `mounted at ${mnt}`, 'the daemon stops: SIGTERM', 'the daemon has ended']) t.ok(logs.includes(line), line)

  t.ok((await ok('service', 'uninstall')).includes('Removed /etc/systemd/system/dfs-box.service'))
  t.absent(await isMounted())
  t.absent(await machine.run(['systemctl', 'is-enabled', 'dfs-box']).then(({ code }) => code === 0))
  t.is((await dfs('service', 'status')).code, 3)
  t.ok(existsSync(join(store, 'keys')), 'the store stays')
})

test('a service without a mount: mounts come and go, and only dfs stop ends it; one that runs by hand is not taken over', OPTIONS, async (t) => {
  const { mnt, dfs, ok, state, isMounted } = await makeBox(t)
  await ok('mount', mnt)
  const refused = await dfs('service', 'install', '--name', 'box')
  t.is(refused.code, 4)
  t.ok(/runs already \(process \d+\).*dfs stop/.test(refused.stderr), refused.stderr)
  t.is((await dfs('service', 'status')).code, 3, 'nothing was written')
  await ok('unmount', mnt)

  await ok('service', 'install', '--name', 'box')
  const { pid } = await state()
  await ok('mount', mnt)
  t.ok(await isMounted())
  t.ok((await state()).status.includes(`mounted on ${mnt}`))
  await ok('unmount', mnt)
  t.absent(await isMounted())
  t.alike([(await state()).pid, (await state()).active], [pid, 'active'], 'the last mount was not its life')
  t.is((await dfs('serve')).code, 4)
  t.ok((await ok('stop')).includes('dfs service start'), 'it is said that this was a service')
  await until(async () => (await state()).active === 'inactive')
  await sleep(200)
  t.is((await state()).active, 'inactive', 'a wish, no failure: it is not restarted')
})

test('a service that mounts nothing is shut in, and serves', OPTIONS, async (t) => {
  const { machine, store, mnt, dfs, ok, state } = await makeBox(t)
  await ok('create')
  t.ok((await ok('service', 'install', '--name', 'box', '--no-mount')).includes('its store alone'))
  const { pid } = await state()
  writeFileSync(join(machine.dir, 'file'), 'content')
  await ok('put', join(machine.dir, 'file'), '/file')
  t.is(await ok('cat', '/file'), 'content')
  const refused = await dfs('mount', mnt)
  t.is(refused.code, 1)
  t.ok(refused.stderr.includes('--no-mount'), refused.stderr)
  const inside = ['nsenter', `--target=${pid}`, '--mount', '--', 'sh', '-c']
  t.not((await machine.run([...inside, 'touch /etc/x'])).code, 0, 'the system is read-only for it')
  t.not((await machine.run([...inside, `touch ${machine.dir}/x`])).code, 0)
  t.is((await machine.run([...inside, `touch "${store}/x"`])).code, 0)
  t.is(/CapEff:\s*(\S+)/.exec(await machine.must(['cat', `/proc/${pid}/status`]))?.[1], '0000000000000000')
  t.is((await state()).pid, pid)
})

test('a device that only stores is shut in without being asked, and cannot be told to mount', OPTIONS, async (t) => {
  const { mnt, dfs, ok, state, machine } = await makeBox(t)
  await ok('join', DriveKeys.create().capability('storage'))
  const refused = await dfs('service', 'install', '--name', 'box', '--mount', mnt)
  t.is(refused.code, 6)
  t.ok((await ok('service', 'install', '--name', 'box')).includes('its store alone'))
  t.is((await state()).active, 'active')
  t.is(await machine.must(['systemctl', 'show', '--property=ProtectSystem', '--value', 'dfs-box']), 'strict\n')
})

test('a drive whose last device is lost comes back from a box that only stores; all of them services that are shut in', OPTIONS, async (t) => {
  const { machine, ok } = await makeBox(t)
  const [one, box, anew] = ['one', 'box', 'anew'].map((name) => join(machine.dir, name)) as [string, string, string]
  const install = (store: string, name: string, ...args: string[]) => ok('--store', store, 'service', 'install', '--name', name, '--no-mount', ...args)
  await ok('--store', one, 'create')
  await install(one, 'one', '--port', '4977')
  const content = randomBytes(5_000_000)
  writeFileSync(join(machine.dir, 'file'), content)
  await ok('--store', one, 'put', join(machine.dir, 'file'), '/file')
  const key = (await ok('--store', one, 'key')).trim()
  await ok('--store', box, 'join', (await ok('--store', one, 'key', '--storage')).trim())
  await install(box, 'box', '--port', '4978', '--peer', '127.0.0.1:4977')
  await until(async () => {
    const { chunks, snapshot } = JSON.parse(await ok('--store', box, 'status', '--json')) as { chunks: { here: number; owed: number }; snapshot: unknown }
    return chunks.here > 0 && chunks.owed === 0 && snapshot !== null
  })
  await ok('--store', one, 'service', 'uninstall')
  rmSync(one, { recursive: true })
  await ok('--store', anew, 'join', key)
  await install(anew, 'anew', '--peer', '127.0.0.1:4978')
  await until(async () => (await machine.run(['systemctl', 'is-active', 'dfs-anew'])).stdout === 'active\n')
  await ok('--store', anew, 'get', '/file', join(machine.dir, 'back'))
  t.ok(readFileSync(join(machine.dir, 'back')).equals(content))
})

test('stores side by side have a service each, found by the store', OPTIONS, async (t) => {
  const { machine, ok, dfs } = await makeBox(t)
  const other = join(machine.dir, 'other')
  await ok('create')
  await ok('--store', other, 'create')
  await ok('service', 'install')
  await ok('--store', other, 'service', 'install', '--name', 'other')
  const told = async (...args: string[]) => JSON.parse(await ok(...args, 'service', 'status', '--json')) as { name: string; active: string; pid: number }
  const [first, second] = [await told(), await told('--store', other)]
  t.ok(first.name.startsWith('dfs-') && first.name.includes('store'), `named after its path: ${first.name}`)
  t.is(second.name, 'dfs-other')
  t.alike([first.active, second.active], ['active', 'active'])
  t.not(first.pid, second.pid)
  t.is((await dfs('service', 'install', '--name', 'other')).code, 2, 'a name that is taken')
  await ok('--store', other, 'service', 'uninstall')
  t.alike([(await told()).pid, (await dfs('--store', other, 'service', 'status')).code], [first.pid, 3], 'the other goes on')
})

test('a user has a service of their own, which mounts by fusermount3', OPTIONS, async (t) => {
  const { machine, mnt, ok, dfs, state, isMounted } = await makeBox(t, { as: USER.id })
  await ok('create')
  t.is((await dfs('service', 'install', '--system')).code, 1)
  const said = await ok('service', 'install', '--mount', mnt, '--name', 'box')
  t.ok(said.includes(`Wrote ${machine.home}/.config/systemd/user/dfs-box.service`) && said.includes(`loginctl enable-linger ${USER.name}`), said)
  t.ok(await isMounted())
  await machine.must(['sh', '-c', 'echo own > "$1/f"', 'sh', mnt], { as: USER.id })
  await ok('sync')
  const { pid } = await state()
  await machine.must(['kill', '-9', String(pid)])
  await until(async () => (await state()).pid !== pid && (await state()).active === 'active')
  t.is(await machine.must(['cat', join(mnt, 'f')], { as: USER.id }), 'own\n')
  await machine.must(['sh', '-c', 'echo later > "$1/f"', 'sh', mnt], { as: USER.id })
  await machine.must(['systemctl', 'stop', `manager@${USER.id}`])
  t.absent(await isMounted(), 'it ends with the last session')
  await machine.must(['systemctl', 'start', `manager@${USER.id}`])
  await until(async () => (await state()).active === 'active')
  t.is(await machine.must(['cat', join(mnt, 'f')], { as: USER.id }), 'later\n', 'and comes with the next')
  await ok('service', 'uninstall')
  t.absent(await isMounted())
  t.is(await ok('cat', '/f'), 'later\n')
  await ok('service', 'install', '--no-mount', '--name', 'box')
  t.is((await state()).active, 'active', 'shut in as far as a user may')
})

test('a system service runs as the owner of its store, and mounts for them', OPTIONS, async (t) => {
  const { machine, store, mnt, ok } = await makeBox(t, { as: USER.id })
  await ok('create')
  const root = (...args: string[]) => machine.must([process.execPath, DFS, '--store', store, ...args], { env: { DFS_DISCOVERY: 'none' } })
  t.ok((await root('service', 'install', '--name', 'box', '--mount', mnt)).includes(`as ${USER.name}`))
  await machine.must(['sh', '-c', 'echo own > "$1/f"', 'sh', mnt], { as: USER.id })
  t.is(await ok('cat', '/f'), 'own\n')
  await root('service', 'uninstall')
})

test('a passphrase comes from a file, or encrypted, and the mount is still seen by all', OPTIONS, async (t) => {
  const { machine, mnt, dfs, ok, isMounted, state } = await makeBox(t)
  const file = join(machine.dir, 'pass word %h')
  writeFileSync(file, 'secret\n', { mode: 0o600 })
  await ok('--passphrase-file', file, 'create')
  const without = await dfs('service', 'install', '--name', 'box', '--mount', mnt)
  t.is(without.code, 6)
  t.ok(without.stderr.includes('--passphrase-file'), without.stderr)
  writeFileSync(join(machine.dir, 'wrong'), 'wrong\n')
  t.is((await dfs('--passphrase-file', join(machine.dir, 'wrong'), 'service', 'install', '--name', 'box')).code, 6, 'a wrong one is told at once')
  await ok('--passphrase-file', file, 'service', 'install', '--name', 'box', '--mount', mnt)
  t.ok(await isMounted())
  // systemd 250
  if (!hasProgram('systemd-creds')) return
  const encrypted = join(machine.dir, 'encrypted')
  await machine.must(['systemd-creds', 'encrypt', '--with-key=host', '--name=passphrase', file, encrypted])
  t.ok((await ok('service', 'install', '--name', 'box', '--mount', mnt, '--passphrase-credential', encrypted)).includes('Replaced'))
  t.ok(await isMounted())
  t.is((await state()).active, 'active')
})

test('a start that fails says so, and what cannot get better is not tried again', OPTIONS, async (t) => {
  const { machine, store, dfs, ok, state } = await makeBox(t)
  await ok('create')
  await ok('service', 'install', '--name', 'box')
  await ok('service', 'stop')
  chmodSync(join(store, 'keys'), 0o644)
  const failed = await dfs('service', 'start')
  t.is(failed.code, 1)
  t.ok(failed.stderr.includes('dfs service logs'), failed.stderr)
  t.ok((await ok('service', 'logs')).includes('chmod 600'))
  chmodSync(join(store, 'keys'), 0o600)
  writeFileSync(join(store, 'index.db'), 'no index')
  for (const suffix of ['-wal', '-shm']) writeFileSync(join(store, `index.db${suffix}`), '')
  const damaged = await dfs('service', 'restart')
  t.ok(damaged.stderr.includes('exit code 5'), damaged.stderr)
  t.alike([(await state()).active, (await state()).restarts], ['failed', 0])
  t.ok((await machine.run(['systemctl', 'is-failed', 'dfs-box'])).stdout.includes('failed'))
})

test('what systemd makes of quoted words is what was meant', OPTIONS, async (t) => {
  const machine = await Machine.boot(t)
  const out = join(machine.dir, 'out')
  const text = fc.string({ unit: fc.constantFrom(...'ab %$"\'\\{};:@-+!#=*?~\n\t\u0001\u007fé…😀'), maxLength: 12 })
  const lists = fc.sample(fc.array(text, { minLength: 1, maxLength: 6 }), 300)
  const values = fc.sample(text, 50)
  const program = join(machine.dir, 'a program of %n; $HOME')
  writeFileSync(program, '#!/bin/sh\nprintf "%s\\0" "$#" "$@" >> "$OUT"\n', { mode: 0o755 })
  writeFileSync(join(machine.dir, 'etc/systemd/system/words.service'), [
    '[Service]', 'Type=oneshot', `Environment=${word(`OUT=${out}`)}`, ...values.map((value, i) => `Environment=${word(`V${i}=${value}`)}`),
    ...lists.map((list) => `ExecStart=${execWords([program, ...list])}`),
    `ExecStart=${execWords(['/bin/sh', '-c', `for i in $(seq 0 ${values.length - 1}); do eval "printf '%s\\0' \\"\\$V$i\\"" >> "$OUT"; done`])}`, '',
  ].join('\n'))
  await machine.must(['systemctl', 'daemon-reload'])
  await machine.must(['systemctl', 'start', 'words'])
  const got = readFileSync(out, 'utf8').split('\0')
  t.alike(got, [...lists.flatMap((list) => [String(list.length), ...list]), ...values, ''])
})
