/** The unit of a service as text, and what the daemon tells its manager. */
import test from 'brittle'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import fc from 'fast-check'
import { loadConfig } from '../../lib/config.js'
import { notifierOf } from '../../lib/service/notify.js'
import { execWords, storeOfUnit, unitName, unitText, word, type UnitOptions } from '../../lib/service/systemd.js'
import { DFS, makeCli } from '../helpers/cli.js'
import { need, run, sleep } from '../helpers/run.js'
import { codeOf, scratchDir } from '../helpers/scratch.js'

const LONG = { timeout: 120_000 }
const anyText = fc.string({ unit: 'grapheme', maxLength: 20 }).filter((text) => !text.includes('\0'))
const nasty = fc.string({ unit: fc.constantFrom(...'ab %$"\'\\{};:@-+!#=*?~\n\t\u0001\u007fé😀'), maxLength: 20 })
const BASE: UnitOptions = { scope: 'system', store: '/srv/dfs', command: ['/usr/bin/node', '/opt/dfs.js', 'serve'], environment: { A: 'b' }, kind: 'open', limits: {} }

/** extract_first_word() of systemd with EXTRACT_UNQUOTE and EXTRACT_CUNESCAPE, and then specifiers; only escapes that are written. */
function parse(line: string): string[] {
  const words: string[] = []
  let at = 0
  while (at < line.length) {
    while (line[at] === ' ') at++
    if (at === line.length) break
    let quote = ''
    let bytes = ''
    for (; at < line.length && (quote !== '' || line[at] !== ' '); at++) {
      const c = line[at]!
      if (c === '\\') {
        const hex = /^x([0-9a-f]{2})/.exec(line.slice(at + 1))
        bytes += hex ? String.fromCharCode(parseInt(hex[1]!, 16)) : line[at + 1]!
        at += hex ? 3 : 1
      } else if (quote === '' && (c === '"' || c === '\'')) quote = c
      else if (c === quote) quote = ''
      else bytes += c
    }
    if (quote !== '') throw new Error('a quote that does not end')
    words.push(bytes.replace(/%(.)/g, (_, c: string) => (c === '%' ? '%' : `<specifier ${c}>`)))
  }
  return words
}

test('words arrive as they were, whatever is in them', (t) => {
  for (const text of [anyText, nasty]) {
    fc.assert(fc.property(fc.array(text, { maxLength: 8 }), (words) => {
      const line = execWords(['/a program of %n; $HOME', ...words])
      if (line.includes('\n')) return false
      const [program, ...rest] = parse(line)
      return program === ':/a program of %n; $HOME' && rest.every((w, i) => w === words[i]) && rest.length === words.length
    }), { numRuns: 2000 })
  }
  t.is(word('/srv/dfs'), '/srv/dfs')
  t.is(word('a b'), '"a b"')
  t.is(word('100%'), '100%%')
  t.is(word(''), '""')
  t.is(word(';'), '";"')
})

