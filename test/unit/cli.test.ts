import test from 'brittle'
import { randomBytes } from 'node:crypto'
import { spawn } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { COMMANDS } from '../../bin/commands/index.js'
import { EXIT_TEXT } from '../../bin/exit-codes.js'
import { Drive } from '../../lib/drive.js'
import { DFS, makeCli } from '../helpers/cli.js'
import { must, REPOSITORY } from '../helpers/run.js'

const LONG = { timeout: 120_000 }
/** Where no terminal says how many it has. */
const HELP_COLUMNS = 100

/** A line that ends within a sentence though its next word has room. */
function brokenEarly(text: string): string | undefined {
  const lines = text.split('\n')
  return lines.slice(0, -1).find((line, i) => /[^.:]$/.test(line) && line.length + 1 + lines[i + 1]!.split(' ')[0]!.length <= HELP_COLUMNS)
}

test('help teaches: every command has examples', LONG, async (t) => {
  const cli = makeCli(t)
  const help = await cli.ok('--help')
  for (const { name } of COMMANDS) {
    t.ok(help.includes(`\n  ${name} `), `${name} is listed`)
    const own = await cli.ok(name, '--help')
    t.ok(own.includes('Examples:') && own.includes(`dfs ${name}`), `${name} --help has examples`)
    t.absent(brokenEarly(own.slice(own.indexOf('\n\n') + 2, own.indexOf('\n\nOptions:'))), `${name} --help fills its lines`)
  }
  t.ok(help.includes(EXIT_TEXT))
  t.is((await cli.ok('--version')).trim(), (JSON.parse(readFileSync(join(REPOSITORY, 'package.json'), 'utf8')) as { version: string }).version)
})

test('the README names every command and exit code', (t) => {
  const readme = readFileSync(join(REPOSITORY, 'README.md'), 'utf8')
  for (const { name } of COMMANDS) t.ok(readme.includes(`dfs ${name}`), name)
  for (const [, code] of EXIT_TEXT.matchAll(/^ {2}(\d+) /gm)) t.ok(readme.includes(`| ${code} |`), `exit code ${code}`)
})

test('wrong usage is one line and exit code 2', LONG, async (t) => {
  const cli = makeCli(t)
  t.is((await cli.dfs([])).code, 2)
  t.alike(await cli.fails('nope'), [2, "unknown command 'nope'; see dfs --help"])
  t.alike(await cli.fails('ls', '--nope'), [2, "unknown option '--nope'; see dfs ls --help"])
  for (const args of [['mount'], ['put'], ['put', 'x'], ['mv', 'x'], ['get', 'x'], ['mkdir'], ['sync', 'x'], ['completion', 'tcsh'], ['create', '--order', 'none'],
    ['mount', '--driver', 'none', 'x'], ['--store', '', 'ls'], ['key', '--read-only', '--storage'], ['put', '-', 'x', '/y']]) {
    t.is((await cli.fails(...args))[0], 2, args.join(' '))
  }
  t.absent(existsSync(cli.store), 'nothing was made')
})

test('without a store: exit code 3, and what to do', LONG, async (t) => {
  const cli = makeCli(t)
  for (const args of [['ls'], ['status'], ['key'], ['fsck'], ['serve'], ['stop'], ['unmount', 'x']]) {
    const [code, message] = await cli.fails(...args)
    t.is(code, 3, args[0])
    t.ok(message.includes(';'), message)
  }
  t.absent(existsSync(cli.store))
})

test('create: once, with a name, for its user alone', LONG, async (t) => {
  const cli = makeCli(t)
  const made = JSON.parse(await cli.ok('create', '--name', 'family', '--json')) as Record<string, unknown>
  t.alike([made.name, made.store, made.order, made.hasPassphrase], ['family', cli.store, 'causal', false])
  t.is(statSync(cli.store).mode & 0o777, 0o700)
  for (const name of readdirSync(cli.store)) t.is(statSync(join(cli.store, name)).mode & 0o077, 0, name)
  const [code, message] = await cli.fails('create')
  t.is(code, 1)
  t.ok(message.includes('already'), message)
  const { stdout } = await cli.dfs(['--store', join(cli.dir, 'second'), 'create'], { env: { NODE_ID: 'laptop' } })
  t.ok(stdout.includes('whoever can read that directory can read the drive'), 'says where the key lies')
  const status = JSON.parse(await cli.ok('--store', join(cli.dir, 'second'), 'status', '--json')) as { deviceName: string }
  t.is(status.deviceName, 'laptop')
})

