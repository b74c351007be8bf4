/** Mounting and unmounting: errors, dead mounts, ordinary users, who is in the way. */
import test from 'brittle'
import { spawn } from 'node:child_process'
import { promises as fs } from 'node:fs'
import { join } from 'node:path'
import { isDfsError } from '../../lib/errors.js'
import { whoHolds } from '../../mount/holders.js'
import { mountKernel } from '../../mount/kernel/mount.js'
import { parseMountOptions } from '../../mount/options.js'
import { MemFs } from '../helpers/memfs.js'
import { asNobody, ended, mountInChild, mountpoint, shell, withMemMount } from '../helpers/memmount.js'

const NOBODY = 65534

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(() => 'no error', error => (isDfsError(error) ? error.code : String(error)))
}

test('a mountpoint must be there, be a directory, and carry no living mount', async t => {
  const { dir } = await withMemMount(t)
  const operations = new MemFs()
  const free = await mountpoint(t)
  t.is(await codeOf(mountKernel({ dir: join(free, 'none'), operations })), 'MOUNTPOINT_MISSING')
  t.is(await codeOf(mountKernel({ dir: '/etc/passwd', operations })), 'MOUNTPOINT_BUSY')
  t.is(await codeOf(mountKernel({ dir, operations })), 'MOUNTPOINT_BUSY')
})

test('a file system that cannot start leaves no mount', async t => {
  const dir = await mountpoint(t)
  const operations = new MemFs()
  operations.init = () => { throw new Error('cannot start') }
  await t.exception(mountKernel({ dir, operations }), /cannot start/)
  t.is((await shell('grep -c " $1 " /proc/self/mountinfo || true', dir)).trim(), '0')
  t.alike(await fs.readdir(dir), [])
})

test('a mount in use says so, names the holder, and can be detached', async t => {
  const { dir, memfs, mount } = await withMemMount(t)
  await fs.mkdir(join(dir, 'in here'))
  const child = spawn('sh', ['-c', 'cd "$1" && echo in && exec sleep 60', 'sh', join(dir, 'in here')], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => ended(child, 'SIGKILL'), { order: 1, force: true })
  await new Promise(resolve => child.stdout.once('data', resolve))
  t.is(await codeOf(mount.unmount()), 'MOUNTPOINT_BUSY')
  const holders = await whoHolds(dir)
  t.alike(holders.map(({ pid, by }) => ({ pid, by })), [{ pid: child.pid, by: 'cwd' }])
  await mount.unmount({ lazy: true })
  t.absent(memfs.destroyed, 'the holder is still served')
  await ended(child, 'SIGTERM')
  await mount.closed
  t.ok(memfs.destroyed)
})

test('the session moves towards a program that asks a lot, and stays free to run anywhere', async t => {
  const dir = await mountpoint(t)
  const { child } = await mountInChild(t, dir)
  const allowed = async (path: string) => /^Cpus_allowed_list:\s*(\S+)$/m.exec(await fs.readFile(path, 'utf8'))![1]
  const free = await allowed('/proc/self/status')
  await shell('cd "$1" && stat $(seq 500) 2> /dev/null || true', dir)
  const tasks = `/proc/${child.pid}/task`
  const bound = (await Promise.all((await fs.readdir(tasks)).map(async id => [Number(id), await allowed(`${tasks}/${id}/status`)] as const))).filter(([, list]) => list !== free)
  t.absent(bound.some(([id]) => id === child.pid), 'the session is not bound')
  t.ok(bound.length <= 1, 'only the thread that keeps the other processor awake is')
})

test('a mount whose daemon was killed is taken away by the next', async t => {
  const dir = await mountpoint(t)
  const { child, said } = await mountInChild(t, dir)
  t.is(said, 'mounted')
  await fs.writeFile(join(dir, 'x'), 'x')
  await ended(child, 'SIGKILL')
  t.is(await fs.stat(dir).then(() => '', (error: NodeJS.ErrnoException) => error.code), 'ENOTCONN')
  const next = await mountInChild(t, dir)
  t.is(next.said, 'mounted')
  t.alike(await fs.readdir(dir), [])
  await ended(next.child, 'SIGTERM')
  t.is((await shell('grep -c " $1 " /proc/self/mountinfo || true', dir)).trim(), '0')
})

test('a second daemon on a living mount is refused', async t => {
  const dir = await mountpoint(t)
  await mountInChild(t, dir)
  t.ok((await mountInChild(t, dir)).said.startsWith('MOUNTPOINT_BUSY: '))
})

test('an ordinary user mounts with fusermount3, recovers a dead mount and unmounts', async t => {
  const dir = await mountpoint(t)
  await fs.chown(dir, NOBODY, NOBODY)
  const nobody = await asNobody(t)
  const first = await mountInChild(t, dir, '', nobody)
  t.is(first.said, 'mounted')
  await ended(first.child, 'SIGKILL')
  const { child, said } = await mountInChild(t, dir, '', nobody)
  t.is(said, 'mounted')
  t.is((await shell('dir=$1; shift; "$@" sh -c "echo mine > $dir/f; cat $dir/f"', dir, ...nobody)).trim(), 'mine')
  const asRoot = nobody.slice(0, 2)
  t.ok(/Permission denied/.test(await shell('dir=$1; shift; "$@" ls $dir 2>&1 || true', dir, ...asRoot)), 'others stay out, root too')
  await ended(child, 'SIGTERM')
  t.is(child.exitCode, 0)
  t.is(await shell('dir=$1; shift; "$@" grep $dir /proc/self/mountinfo || true', dir, ...asRoot), '')
})

test('an ordinary user is told when the directory is not his', async t => {
  const dir = await mountpoint(t)
  const nobody = await asNobody(t)
  t.ok((await mountInChild(t, dir, '', nobody)).said.startsWith('MOUNT_DENIED: '), 'cannot be entered')
  await fs.chmod(dir, 0o755)
  t.ok((await mountInChild(t, dir, '', nobody)).said.startsWith('MOUNT_DENIED: '), 'cannot be written')
})

test('options: a list, the later wins, unknown ones are refused', async t => {
  t.alike(parseMountOptions('ro,suid,readahead=64', 0), { ...parseMountOptions([], 0), readOnly: true, suid: true, readahead: 64 })
  t.is(parseMountOptions(['suid', 'nosuid'], 0).suid, false)
  t.is(parseMountOptions('', 1000).allowOther, false)
  for (const bad of ['acks=17', 'acks=x', 'readahead', 'readahead=x', 'ro=1', 'idmap', 'idmap=maybe']) {
    t.is(await codeOf((async () => parseMountOptions(bad))()), 'USAGE', bad)
  }
})

test('ro, noexec and nosuid hold', async t => {
  const { dir, memfs } = await withMemMount(t, parseMountOptions('ro,noexec', 0))
  memfs.put(1, 'f', Buffer.from('#!/bin/sh\n'))
  await t.exception(fs.writeFile(join(dir, 'x'), ''), /EROFS/)
  const options = await shell('grep " $1 " /proc/self/mountinfo', dir)
  t.ok(/ro,nosuid,nodev,noexec/.test(options), options)
})

test('the kernel reads ahead as far as asked', async t => {
  const { dir } = await withMemMount(t, parseMountOptions('readahead=512', 0))
  const device = (await shell('grep " $1 " /proc/self/mountinfo', dir)).split(' ')[2]!
  t.is((await fs.readFile(`/sys/class/bdi/${device}/read_ahead_kb`, 'utf8')).trim(), '512')
})
