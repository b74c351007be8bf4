/**
 * A process that uses the mount until it breaks: writer.js DIR JOURNAL ID SEED
 * Everything goes through its journal. Ends with 0 when the file system is gone
 * from under it, with 1 on any other error.
 */
import { closeSync, existsSync, fsyncSync, ftruncateSync, linkSync, mkdirSync, openSync, renameSync, unlinkSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { random } from '../helpers/tree.js'
import { Journal } from './journal.js'
import { patternOf, type Change } from './pattern.js'

/** What a mount whose daemon was killed answers. */
const GONE = new Set(['ENOTCONN', 'ECONNABORTED', 'ECONNREFUSED', 'ENODEV', 'EIO'])
/** File numbers of one writer; more than it can make in a round. */
const FILES_PER_WRITER = 1_000_000
const MAX_FILE_BYTES = 1_500_000
/** Files kept open and growing at a time. */
const OPEN_FILES = 6

const [root, journalPath, idText, seedText] = process.argv.slice(2) as [string, string, string, string]
const id = Number(idText)
const rand = random(Number(seedText))
const journal = new Journal(journalPath)
const below = (n: number) => Math.floor(rand() * n)

interface OpenFile { file: number; path: string; fd: number; size: number; writes: number; overwrites: boolean }
let files = id * FILES_PER_WRITER
const folder = `w${id}`
const open: OpenFile[] = []
/** Names that this writer saves documents under. */
const documents = ['alpha', 'beta', 'gamma'].map((n) => `${folder}/${n}`)
const there = new Map<string, number>()

function create(path: string, overwrites: boolean): OpenFile {
  const file = files++
  const fd = journal.do({ op: 'create', file, path }, () => openSync(join(root, path), 'wx', 0o644))
  there.set(path, file)
  return { file, path, fd, size: 0, writes: 0, overwrites }
}

function change(f: OpenFile, c: Change): void {
  journal.do({ op: 'change', file: f.file, change: c }, () => {
    if (c.kind === 'truncate') return ftruncateSync(f.fd, c.size)
    const data = patternOf(f.file, c.write, c.offset, c.length)
    // The daemon may die between two requests of one write(2), which is then short.
    for (let at = 0; at < data.length;) at += writeSync(f.fd, data, at, data.length - at, c.offset + at)
  })
  f.size = c.kind === 'truncate' ? c.size : Math.max(f.size, c.offset + c.length)
}

function write(f: OpenFile): void {
  const length = 1 + (rand() < 0.5 ? below(300) : rand() < 0.7 ? below(20_000) : below(200_000))
  const offset = f.overwrites && rand() < 0.7 ? below(f.size + 1) : f.size
  change(f, { kind: 'write', write: f.writes++, offset, length })
}

const fsync = (f: OpenFile) => journal.do({ op: 'fsync', file: f.file }, () => fsyncSync(f.fd))

/** Write aside, mostly without an fsync, and rename over: the old document or the new, never an empty one. */
function save(): void {
  const to = documents[below(documents.length)]!
  const f = create(`${folder}/.tmp-${files}`, false)
  for (let n = 1 + below(4); n > 0; n--) write(f)
  if (rand() < 0.3) fsync(f)
  closeSync(f.fd)
  journal.do({ op: 'rename', file: f.file, from: f.path, to }, () => renameSync(join(root, f.path), join(root, to)))
  there.delete(f.path)
  there.set(to, f.file)
}

function grow(): void {
  if (open.length < OPEN_FILES) open.push(create(`${folder}/file-${files}`, rand() < 0.5))
  const i = below(open.length)
  const f = open[i]!
  write(f)
  const next = rand()
  if (next < 0.15) fsync(f)
  else if (next < 0.2 && f.overwrites) change(f, { kind: 'truncate', size: below(f.size * 1.2) })
  if (f.size > MAX_FILE_BYTES || rand() < 0.02) {
    closeSync(f.fd)
    open.splice(i, 1)
  }
}

function link(): void {
  const file = there.get(documents[0]!)
  if (file === undefined) return
  const to = `${folder}/link-${files}-${below(1e9)}`
  journal.do({ op: 'link', file, to }, () => linkSync(join(root, documents[0]!), join(root, to)))
  there.set(to, file)
}

function remove(): void {
  const names = [...there.keys()].filter((n) => !documents.includes(n) && !open.some((f) => f.path === n))
  const path = names[below(names.length)]
  if (path === undefined) return
  journal.do({ op: 'unlink', path }, () => unlinkSync(join(root, path)))
  there.delete(path)
}

function syncFolder(): void {
  const fd = openSync(join(root, folder), 'r')
  try {
    journal.do({ op: 'syncdir' }, () => fsyncSync(fd))
  } finally {
    closeSync(fd)
  }
}

try {
  if (!existsSync(join(root, folder))) mkdirSync(join(root, folder))
  syncFolder()
  for (;;) {
    const what = rand()
    if (what < 0.6) grow()
    else if (what < 0.85) save()
    else if (what < 0.9) link()
    else if (what < 0.96) remove()
    else syncFolder()
  }
} catch (e) {
  const { code } = e as NodeJS.ErrnoException
  if (code === undefined || !GONE.has(code)) {
    console.error(e)
    process.exit(1)
  }
}