test('a passphrase: from a file, from standard input, wrong, or none to be had', LONG, async (t) => {
  const cli = makeCli(t)
  const file = (name: string, text: string) => {
    writeFileSync(join(cli.dir, name), text)
    return join(cli.dir, name)
  }
  const right = file('right', 'open sesame\n')
  const wrong = file('wrong', 'open barley\n')
  await cli.ok('--passphrase-file', right, 'create')
  await cli.ok('--passphrase-file', right, 'mkdir', '/d')
  t.is((await cli.dfs(['--passphrase-file', '-', 'ls'], { input: 'open sesame\n' })).stdout, 'd\n')
  t.is((await cli.dfs(['ls'], { env: { DFS_PASSPHRASE_FILE: right } })).stdout, 'd\n')
  t.is((await cli.fails('--passphrase-file', wrong, 'ls'))[0], 6)
  t.is((await cli.fails('--passphrase-file', join(cli.dir, 'none'), 'ls'))[0], 6)
  const { code, stderr } = await cli.dfs(['ls'])
  t.is(code, 6, stderr)
})

test('status and key, for people and for programs', LONG, async (t) => {
  const cli = makeCli(t)
  await cli.ok('create', '--name', 'n')
  const status = JSON.parse(await cli.ok('status', '--json')) as Record<string, unknown>
  for (const field of ['pid', 'drive', 'device', 'store', 'mountpoints', 'peers', 'chunks', 'disk', 'dirtyBytes', 'daemon']) t.ok(field in status, field)
  t.alike([status.store, status.daemon, status.mountpoints], [cli.store, false, []])
  const text = await cli.ok('status')
  t.ok(text.includes(`store:        ${cli.store}`) && text.includes('not running'), text)
  const root = JSON.parse(await cli.ok('status', '--json', '/')) as Record<string, unknown>
  t.alike([root.path, root.type, root.mode], ['/', 'directory', '0755'])
  const key = (await cli.ok('key')).trim()
  t.ok(/^dfs1-[a-z0-9]+$/.test(key))
  const weaker = JSON.parse(await cli.ok('key', '--read-only', '--json')) as { kind: string; key: string }
  t.is(weaker.kind, 'read-only')
  t.not(weaker.key, key)
  t.not((await cli.ok('key', '--storage')).trim(), weaker.key)
})

