/** Programs that people use, on the mount: their own checks say whether it is a file system. */
import test from 'brittle'
import Database from 'better-sqlite3'
import { createHash, randomBytes } from 'node:crypto'
import { closeSync, fsyncSync, linkSync, mkdirSync, openSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { withMount } from '../helpers/mount.js'
import { compile, must, need, REPOSITORY, run } from '../helpers/run.js'
import { plantTree, TREE_SCRIPT_NEEDS } from './special-tree.js'

/** A hanging file system must end in a failure; no claim about speed. */
const timeout = 300_000

const GIT = {
  ...process.env, GIT_CONFIG_NOSYSTEM: '1', HOME: '/nonexistent', GIT_CONFIG_COUNT: '1', GIT_CONFIG_KEY_0: 'safe.directory', GIT_CONFIG_VALUE_0: '*',
  GIT_AUTHOR_NAME: 'test', GIT_AUTHOR_EMAIL: 'test@localhost', GIT_COMMITTER_NAME: 'test', GIT_COMMITTER_EMAIL: 'test@localhost',
}

test('git: clone, commit, gc and fsck of this repository', { timeout }, async (t) => {
  need(['git', 'git'])
  const mount = await withMount(t)
  const clone = join(mount.dir, 'clone')
  const git = (...args: string[]) => must('git', args, { cwd: clone, env: GIT })
  await must('git', ['clone', '-q', '--no-local', REPOSITORY, clone], { env: GIT })
  t.is(await git('status', '--porcelain'), '', 'a fresh clone is clean')
  for (let i = 0; i < 10; i++) {
    writeFileSync(join(clone, 'README.md'), `change ${i}\n`)
    mkdirSync(join(clone, `added-${i}`))
    for (let k = 0; k < 20; k++) writeFileSync(join(clone, `added-${i}`, `${k}.txt`), `${i} ${k}\n`.repeat(k))
    await git('add', '-A')
    await git('commit', '-qm', `change ${i}`)
  }
  await git('checkout', '-q', '-b', 'other', 'HEAD~5')
  await git('checkout', '-q', '-')
  await git('gc', '-q', '--prune=now')
  await mount.remount()
  await git('fsck', '--full', '--strict')
  t.is(await git('status', '--porcelain'), '', 'clean after gc and a new mount')
  t.is((await git('rev-list', '--count', 'HEAD')).trim(), String(Number((await must('git', ['rev-list', '--count', 'HEAD'], { cwd: REPOSITORY, env: GIT })).trim()) + 10))
})

test('rsync -aHAX there and back without a difference', { timeout }, async (t) => {
  need(['rsync', 'rsync'], ...TREE_SCRIPT_NEEDS)
  const mount = await withMount(t)
  const from = join(mount.scratch, 'from')
  const back = join(mount.scratch, 'back')
  await plantTree(from)
  await must('rsync', ['-aHAX', '--numeric-ids', `${from}/`, `${mount.dir}/tree/`])
  await mount.remount()
  t.is(await must('rsync', ['-aHAXnic', '--numeric-ids', '--delete', `${from}/`, `${mount.dir}/tree/`]), '', 'nothing to do in the mount')
  await must('rsync', ['-aHAX', '--numeric-ids', `${mount.dir}/tree/`, `${back}/`])
  t.is(await must('rsync', ['-aHAXnic', '--numeric-ids', '--delete', `${from}/`, `${back}/`]), '', 'nothing differs on the way back')
})

test('tar there and back with modes, owners, links, xattrs and times', { timeout }, async (t) => {
  need(['tar', 'tar'], ['rsync', 'rsync'], ...TREE_SCRIPT_NEEDS)
  const mount = await withMount(t)
  const from = join(mount.scratch, 'from')
  const back = join(mount.scratch, 'back')
  await plantTree(from)
  mkdirSync(back)
  mkdirSync(join(mount.dir, 'tree'))
  const pack = ['--format=posix', '--xattrs', '--xattrs-include=*', '--acls', '--numeric-owner', '--sort=name', '--pax-option=delete=atime,delete=ctime']
  const unpack = ['--xattrs', '--xattrs-include=*', '--acls', '--numeric-owner', '--same-owner', '-p']
  await must('tar', [...pack, '-cf', join(mount.scratch, 'a.tar'), '-C', from, '.'])
  await must('tar', [...unpack, '-xf', join(mount.scratch, 'a.tar'), '-C', join(mount.dir, 'tree')])
  await mount.remount()
  await must('tar', [...pack, '-cf', join(mount.dir, 'b.tar'), '-C', join(mount.dir, 'tree'), '.'])
  await must('tar', [...unpack, '-xf', join(mount.dir, 'b.tar'), '-C', back])
  t.is(await must('rsync', ['-aHAXnic', '--numeric-ids', '--delete', `${from}/`, `${back}/`]), '', 'nothing differs on the way back')
  const listing = async (dir: string) => (await must('find', ['.', '-printf', '%P %y %m %U:%G %l %T@', '(', '-type', 'd', '-printf', '\\0', '-o', '-printf', ' %n %s\\0', ')'], { cwd: dir })).split('\0').sort()
  const [wanted, got] = [await listing(from), await listing(join(mount.dir, 'tree'))]
  t.alike(got.filter((line) => !wanted.includes(line)), [], 'names, types, modes, owners, links, times to the nanosecond')
  t.is(got.length, wanted.length)
})

for (const journal of ['wal', 'delete']) {
  test(`SQLite in ${journal.toUpperCase()} mode under two processes keeps its integrity`, { timeout }, async (t) => {
    const mount = await withMount(t)
    const path = join(mount.dir, 'test.db')
    const rows = 150
    const db = new Database(path)
    db.pragma(`journal_mode = ${journal}`)
    db.exec(`CREATE TABLE item (writer TEXT, number INTEGER, data BLOB, PRIMARY KEY (writer, number)); CREATE INDEX by_size ON item (length(data));
             CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER); INSERT INTO account VALUES (1, 0), (2, 0)`)
    db.close()
    const child = fileURLToPath(new URL('sqlite-child.js', import.meta.url))
    await Promise.all(['one', 'two'].map((id) => must(process.execPath, [child, path, journal, id, String(rows)])))
    const check = (when: string) => {
      const reader = new Database(path)
      t.is(reader.pragma('integrity_check', { simple: true }), 'ok', `integrity ${when}`)
      t.is(reader.prepare('SELECT count(*) FROM item').pluck().get(), 2 * rows, `every row ${when}`)
      t.alike(reader.prepare('SELECT balance FROM account ORDER BY id').pluck().all(), [-2 * rows, 2 * rows], `no lost update ${when}`)
      reader.close()
    }
    check('while mounted')
    await mount.remount()
    check('in a new mount')
  })
}

test('make -j builds a C program, and only what changed', { timeout }, async (t) => {
  need(['make', 'make'], ['cc', 'gcc'])
  const mount = await withMount(t)
  const units = 24
  const dir = join(mount.dir, 'program')
  mkdirSync(dir)
  writeFileSync(join(dir, 'all.h'), Array.from({ length: units }, (_, i) => `int f${i}(int);`).join('\n'))
  for (let i = 0; i < units; i++) writeFileSync(join(dir, `f${i}.c`), `#include "all.h"\nint f${i}(int x) { return x + ${i}; }\n`)
  writeFileSync(join(dir, 'main.c'), `#include <stdio.h>\n#include "all.h"\nint main(void) { int x = 0;\n${Array.from({ length: units }, (_, i) => `x = f${i}(x);`).join('\n')}\nprintf("%d\\n", x); return 0; }\n`)
  writeFileSync(join(dir, 'Makefile'), `OBJECTS = main.o ${Array.from({ length: units }, (_, i) => `f${i}.o`).join(' ')}\nprogram: $(OBJECTS)\n\tcc -o $@ $^\n%.o: %.c all.h\n\tcc -c -o $@ $<\n`)
  await must('make', ['-j4', '-s'], { cwd: dir })
  t.is(await must(join(dir, 'program'), []), `${(units * (units - 1)) / 2}\n`)
  t.is((await run('make', ['-q'], { cwd: dir })).code, 0, 'nothing is left to do')
  writeFileSync(join(dir, 'f3.c'), '#include "all.h"\nint f3(int x) { return x + 1003; }\n')
  t.is(await must('make', ['-j4'], { cwd: dir }), 'cc -c -o f3.o f3.c\ncc -o program main.o ' + Array.from({ length: units }, (_, i) => `f${i}.o`).join(' ') + '\n')
  t.is(await must(join(dir, 'program'), []), `${(units * (units - 1)) / 2 + 1000}\n`)
})

test('the save dance of editors: write aside, fsync, keep a backup link, rename over', { timeout }, async (t) => {
  const mount = await withMount(t)
  const path = join(mount.dir, 'document.txt')
  const backup = join(mount.dir, 'document.txt~')
  writeFileSync(path, 'version 0\n')
  for (let version = 1; version <= 100; version++) {
    const text = `version ${version}\n`.repeat(version * 10)
    const aside = join(mount.dir, `.document.txt.${version}.swp`)
    const fd = openSync(aside, 'wx', 0o600)
    writeSync(fd, text)
    fsyncSync(fd)
    closeSync(fd)
    rmSync(backup, { force: true })
    linkSync(path, backup)
    renameSync(aside, path)
    const folder = openSync(mount.dir, 'r')
    fsyncSync(folder)
    closeSync(folder)
    if (readFileSync(path, 'utf8') !== text) t.fail(`version ${version} is not what was saved`)
  }
  await mount.remount()
  t.is(readFileSync(path, 'utf8'), 'version 100\n'.repeat(1000))
  t.is(readFileSync(backup, 'utf8'), 'version 99\n'.repeat(990))
  t.alike(readdirSync(mount.dir).sort(), ['document.txt', 'document.txt~'], 'no temporary file is left')
  t.is(statSync(path).nlink, 1)
})

test('two processes write one file through shared mappings', { timeout }, async (t) => {
  const program = compile('test/posix/mmap.c')
  const mount = await withMount(t)
  const path = join(mount.dir, 'mapped')
  await must(program, ['write', path, '1000', '42'])
  await must(program, ['check', path, '1000', '42'])
  await mount.remount()
  await must(program, ['check', path, '1000', '42'])
  t.pass('each page has both halves')
})

test('dd of 256 MiB of random data comes back the same from a new mount', { timeout }, async (t) => {
  need(['dd', 'coreutils'])
  const mount = await withMount(t)
  const data = Buffer.concat(Array.from({ length: 16 }, () => randomBytes(16 * 1024 * 1024)))
  await must('dd', [`of=${join(mount.dir, 'big')}`, 'bs=1M', 'iflag=fullblock', 'conv=fsync'], { input: data })
  await mount.remount()
  t.is((await must('sha256sum', [join(mount.dir, 'big')])).split(' ')[0], createHash('sha256').update(data).digest('hex'))
})