test('no path breaks out of its line, and a unit knows its store', async (t) => {
  const known = /^(#.*|\[(Unit|Service|Install|X-Dfs)\]|[A-Za-z]+=.*|)$/
  fc.assert(fc.property(nasty, nasty, fc.constantFrom('open' as const, 'shut' as const), fc.constantFrom('user' as const, 'system' as const), (a, b, kind, scope) => {
    const text = unitText({ ...BASE, scope, kind, store: `/${a}`, mount: `/x/${b}`, command: ['/node', a, b], environment: { A: a } })
    const lines = text.split('\n')
    return lines.every((line) => known.test(line) && !line.endsWith('\\')) && storeOfUnit(text) === `/${a}` &&
      lines.filter((line) => line.startsWith('ExecStart=')).length === 1
  }), { numRuns: 1000 })
  t.is(storeOfUnit('[Unit]\nDescription=of another'), undefined)
  t.is(storeOfUnit('[X-Dfs]\nStore={"not":"text"}\n'), undefined)
  for (const file of ['/a\nb', '/a\\', '/a ']) t.is(await codeOf(() => unitText({ ...BASE, passphrase: { file, isEncrypted: false } })), 'USAGE')
  t.is(await codeOf(() => word('a\0b')), 'USAGE')
  for (const program of ['/a"b', '/a\\b', '/a\'b', '/a\nb']) t.is(await codeOf(() => execWords([program])), 'USAGE', program)
})

test('what mounts gets no mount namespace; what does not is shut in', (t) => {
  const namespaces = /^(Protect|Private|ReadWrite|ReadOnly|Inaccessible|Temporary)/m
  const root = unitText(BASE)
  t.absent(namespaces.test(root))
  t.ok(root.includes('NoNewPrivileges=yes'), 'root needs no setuid helper')
  const owner = unitText({ ...BASE, user: 'al' })
  t.ok(owner.includes('User=al'))
  t.absent(namespaces.test(owner) || /NoNewPrivileges|Restrict|SystemCall|LockPersonality/.test(owner), 'fusermount3 is setuid')
  const shut = unitText({ ...BASE, kind: 'shut' })
  for (const line of ['ProtectSystem=strict', 'ReadWritePaths=/srv/dfs', 'PrivateTmp=yes', 'CapabilityBoundingSet=', 'NoNewPrivileges=yes']) t.ok(shut.includes(`\n${line}\n`), line)
  t.absent(unitText({ ...BASE, kind: 'shut', store: '/tmp/store' }).includes('PrivateTmp'), 'its store must be seen')
  const own = unitText({ ...BASE, kind: 'shut', scope: 'user' })
  t.ok(own.includes('NoNewPrivileges=yes') && !namespaces.test(own), 'a user can make no namespaces')
  t.ok(own.includes('WantedBy=default.target') && root.includes('WantedBy=multi-user.target'))
})

test('limits are written, and nothing that was not given', (t) => {
  const text = unitText({ ...BASE, limits: { memoryMaxBytes: 512 * 2 ** 20, cpuWeight: 50, ioWeight: 20, nice: 10 } })
  for (const line of ['MemoryMax=536870912', 'MemoryHigh=469762048', 'CPUWeight=50', 'IOWeight=20', 'Nice=10']) t.ok(text.includes(`\n${line}\n`), line)
  t.absent(/Memory|Weight|Nice/.test(unitText(BASE)))
})

test('stores have names of their own', async (t) => {
  const name = (store: string) => unitName({ store, isDefault: false })
  t.is(unitName({ store: '/home/al/.local/share/dfs', isDefault: true }), 'dfs')
  t.is(name('/srv/dfs'), 'dfs-srv-dfs')
  t.is(unitName({ store: '/srv/dfs', isDefault: true, chosen: 'box' }), 'dfs-box')
  t.not(name('/srv/a/b'), name('/srv/a-b'))
  t.not(name('/srv/a b'), name('/srv/a-b'))
  fc.assert(fc.property(anyText, anyText, (a, b) => (a === b) === (name(`/${a}`) === name(`/${b}`)) && /^dfs-[A-Za-z0-9_.-]{0,80}$/.test(name(`/${a}`))), { numRuns: 2000 })
  for (const chosen of ['', 'a b', '../x', 'a/b', 'a@b', 'x'.repeat(65)]) t.is(await codeOf(() => unitName({ store: '/s', isDefault: false, chosen })), 'USAGE', chosen)
})

test('systemd-analyze has nothing to say about the units', LONG, async (t) => {
  need(['systemd-analyze', 'systemd'])
  const dir = scratchDir(t)
  const verify = async (scope: 'user' | 'system', options: Partial<UnitOptions>) => {
    const path = join(dir, `dfs-${scope}.service`)
    writeFileSync(path, unitText({ ...BASE, scope, command: [process.execPath, 'x'], ...options }))
    const { code, stdout, stderr } = await run('systemd-analyze', ['verify', '--man=no', `--${scope}`, path], { env: { PATH: process.env.PATH, XDG_RUNTIME_DIR: dir, HOME: dir } })
    // Of this unit: others of the machine may have their own faults.
    return { code, said: `${stdout}${stderr}`.split('\n').filter((line) => line.includes('dfs-')).join('\n') }
  }
  const limits = { memoryMaxBytes: 2 ** 29, cpuWeight: 1, ioWeight: 10_000, nice: 19 }
  for (const kind of ['open', 'shut'] as const) {
    t.is((await verify('system', { kind, limits, user: 'root', passphrase: { file: '/etc/dfs pass%', isEncrypted: false }, mount: '/mnt/dfs' })).said, '', `system, ${kind}`)
    t.is((await verify('user', { kind, limits })).said, '', `user, ${kind}`)
  }
  writeFileSync(join(dir, 'dfs-bad.service'), '[Service]\nExecStart=relative\nNonsense=1\n')
  t.not((await run('systemd-analyze', ['verify', '--man=no', join(dir, 'dfs-bad.service')])).code, 0, 'it would say so')
})

/** A datagram socket that prints what it gets, one line of JSON each. */
async function listen(t: { teardown(end: () => unknown, options?: object): void }): Promise<{ socket: string; heard: () => string[] }> {
  need(['python3', 'python3'], ['systemd-notify', 'systemd'])
  const socket = join(scratchDir(t), 'notify')
  const script = 'import socket,sys,json\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\ns.bind(sys.argv[1])\nwhile True: print(json.dumps(s.recv(9999).decode()),flush=True)'
  const child = spawn('python3', ['-c', script, socket], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'), { force: true })
  let text = ''
  child.stdout.setEncoding('utf8').on('data', (part: string) => (text += part))
  while (!existsSync(socket)) await sleep(10)
  return { socket, heard: () => text.split('\n').filter(Boolean).map((line) => JSON.parse(line) as string).filter((said) => said !== 'BARRIER=1') }
}

test('the manager hears in order that it is ready, how it goes, that it lives, and that it ends', LONG, async (t) => {
  const { socket, heard } = await listen(t)
  const faults: unknown[] = []
  const notifier = notifierOf({ NOTIFY_SOCKET: socket, WATCHDOG_USEC: '600000', WATCHDOG_PID: String(process.pid), PATH: process.env.PATH }, (e) => faults.push(e))!
  notifier.ready('serves')
  notifier.status('serves')
  notifier.status('serves two\nREADY=0')
  while (!heard().includes('WATCHDOG=1')) await sleep(20)
  notifier.stopping()
  notifier.status('too late')
  while (!heard().some((said) => said.startsWith('STOPPING=1'))) await sleep(20)
  const said = heard()
  t.is(said[0], 'READY=1\nSTATUS=serves')
  t.is(said[1], 'STATUS=serves two READY=0', 'said once, and in one line')
  t.ok(said.slice(2, -1).every((line) => line === 'WATCHDOG=1'))
  t.ok(said.at(-1)!.startsWith('STOPPING=1'))
  await sleep(500)
  t.is(heard().length, said.length, 'nothing after the end')
  t.alike(faults, [])
})

test('nobody is told where nobody listens; a watchdog of another process is not ours', LONG, async (t) => {
  t.is(notifierOf({}, () => {}), undefined)
  const { socket, heard } = await listen(t)
  const notifier = notifierOf({ NOTIFY_SOCKET: socket, WATCHDOG_USEC: '60000', WATCHDOG_PID: '1', PATH: process.env.PATH }, () => {})!
  notifier.ready('serves')
  await sleep(600)
  t.alike(heard(), ['READY=1\nSTATUS=serves'])
  const faults: unknown[] = []
  notifierOf({ NOTIFY_SOCKET: socket, PATH: '/nonexistent' }, (e) => faults.push(e))!.ready('x')
  while (faults.length === 0) await sleep(10)
  t.is((faults[0] as NodeJS.ErrnoException).code, 'ENOENT')
})

test('dfs serve --no-fork is the daemon itself, tells its manager, and ends well on SIGTERM', LONG, async (t) => {
  const { socket, heard } = await listen(t)
  const cli = makeCli(t)
  await cli.ok('create')
  const child = spawn(process.execPath, [DFS, '--store', cli.store, 'serve', '--no-fork', '--no-mount', '--discovery', 'none'], { env: { PATH: process.env.PATH, HOME: cli.dir, NOTIFY_SOCKET: socket }, stdio: 'ignore' })
  const ended = new Promise<number | null>((resolve) => child.once('exit', resolve))
  t.teardown(() => child.kill('SIGKILL'), { force: true })
  while (!heard().some((said) => said.startsWith('READY=1'))) await sleep(20)
  t.is((JSON.parse(await cli.ok('status', '--json')) as { pid: number }).pid, child.pid)
  t.ok((await cli.fails('mount', join(cli.dir, 'mnt')))[1].includes('--no-mount'))
  t.is((await cli.fails('serve', '--no-fork'))[0], 4)
  child.kill('SIGTERM')
  child.kill('SIGTERM')
  t.is(await ended, 0, 'also when it is asked twice')
  while (!heard().some((said) => said.startsWith('STOPPING=1'))) await sleep(20)
  t.is((await cli.dfs(['serve', '--no-fork', '-o', 'ro'])).code, 2)
  t.is((await cli.dfs(['--store', join(cli.dir, 'none'), 'serve', '--no-fork'])).code, 3)
})

test('a service of a device that has joined is ready when it has met another, and can be ended before', LONG, async (t) => {
  const { socket, heard } = await listen(t)
  const one = makeCli(t)
  const two = makeCli(t)
  await one.ok('create')
  await one.ok('mkdir', '/from-one')
  await one.serve()
  const portOf = async () => (JSON.parse(await one.ok('peers', '--json')) as { network: { port: number } | null }).network?.port
  let port: number | undefined
  while ((port = await portOf()) === undefined) await sleep(20)
  await two.ok('join', (await one.ok('key')).trim())
  const serve = (...args: string[]) => {
    const child = spawn(process.execPath, [DFS, '--store', two.store, 'serve', '--no-fork', '--discovery', 'none', ...args], { env: { PATH: process.env.PATH, HOME: two.dir, NOTIFY_SOCKET: socket }, stdio: ['ignore', 'ignore', 'pipe'] })
    t.teardown(() => child.kill('SIGKILL'), { force: true })
    return { child, ended: new Promise((resolve) => child.once('exit', (code, signal) => resolve(code ?? signal))) }
  }
  const early = serve()
  await new Promise((resolve) => early.child.stderr.once('data', resolve))
  early.child.kill('SIGTERM')
  t.is(await early.ended, 'SIGTERM', 'ended at once while it waits; systemd takes that for a clean end')
  t.alike(heard(), [])
  const late = serve('--peer', `127.0.0.1:${port}`)
  while (!heard().some((said) => said.startsWith('READY=1'))) await sleep(20)
  t.ok((await two.ok('ls')).includes('from-one'))
  late.child.kill('SIGTERM')
  t.is(await late.ended, 0)
})

test('a passphrase that the service manager hands over is found; another wins', (t) => {
  const dir = scratchDir(t)
  const at = (env: NodeJS.ProcessEnv) => loadConfig({ env, cwd: dir }).passphraseFile
  mkdirSync(join(dir, 'credentials'))
  t.is(at({ CREDENTIALS_DIRECTORY: join(dir, 'credentials') }), undefined)
  writeFileSync(join(dir, 'credentials/passphrase'), 'x')
  t.is(at({ CREDENTIALS_DIRECTORY: join(dir, 'credentials') }), join(dir, 'credentials/passphrase'))
  t.is(at({ CREDENTIALS_DIRECTORY: 'credentials' }), undefined, 'absolute, as systemd gives it')
  t.is(at({ CREDENTIALS_DIRECTORY: join(dir, 'credentials'), DFS_PASSPHRASE_FILE: '/other' }), '/other')
})

test('dfs service says what is wrong in one line, and prints without systemd', LONG, async (t) => {
  const cli = makeCli(t)
  const fails = (...args: string[]) => cli.fails('service', ...args)
  t.is((await fails('install', '--print'))[0], 3, 'no store')
  await cli.ok('create')
  const text = await cli.ok('service', 'install', '--print', '--user', '--mount', join(cli.dir, 'a mount'), '-o', 'ro,noatime', '--peer', '192.0.2.1:4977', '--port', '4977', '--cache', '20G')
  t.is(storeOfUnit(text), cli.store)
  const exec = parse(/^ExecStart=(.*)$/m.exec(text)![1]!)
  t.alike(exec.slice(-8), ['serve', '--no-fork', `--mount=${join(cli.dir, 'a mount')}`, '--options=ro,noatime', '--peer=192.0.2.1:4977', '--port=4977', '--discovery=none', '--cache=20G'],
    'discovery came from the environment')
  for (const bad of [['--memory-max', '64M'], ['--memory-max', 'x'], ['--cpu-weight', '0'], ['--io-weight', '10001'], ['--nice', '-5'], ['--nice', 'x'], ['--name', 'a/b'], ['-o', 'ro'], ['--cache', 'x'], ['--passphrase-credential', 'x']]) {
    t.is((await fails('install', '--print', '--user', ...bad))[0], 2, bad.join(' '))
  }
  t.is((await fails('install', '--print', '--user', '--mount', cli.dir, '-o', 'nonsense'))[0], 2)
  t.is((await cli.dfs(['service', 'install', '--user', '--system'])).code, 2)
  for (const action of ['status', 'logs', 'uninstall', 'start', 'stop', 'restart']) {
    const [code, message] = await fails(action, '--user')
    t.is(code, 3, action)
    t.ok(message.includes('dfs service install'), message)
  }
  t.is((await cli.dfs(['service', 'nonsense'])).code, 2)
})