for (const withDaemon of [false, true]) {
  test(`files there and back, ${withDaemon ? 'through the daemon' : 'without a daemon'}`, LONG, async (t) => {
    const cli = makeCli(t)
    await cli.ok('create')
    if (withDaemon) await cli.serve()
    t.is((JSON.parse(await cli.ok('status', '--json')) as { daemon: boolean }).daemon, withDaemon)
    const tree = join(cli.dir, 'tree')
    mkdirSync(join(tree, 'sub'), { recursive: true })
    writeFileSync(join(tree, 'sub/large'), randomBytes(2_500_000))
    writeFileSync(join(tree, 'script'), '#!/bin/sh\n')
    chmodSync(join(tree, 'script'), 0o755)
    symlinkSync('sub/large', join(tree, 'link'))
    utimesSync(join(tree, 'script'), 1e9, 1e9)

    t.is(await cli.ok('put', '-r', tree, '/'), '')
    t.is(await cli.ok('ls'), 'tree\n')
    t.is(await cli.ok('ls', '/tree'), 'link\nscript\nsub\n')
    t.ok(/^-rwxr-xr-x +1 .* 10 Sep {2}9 {2}2001 script$/m.test(await cli.ok('ls', '-l', '/tree')), 'ls -l')
    t.ok((await cli.ok('ls', '-l', '/tree')).includes('link -> sub/large\n'))
    t.is(await cli.ok('ls', '-R', '/'), '/:\ntree\n\n/tree:\nlink\nscript\nsub\n\n/tree/sub:\nlarge\n')
    const lines = (await cli.ok('ls', '-R', '--json')).trimEnd().split('\n').map((l) => JSON.parse(l) as Record<string, unknown>)
    t.alike(lines.map((l) => [l.path, l.type]), [['/tree', 'directory'], ['/tree/link', 'symlink'], ['/tree/script', 'file'], ['/tree/sub', 'directory'], ['/tree/sub/large', 'file']])
    t.is(lines[1]!.target, 'sub/large')

    const report = JSON.parse(await cli.ok('get', '-r', '--json', '/tree', join(cli.dir, 'back'))) as Record<string, unknown>
    t.alike(report, { files: 2, directories: 2, symlinks: 1, bytes: 2_500_010, skipped: 0 })
    t.is(await must('rsync', ['-naic', '--delete', `${tree}/`, `${join(cli.dir, 'back')}/`]), '')
    t.is(await cli.ok('cat', '/tree/script', '/tree/script'), '#!/bin/sh\n#!/bin/sh\n')
    t.is(await cli.ok('get', '/tree/script', '-'), '#!/bin/sh\n')
    t.is((await cli.dfs(['put', '-', '/from-stdin'], { input: 'piped' })).code, 0)
    t.is(await cli.ok('cat', 'from-stdin'), 'piped')

    await cli.ok('mkdir', '-p', '/a/b/c')
    await cli.ok('mv', '/from-stdin', '/tree/script', '/a/b')
    t.is(await cli.ok('ls', '/a/b'), 'c\nfrom-stdin\nscript\n')
    await cli.ok('mv', '/a/b/c', '/a/d')
    t.is(await cli.ok('ls', '/a'), 'b\nd\n')
    await cli.ok('sync')
    t.alike((JSON.parse(await cli.ok('fsck', '--data', '--json')) as { problems: unknown[] }).problems, [])
    t.ok('bytesFreed' in (JSON.parse(await cli.ok('gc', '--json')) as object))

    t.alike(await cli.fails('ls', '/none'), [3, '/none: no such file or directory'])
    t.is((await cli.fails('cat', '/none'))[0], 3)
    t.is((await cli.fails('rm', '/none'))[0], 3)
    await cli.ok('rm', '-f', '/none')
    const [code, message] = await cli.fails('rm', '/a')
    t.is(code, 1)
    t.ok(message.includes('-r'), message)
    t.is((await cli.fails('rm', '-r', '/'))[0], 4)
    await cli.ok('rm', '-r', '/a', '/tree')
    t.is(await cli.ok('ls'), '')
  })
}

test('a store that something else holds: exit code 4, naming it', LONG, async (t) => {
  const cli = makeCli(t)
  const drive = await Drive.create(cli.store)
  t.teardown(() => drive.close(), { force: true })
  const [code, message] = await cli.fails('ls')
  t.is(code, 4)
  t.ok(message.includes(`process ${process.pid}`), message)
  t.is((await cli.fails('serve'))[0], 4)
})

test('a command waits for the one before it', LONG, async (t) => {
  const cli = makeCli(t)
  await cli.ok('create')
  await Promise.all(['/a', '/b', '/c', '/d'].map((d) => cli.ok('mkdir', d)))
  t.is(await cli.ok('ls'), 'a\nb\nc\nd\n')
})

test('the daemon: one of each store, stopped by command', LONG, async (t) => {
  const cli = makeCli(t)
  await cli.ok('create')
  await cli.serve()
  const [code, message] = await cli.fails('serve')
  t.is(code, 4)
  t.ok(message.includes('runs already'), message)
  t.is(statSync(join(cli.store, 'control.sock')).mode & 0o777, 0o600)
  await cli.ok('stop')
  t.absent(existsSync(join(cli.store, 'control.sock')))
  t.is(await cli.ok('ls'), '', 'the store is free at once')
})

