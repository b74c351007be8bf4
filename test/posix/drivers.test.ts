/**
 * What a program may expect of a mount, on both drivers. What fuse-native cannot do is listed in GAPS; a gap that
 * works all of a sudden fails the suite until it is taken off the list (and out of docs/fuse-native.md).
 */
import test, { type Assert } from 'brittle'
import { createHash, randomBytes } from 'node:crypto'
import { chmodSync, chownSync, closeSync, existsSync, linkSync, lstatSync, mkdirSync, mkdtempSync, openSync, readFileSync, readdirSync, readlinkSync, renameSync, rmSync, statSync, symlinkSync, truncateSync, unlinkSync, writeFileSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { isMounted, LET_GO } from '../helpers/mount.js'
import { compile, run, shell } from '../helpers/run.js'
import { ServedMount, type DriverName } from '../helpers/served-mount.js'

const NOBODY = 65534
const isRoot = process.getuid!() === 0

/** Name of a case -> why fuse-native fails it. */
const GAPS: Record<string, string> = {
  'rename without replacing': 'libfuse 2 knows no RENAME2',
  'rename that exchanges': 'libfuse 2 knows no RENAME2',
  'O_TMPFILE': 'libfuse 2 knows no TMPFILE',
  'fallocate: allocate, keep size, punch, zero': 'the package does not pass it on',
  'SEEK_DATA and SEEK_HOLE': 'libfuse 2 knows no LSEEK',
  'times to the nanosecond': 'the package passes milliseconds',
  'one time without the other': 'libfuse 2 asks only where both times change',
  'times before 1970': 'the package passes them unsigned',
  'access control lists': 'libfuse 2 does not tell the kernel to obey them, so they are refused',
  'names and targets that are no UTF-8': 'the package passes names as JavaScript strings',
  'an open file whose directory is removed': 'libfuse finds files by path',
  'what another user makes is theirs': 'the package does not say who asks',
}

interface Context {
  /** A fresh folder on the mount. */
  dir: string
  probe(scenario: string, args?: string[], as?: { uid: number; gid: number }): Promise<void>
  t: Assert
}
interface Case { name: string; rootOnly?: boolean; run(c: Context): Promise<void> | void }

function equal(actual: unknown, expected: unknown, what = ''): void {
  if (actual !== expected) throw new Error(`${what}: ${String(actual)} instead of ${String(expected)}`)
}

function sha(data: Buffer): string {
  return createHash('sha256').update(data).digest('hex')
}

const probed = (name: string, scenario: string, ...args: string[]): Case => ({ name, run: ({ probe, dir }) => probe(scenario, [dir, ...args]) })

const CASES: Case[] = [
  {
    name: 'create, write, append, truncate and holes',
    run({ dir }) {
      const path = join(dir, 'x')
      writeFileSync(path, 'hello')
      writeFileSync(path, ' world', { flag: 'a' })
      equal(readFileSync(path, 'utf8'), 'hello world')
      truncateSync(path, 4)
      truncateSync(path, 10_000)
      equal(readFileSync(path).equals(Buffer.concat([Buffer.from('hell'), Buffer.alloc(9996)])), true, 'zeros behind the old end')
      truncateSync(path, 0)
      equal(statSync(path).size, 0)
      writeFileSync(path, 'end', { flag: 'r+' })
      equal(readFileSync(path, 'utf8'), 'end')
    },
  },
  {
    name: 'a file of 24 MiB, whole and at random places',
    async run({ dir }) {
      const path = join(dir, 'big')
      const data = randomBytes(24 << 20)
      writeFileSync(path, data)
      for (let i = 0; i < 50; i++) {
        const piece = randomBytes(1 + Math.floor(Math.random() * 9000))
        const at = Math.floor(Math.random() * (data.length - piece.length))
        piece.copy(data, at)
        const fd = openSync(path, 'r+')
        writeSync(fd, piece, 0, piece.length, at)
        closeSync(fd)
      }
      equal(sha(readFileSync(path)), sha(data))
      await shell(`dd if=${path} iflag=nocache count=0 status=none; sync ${path}; dd if=${path} iflag=nocache count=0 status=none`)
      equal(sha(readFileSync(path)), sha(data), 'from the store')
    },
  },
  {
    name: 'a sparse copy is sparse',
    async run({ dir }) {
      await shell(`cd ${dir}; truncate -s 16M holes; printf end >>holes; cp --sparse=always holes copy; sync copy; cmp holes copy`)
      const { size, blocks } = statSync(join(dir, 'copy'))
      equal(size, (16 << 20) + 3)
      if (blocks * 512 > 4 << 20) throw new Error(`${blocks} blocks`)
    },
  },
  {
    name: 'rename over files and directories',
    run({ dir }) {
      const at = (name: string) => join(dir, name)
      writeFileSync(at('a'), 'a')
      writeFileSync(at('b'), 'b')
      const { ino } = statSync(at('a'))
      renameSync(at('a'), at('b'))
      equal(readFileSync(at('b'), 'utf8'), 'a')
      equal(statSync(at('b')).ino, ino, 'inode')
      mkdirSync(at('d/e'), { recursive: true })
      writeFileSync(at('d/e/f'), 'f')
      mkdirSync(at('empty'))
      renameSync(at('d'), at('empty'))
      equal(readFileSync(at('empty/e/f'), 'utf8'), 'f')
      renameSync(at('empty/e'), at('e'))
      equal(readFileSync(at('e/f'), 'utf8'), 'f')
      equal(readdirSync(dir).sort().join(), 'b,e,empty')
      equal(statSync(at('empty')).nlink, 2, 'links of a directory')
    },
  },
  probed('rename without replacing', 'noreplace'),
  probed('rename that exchanges', 'exchange'),
  probed('a replaced file lives while it is open', 'replaced'),
  probed('a file saved by rename is never missing', 'saves'),
  {
    name: 'hard links',
    run({ dir }) {
      const [a, b] = [join(dir, 'a'), join(dir, 'b')]
      writeFileSync(a, 'one')
      linkSync(a, b)
      equal(statSync(a).ino, statSync(b).ino, 'inode')
      equal(statSync(a).nlink, 2, 'nlink of the first')
      equal(statSync(b).nlink, 2, 'nlink of the second')
      writeFileSync(b, 'longer')
      equal(readFileSync(a, 'utf8'), 'longer')
      equal(statSync(a).size, 6)
      chmodSync(a, 0o600)
      equal(statSync(b).mode & 0o777, 0o600)
      unlinkSync(a)
      equal(statSync(b).nlink, 1, 'nlink of the last')
      equal(readFileSync(b, 'utf8'), 'longer')
    },
  },
  {
    name: 'symbolic links',
    run({ dir }) {
      const long = 'x/'.repeat(2047) + 'y'
      symlinkSync(long, join(dir, 'long'))
      equal(readlinkSync(join(dir, 'long')), long)
      equal(lstatSync(join(dir, 'long')).size, long.length)
      symlinkSync('ü', join(dir, 'to'))
      equal(existsSync(join(dir, 'to')), false)
      writeFileSync(join(dir, 'ü'), 'text')
      equal(readFileSync(join(dir, 'to'), 'utf8'), 'text')
    },
  },
  probed('fifo, socket and devices', 'nodes'),
  probed('bytes pass through a fifo', 'fifo'),
  {
    name: 'modes and umask',
    async run({ dir }) {
      const x = join(dir, 'x')
      writeFileSync(x, '')
      for (const mode of [0o7777, 0o4755, 0o2750, 0o1644, 0o000, 0o640]) {
        chmodSync(x, mode)
        equal(statSync(x).mode & 0o7777, mode)
      }
      await shell(`cd ${dir}; umask 027; touch f; mkdir d`)
      equal(statSync(join(dir, 'f')).mode & 0o7777, 0o640, 'file')
      equal(statSync(join(dir, 'd')).mode & 0o7777, 0o750, 'directory')
    },
  },
  {
    name: 'chown clears suid and sgid', rootOnly: true,
    run({ dir }) {
      const x = join(dir, 'x')
      writeFileSync(x, '')
      chmodSync(x, 0o6755)
      chownSync(x, 1234, 4_000_000_000)
      const { uid, gid, mode } = statSync(x)
      equal(`${uid}:${gid} ${(mode & 0o7777).toString(8)}`, '1234:4000000000 755')
      chownSync(x, 4_294_967_294, -1 >>> 0)
      equal(`${statSync(x).uid}:${statSync(x).gid}`, '4294967294:4000000000')
    },
  },
  probed('both times, to the millisecond', 'times', 'ms'),
  probed('times to the nanosecond', 'times', 'ns'),
  probed('one time without the other', 'one_time'),
  probed('times before 1970', 'time_range', '0'),
  probed('times after 2038 and 2106', 'time_range', '2'),
  {
    name: 'a directory knows when it changed',
    async run({ dir }) {
      const before = statSync(dir).mtimeMs
      await new Promise(resolve => setTimeout(resolve, 20))
      writeFileSync(join(dir, 'x'), '')
      const made = statSync(dir).mtimeMs
      if (made <= before) throw new Error('the mtime of the directory did not move')
      await new Promise(resolve => setTimeout(resolve, 20))
      const { ctimeMs } = statSync(join(dir, 'x'))
      chmodSync(join(dir, 'x'), 0o600)
      if (statSync(join(dir, 'x')).ctimeMs <= ctimeMs) throw new Error('chmod did not move the ctime')
      equal(statSync(dir).mtimeMs, made, 'after a chmod inside')
    },
  },
  probed('extended attributes', 'xattrs'),
  { ...probed('access control lists', 'acl'), rootOnly: true },
  {
    name: 'a listing of 10,000 entries while others come and go',
    async run({ dir, probe }) {
      const made = `${dir}/10000` // too much for `listing`
      mkdirSync(made)
      await shell(`cd ${made}; seq -f stays%.0f 0 9999 | xargs touch; seq -f goes%.0f 0 199 | xargs touch; seq -f moved%.0f 0 199 | xargs touch`)
      equal(readdirSync(made).length, 10_400)
      await probe('readdir', [made, '10000'])
    },
  },
  probed('unlinked files live while they are open', 'unlinked'),
  probed('an open file whose directory is removed', 'unlinked_dir'),
  probed('O_APPEND, O_EXCL, O_TRUNC, O_DIRECTORY, O_NOFOLLOW', 'flags'),
  probed('O_TMPFILE', 'tmpfile'),
  probed('fallocate: allocate, keep size, punch, zero', 'fallocate'),
  probed('posix_fallocate', 'posix_fallocate'),
  probed('SEEK_DATA and SEEK_HOLE', 'seek'),
  probed('copy_file_range', 'copy_range'),
  probed('mmap, shared and private', 'mmap'),
  probed('flock and fcntl locks', 'locks'),
  probed('fsync, fdatasync and sync of a directory', 'syncs'),
  probed('names of 255 bytes and of more', 'names'),
  probed('names and targets that are no UTF-8', 'bytes'),
  probed('errors', 'errors'),
  probed('a file past the limit', 'too_big'),
  probed('free space', 'space'),
  {
    name: 'access is denied to others', rootOnly: true,
    async run({ dir, probe }) {
      chmodSync(dir, 0o755)
      for (const [name, mode] of [['secret', 0o600], ['public', 0o644]] as const) {
        writeFileSync(join(dir, name), name)
        chmodSync(join(dir, name), mode)
      }
      mkdirSync(join(dir, 'closed'))
      chmodSync(join(dir, 'closed'), 0o700)
      await probe('denied', [dir], { uid: NOBODY, gid: NOBODY })
    },
  },
  {
    name: 'the sticky bit', rootOnly: true,
    async run({ dir, probe }) {
      chmodSync(dir, 0o1777)
      writeFileSync(join(dir, 'roots'), '')
      mkdirSync(join(dir, 'rootsdir'))
      await probe('sticky', [dir], { uid: NOBODY, gid: NOBODY })
    },
  },
  {
    name: 'what another user makes is theirs', rootOnly: true,
    async run({ dir, probe }) {
      chmodSync(dir, 0o777)
      await probe('owner', [dir], { uid: NOBODY, gid: NOBODY })
    },
  },
  {
    name: 'a write by others clears suid and sgid', rootOnly: true,
    async run({ dir, probe }) {
      chmodSync(dir, 0o755)
      writeFileSync(join(dir, 'x'), 'text')
      chmodSync(join(dir, 'x'), 0o6777)
      await probe('kills_suid', [join(dir, 'x')], { uid: NOBODY, gid: NOBODY })
    },
  },
  {
    name: 'a directory with sgid gives its group', rootOnly: true,
    run({ dir }) {
      chownSync(dir, 0, 4321)
      chmodSync(dir, 0o2775)
      writeFileSync(join(dir, 'x'), '')
      mkdirSync(join(dir, 'd'))
      equal(statSync(join(dir, 'x')).gid, 4321)
      equal(statSync(join(dir, 'd')).gid, 4321)
      equal(statSync(join(dir, 'd')).mode & 0o2000, 0o2000)
    },
  },
  {
    name: 'many processes at once',
    async run({ dir }) {
      await shell(`cd ${dir}; for p in 1 2 3 4 5 6 7 8; do (mkdir $p; for i in 1 2 3 4 5 6 7 8 9 10; do echo $p $i >$p/$i; mv $p/$i $p/n$i; cat $p/n$i >>$p/all; done) & done; wait`)
      for (let p = 1; p <= 8; p++) equal(readFileSync(join(dir, `${p}/all`), 'utf8').split('\n').length, 11, `process ${p}`)
    },
  },
]

/** A store, a mountpoint and a place for other files; all can be entered by other users. */
function scratch(t: Assert): { store: string; dir: string } {
  const top = mkdtempSync(join(tmpdir(), 'dfs-drivers-'))
  chmodSync(top, 0o755)
  const dir = join(top, 'mnt')
  mkdirSync(dir)
  t.teardown(() => rmSync(top, { recursive: true, force: true }), { order: Infinity, force: true })
  return { store: join(top, 'store'), dir }
}

const message = (e: unknown): string => (e instanceof Error ? e.message : String(e))

function suite(driver: DriverName): void {
  test(`${driver}: a mount does what programs expect`, { timeout: 100_000 }, async t => {
    const probe = compile('test/posix/probe.c')
    const { store, dir } = scratch(t)
    let mount = await ServedMount.start(t, { store, dir, driver })
    if (!isRoot) t.comment('not root: what concerns other users is left out')
    for (const [i, { name, run: act, rootOnly }] of CASES.entries()) {
      if (rootOnly && !isRoot) continue
      const folder = join(dir, `case-${i}`)
      const started = performance.now()
      let error: unknown
      try {
        mkdirSync(folder)
        await act({
          t, dir: folder,
          async probe(scenario, args = [folder], as) {
            const ran = await run(probe, [scenario, ...args], { ...as, timeoutMs: 25_000 })
            if (ran.code !== 0) throw new Error(ran.stdout.trim() || ran.signal || `exit code ${ran.code}`)
          },
        })
      } catch (e) {
        error = e
      }
      const tookMs = Math.round(performance.now() - started)
      const gap = driver === 'fuse-native' ? GAPS[name] : undefined
      const said = error ? message(error) : 'it works now: take it off the list'
      if (gap !== undefined) t.ok(error, `${name}: a known gap, ${gap} (${said})`)
      else if (error) t.fail(`${name}: ${said}`)
      else t.pass(`${name} (${tookMs} ms)`)
    }
    const before = await listing(dir)
    await mount.stop()
    t.absent(isMounted(dir), 'unmounted')
    mount = await ServedMount.start(t, { store, dir, driver })
    t.is(await listing(dir), before, 'all of it is there after unmounting and mounting again')
    t.absent(before.includes('.fuse_hidden'), 'nothing hidden is left behind')
    await mount.stop()
  })

  test(`${driver}: a mount whose process was killed is taken over`, async t => {
    const { store, dir } = scratch(t)
    const dead = await ServedMount.start(t, { store, dir, driver })
    await shell(`echo text >${dir}/x; sync ${dir}/x`)
    await dead.kill()
    t.ok(isMounted(dir), 'the dead mount is there')
    const mount = await ServedMount.start(t, { store, dir, driver })
    t.is(readFileSync(join(dir, 'x'), 'utf8'), 'text\n')
    await mount.stop()
    t.absent(isMounted(dir))
  })

  test(`${driver}: an unmount from outside ends it`, async t => {
    const { store, dir } = scratch(t)
    const mount = await ServedMount.start(t, { store, dir, driver })
    writeFileSync(join(dir, 'x'), 'text')
    await shell(`umount ${dir} || fusermount3 -u ${dir}`)
    t.is(await mount.ended, 0)
    const again = await ServedMount.start(t, { store, dir, driver })
    t.is(readFileSync(join(dir, 'x'), 'utf8'), 'text')
    await again.stop()
  })

  test(`${driver}: a mount in use is detached, and served until its users are gone`, async t => {
    const { store, dir } = scratch(t)
    const mount = await ServedMount.start(t, { store, dir, driver })
    // Its process unmounts lazily when it finds the mount busy.
    await shell(`exec 3>${dir}/x; echo one >&3; (sleep 0.5; echo two >&3) & wait`)
    const late = shell(`exec 3>>${dir}/x; echo ready >${store}.ready; sleep 1; echo three >&3`)
    while (!existsSync(`${store}.ready`)) await new Promise(resolve => setTimeout(resolve, 20))
    const stopped = mount.stop()
    await late
    await stopped
    const again = await ServedMount.start(t, { store, dir, driver })
    t.is(readFileSync(join(dir, 'x'), 'utf8'), 'one\ntwo\nthree\n')
    await again.stop()
  })

  test(`${driver}: -o ro`, async t => {
    const { store, dir } = scratch(t)
    const first = await ServedMount.start(t, { store, dir, driver })
    writeFileSync(join(dir, 'x'), 'text')
    await first.stop()
    const mount = await ServedMount.start(t, { store, dir, driver, options: 'ro,noexec' })
    t.is(readFileSync(join(dir, 'x'), 'utf8'), 'text')
    t.is(await refusal(() => writeFileSync(join(dir, 'y'), '')), 'EROFS')
    const options = readFileSync('/proc/self/mountinfo', 'utf8').split('\n').find(line => line.split(' ')[4] === dir)!
    for (const option of ['ro', 'noexec', 'nosuid', 'nodev', 'fuse.dfs', 'default_permissions']) t.ok(options.includes(option), option)
    await mount.stop()
  })

  test(`${driver}: a bad mountpoint is named`, async t => {
    const { store, dir } = scratch(t)
    const start = async (on: string, options = '') => message(await ServedMount.start(t, { store, dir: on, driver, options }).catch((e: unknown) => e))
    t.ok((await start(`${dir}/none`)).startsWith('MOUNTPOINT_MISSING'), 'missing')
    writeFileSync(`${store}.file`, '')
    t.ok((await start(`${store}.file`)).startsWith('MOUNTPOINT_BUSY'), 'not a directory')
    const mount = await ServedMount.start(t, { store, dir, driver })
    t.ok((await start(dir)).startsWith('STORE_LOCKED'), 'the same store')
    const other = scratch(t)
    t.ok(message(await ServedMount.start(t, { store: other.store, dir, driver }).catch((e: unknown) => e)).startsWith('MOUNTPOINT_BUSY'), 'a mount that lives')
    await mount.stop()
  })
}

test('fuse-native: options that it lacks are refused', async t => {
  const { store, dir } = scratch(t)
  for (const options of ['writeback', 'spin=10']) {
    const said = message(await ServedMount.start(t, { store, dir, driver: 'fuse-native', options }).catch((e: unknown) => e))
    t.ok(said.startsWith('USAGE') && said.includes('needs the driver kernel'), said)
  }
})

test('fuse-native: what is missing is named', { skip: !isRoot }, async t => {
  const { store, dir } = scratch(t)
  const child = fileURLToPath(new URL('../helpers/mount-child.js', import.meta.url))
  const without = (missing: string) => run('unshare', ['--mount', 'sh', '-ec', `${LET_GO}; mount --bind /dev/null "$1"; shift; exec "$@" </dev/null`, 'sh', missing, process.execPath, child, store, dir, 'fuse-native'], { timeoutMs: 20_000 })
  const library = (await shell("readlink -f \"$(ldconfig -p | sed -n 's/.*libfuse\\.so\\.2 .*=> //p' | head -n 1)\"")).trim()
  const said = (await without(library)).stdout
  t.ok(said.startsWith('FUSE_MISSING') && said.includes('libfuse2') && said.trim().split('\n').length === 1, said.trim())
  t.absent(isMounted(dir))
})

async function refusal(action: () => unknown): Promise<string> {
  try {
    await action()
    return 'nothing'
  } catch (e) {
    return (e as NodeJS.ErrnoException).code ?? message(e)
  }
}

/** Names, kinds, modes, owners, sizes, links, times and targets of all, and the sum of each file's bytes. */
async function listing(dir: string): Promise<string> {
  return shell(`cd ${dir}; find . -name 10000 -prune -o -printf '%p %y %m %U:%G %n %i %l %TY-%Tm-%Td %TT %s\\n' | grep -v '^\\./case-[0-9]* d\\|^\\. d' | sort; find . -name 10000 -prune -o -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum`)
}

suite('kernel')
suite('fuse-native')
