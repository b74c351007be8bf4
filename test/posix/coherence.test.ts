/** What changes behind a mount's back is seen on it at once: by the command line, and through a second mount. */
import test from 'brittle'
import { existsSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync, appendFileSync, chmodSync, unlinkSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { sleep } from '../helpers/run.js'
import { makeMount } from '../helpers/mount.js'
import { scratchDir } from '../helpers/scratch.js'

test('the command line changes what a mount has cached', { timeout: 60_000 }, async (t) => {
  const m = await makeMount()
  t.teardown(() => m.close(), { force: true })
  const dfs = async (...args: string[]) => {
    const ran = await m.dfs(...args)
    if (ran.code !== 0) throw new Error(ran.stderr)
  }
  const host = join(scratchDir(t), 'host')
  const at = (name: string) => join(m.dir, name)
  for (const name of ['first', 'second', 'third']) writeFileSync(at(name), `${name} as it was`)
  // In the kernel's caches now: content, attributes, the listing, and names that are not there.
  for (const name of readdirSync(m.dir)) readFileSync(at(name))
  t.absent(existsSync(at('new')))
  t.absent(existsSync(at('moved')))

  await dfs('rm', '/first')
  t.absent(existsSync(at('first')), 'a deleted file is gone')
  writeFileSync(host, 'changed and longer than before')
  await dfs('put', host, '/second')
  t.is(readFileSync(at('second'), 'utf8'), 'changed and longer than before')
  await dfs('put', host, '/new')
  t.is(readFileSync(at('new'), 'utf8'), 'changed and longer than before', 'a name that was known to be missing is there')
  await dfs('mv', '/third', '/moved')
  t.is(readFileSync(at('moved'), 'utf8'), 'third as it was')
  t.absent(existsSync(at('third')))
  await dfs('mkdir', '/dir')
  t.alike(readdirSync(m.dir).sort(), ['dir', 'moved', 'new', 'second'])
})

test('two mounts of one drive show the same', { timeout: 60_000 }, async (t) => {
  const m = await makeMount()
  t.teardown(() => m.close(), { force: true })
  const other = join(scratchDir(t), 'other')
  mkdirSync(other)
  const mounted = await m.dfs('mount', other)
  t.is(mounted.code, 0, mounted.stderr)
  t.teardown(() => m.dfs('unmount', other), { force: true, order: -1 })
  const [a, b] = [m.dir, other]
  writeFileSync(join(a, 'f'), 'one')
  // Told by a thread of its own, right after the reply.
  const soon = async (is: () => boolean, what: string) => {
    for (let n = 0; n < 200 && !is(); n++) await sleep(20)
    t.ok(is(), what)
  }
  t.is(readFileSync(join(b, 'f'), 'utf8'), 'one')
  appendFileSync(join(a, 'f'), ' two')
  await soon(() => readFileSync(join(b, 'f'), 'utf8') === 'one two', 'appended content')
  chmodSync(join(b, 'f'), 0o600)
  await soon(() => (statSync(join(a, 'f')).mode & 0o777) === 0o600, 'a mode')
  t.absent(existsSync(join(b, 'g')))
  renameSync(join(a, 'f'), join(a, 'g'))
  await soon(() => existsSync(join(b, 'g')) && !existsSync(join(b, 'f')), 'a rename')
  t.alike(readdirSync(b), ['g'])
  unlinkSync(join(b, 'g'))
  await soon(() => !existsSync(join(a, 'g')), 'a deletion')
  t.alike(readdirSync(a), [])
})