test('the passphrase of a daemon is on no command line and in no environment', LONG, async (t) => {
  const cli = makeCli(t)
  const secret = `secret-${randomBytes(8).toString('hex')}`
  writeFileSync(join(cli.dir, 'p'), secret)
  writeFileSync(join(cli.dir, '.env'), 'DFS_PASSPHRASE_FILE=p\n')
  await cli.ok('create')
  await cli.serve()
  rmSync(join(cli.dir, 'p'))
  t.is(await cli.ok('ls'), '', 'the daemon needs it no more')
  const { pid } = JSON.parse(await cli.ok('status', '--json')) as { pid: number }
  for (const file of ['cmdline', 'environ']) t.absent(readFileSync(`/proc/${pid}/${file}`).includes(secret), file)
  t.absent(readFileSync(join(cli.store, 'daemon.log')).includes(secret))
})

for (const withDaemon of [false, true]) {
  test(`ctrl-C in the middle of put leaves nothing, ${withDaemon ? 'through the daemon' : 'without a daemon'}`, LONG, async (t) => {
    const cli = makeCli(t)
    await cli.ok('create')
    if (withDaemon) await cli.serve()
    const child = spawn(process.execPath, [DFS, 'put', '-', '/big'], { env: { ...process.env, DFS_STORE: cli.store }, stdio: ['pipe', 'ignore', 'pipe'] })
    child.stdin.on('error', () => {})
    // Far more than a pipe holds: it has been read.
    await new Promise((resolve) => child.stdin.write(randomBytes(3_000_000), resolve))
    child.kill('SIGINT')
    t.is(await new Promise((resolve) => child.once('exit', resolve)), 130)
    t.is(await cli.ok('ls'), '')
  })
}

test('a reader that goes away ends a command', LONG, async (t) => {
  const cli = makeCli(t)
  await cli.ok('create')
  const big = join(cli.dir, 'big')
  writeFileSync(big, randomBytes(8_000_000))
  await cli.ok('put', big, '/big')
  const text = await must('/bin/bash', ['-c', `"${process.execPath}" "${DFS}" cat /big | head -c 10 | wc -c; echo "\${PIPESTATUS[0]}"`], { env: { ...process.env, DFS_STORE: cli.store } })
  t.is(text, '10\n141\n')
})

test('names with control characters and beyond UTF-8', LONG, async (t) => {
  const cli = makeCli(t)
  const drive = await Drive.create(cli.store)
  await drive.mkdir(Buffer.from([0xff, 0x41]))
  await drive.mkdir('\u001b[31mred')
  await drive.close()
  const lines = (await cli.ok('ls', '--json')).trimEnd().split('\n').map((l) => JSON.parse(l) as { name: string; nameBase64?: string })
  t.alike(lines.map((l) => l.nameBase64 ?? l.name), ['\u001b[31mred', Buffer.from([0xff, 0x41]).toString('base64')])
  const [, message] = await cli.fails('cat', '/\u001b[31mnone')
  t.absent(message.includes('\u001b'), 'errors do not obey names')
})

test('replication of a directory; what a device that joins offers', { timeout: 60_000 }, async (t) => {
  const cli = makeCli(t)
  await cli.ok('create')
  await cli.ok('mkdir', '/dir')
  // It says that there are not so many devices yet.
  for (const args of [['2'], ['3', '--dir', '/dir']]) t.is((await cli.dfs(['config', 'set', 'replication', ...args])).code, 0)
  t.is((await cli.ok('config', 'get', 'replication', '--dir', '/dir')).trim(), '3')
  t.is((await cli.ok('config', 'get', 'replication')).trim(), '2')
  const key = JSON.parse(await cli.ok('key', '--json')) as { key: string }
  await cli.ok('--store', join(cli.dir, 'joined'), 'join', key.key, '--capacity', '50G', '--zone', 'attic')
  t.is((await cli.fails('--store', join(cli.dir, 'other'), 'join', key.key, '--capacity', 'much'))[0], 2)
})
