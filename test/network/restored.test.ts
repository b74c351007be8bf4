/** A store that is put back to a backup, as a user would: what was written since is with others, and comes back first. */
import test, { type Assert } from 'brittle'
import { randomBytes } from 'node:crypto'
import { rmSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { freePort } from '../bench/sync-pairs.js'
import { closeMembers, Member, until } from '../helpers/member.js'
import { must } from '../helpers/run.js'
import { scratchDir } from '../helpers/scratch.js'

const LONG = { timeout: 300_000 }

async function pair(t: Assert): Promise<[Member, Member]> {
  t.teardown(closeMembers, { force: true, order: 2 })
  const parent = scratchDir(t)
  const [a, b] = [new Member('a', parent, { port: await freePort() }), new Member('b', parent, { port: await freePort() })]
  await a.mount()
  await b.join(await a.key(), '--peer', a.address)
  await b.mount()
  return [a, b]
}

test('a store from a backup: programs wait until what was written since is back, and the device goes on as a new incarnation', LONG, async (t) => {
  const [a, b] = await pair(t)
  await writeFile(b.at('before'), 'before')
  await until('a has it', async () => (await readFile(a.at('before'), 'utf8').catch(() => '')) === 'before')
  await b.unmount()
  await must('cp', ['-a', b.store, `${b.store}-backup`])
  await b.mount()
  const since = randomBytes(300_000)
  await writeFile(b.at('since'), since)
  await writeFile(b.at('before'), 'changed since')
  await until('a has all', async () => (await readFile(a.at('since')).catch(() => Buffer.alloc(0))).equals(since) && (await readFile(a.at('before'), 'utf8')) === 'changed since')

  await b.kill()
  await must('umount', ['-l', b.dir])
  rmSync(b.store, { recursive: true })
  await must('cp', ['-a', `${b.store}-backup`, b.store])
  await b.mount()
  // At once, as a program does that begins with the machine.
  await writeFile(b.at('after'), 'after')
  t.is(await readFile(b.at('before'), 'utf8'), 'changed since', 'it was written after what has come back')
  t.ok((await readFile(b.at('since'))).equals(since))
  await until('a has what was written after', async () => (await readFile(a.at('after'), 'utf8').catch(() => '')) === 'after')
  t.ok(b.log.includes('goes on as a new incarnation'))
  t.absent(a.log.includes('two histories') || b.log.includes('two histories'), 'there is one history')
  t.is(await a.listing(), await b.listing())
  await b.unmount()
  await b.mount()
  t.is(await readFile(b.at('after'), 'utf8'), 'after')
})

test('a store that was copied, with nobody to ask: programs wait no longer than that takes', LONG, async (t) => {
  const [a, b] = await pair(t)
  await writeFile(b.at('one'), 'one')
  await b.unmount()
  await a.unmount()
  await must('mv', [b.store, `${b.store}-old`])
  await must('cp', ['-a', `${b.store}-old`, b.store])
  await b.mount()
  t.is(await readFile(b.at('one'), 'utf8'), 'one', 'what is here is read meanwhile')
  await writeFile(b.at('two'), 'two')
  t.is(await readFile(b.at('two'), 'utf8'), 'two')
})
