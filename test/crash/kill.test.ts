/** A short run of the kill loop, and the checker itself on what a plain directory holds. */
import test from 'brittle'
import { spawn } from 'node:child_process'
import { appendFileSync, existsSync, mkdirSync, readFileSync, readdirSync, renameSync, statSync, truncateSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { scratchDir } from '../helpers/scratch.js'
import { withMount } from '../helpers/mount.js'
import { sleep } from '../helpers/run.js'
import { readJournal, type Line } from './journal.js'
import { killLoop } from './loop.js'
import { verify } from './verify.js'

test('after kill -9 under load the mount recovers, fsck is clean and every promise is kept', { timeout: 600_000 }, async (t) => {
  const mount = await withMount(t)
  const report = await killLoop(mount, { kills: 8, seed: 1, writers: 3, maxLifeMs: 1500 })
  t.alike(report.problems, [])
  t.comment(`${report.kills} kills, ${report.files} files, ${report.bytes} bytes, ${report.fsyncs} fsyncs`)
  t.ok(report.fsyncs > 0 && report.files > 0, 'there was something to lose')
})

/** A writer's folder on a plain directory, as a machine whose daemon never fails would leave it. */
async function written(dir: string): Promise<{ journal: Line[]; path: string }> {
  const path = join(dir, 'journal')
  const root = join(dir, 'root')
  mkdirSync(root)
  const writer = spawn(process.execPath, [fileURLToPath(new URL('writer.js', import.meta.url)), root, path, '0', '7'], { stdio: 'inherit' })
  const ended = new Promise((resolve) => writer.on('close', resolve))
  const enough = () => existsSync(path) && readFileSync(path, 'utf8').split('"syncdir"').length > 12
  while (!enough()) await sleep(20)
  writer.kill('SIGKILL')
  await ended
  return { journal: readJournal(path), path: root }
}

test('the checker accepts what was written, and sees each way to break it', { timeout: 120_000 }, async (t) => {
  // A run that left no file of some size behind its last fsync of the folder shows nothing.
  let journal: Awaited<ReturnType<typeof written>>['journal'], path: string, durable: string | undefined
  const check = () => verify(path, 'w0', journal).problems
  do {
    ({ journal, path } = await written(scratchDir(t)))
    t.alike(check(), [])
    // Cut off there: all that is left must be there as it is.
    journal.splice(journal.findLastIndex((l) => l.op === 'syncdir' && l.at === 'done') + 1)
    durable = readdirSync(join(path, 'w0')).find((name) => check().every((p) => !p.includes(name)) && statSync(join(path, 'w0', name)).size > 100)
  } while (durable === undefined)
  const file = join(path, 'w0', durable)
  const content = readFileSync(file)
  const sees = (what: string, pattern: RegExp, harm: () => void, mend: () => void) => {
    const before = check()
    harm()
    t.ok(check().some((p) => pattern.test(p) && !before.includes(p)), what)
    mend()
    t.alike(check(), before, `${what}, mended`)
  }
  sees('a lost last byte', /no state|changes/, () => truncateSync(file, content.length - 1), () => writeFileSync(file, content))
  sees('an empty file', /changes|no state/, () => truncateSync(file, 0), () => writeFileSync(file, content))
  sees('zeros', /zeros/, () => writeFileSync(file, Buffer.concat([content.subarray(0, 50), Buffer.alloc(content.length - 50)])), () => writeFileSync(file, content))
  sees('bytes that nobody wrote', /no state/, () => appendFileSync(file, 'x'), () => writeFileSync(file, content))
  sees('a missing file', /is missing/, () => unlinkSync(file), () => writeFileSync(file, content))
  sees('a name that should not be there', /should not be there/, () => writeFileSync(join(path, 'w0', 'extra'), ''), () => unlinkSync(join(path, 'w0', 'extra')))
  sees('a file under another name', /is missing/, () => renameSync(file, `${file}-moved`), () => renameSync(`${file}-moved`, file))
})
