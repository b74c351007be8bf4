/** What is measured: a plain directory, a dfs mount, gocryptfs, or any folder by name. All stay mounted through the run. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { makeMount } from '../helpers/mount.js'
import { hasProgram, must, REPOSITORY, run } from '../helpers/run.js'

export interface Target {
  name: string
  /** Where the phases work. */
  dir: string
  /** The daemon's process id, where it can be profiled. */
  pid?: number
  close(): Promise<void>
}

/** `parent`: a folder on the disk that all targets end up on. `profileDir`: record the dfs daemon (profiler.ts) into it. */
export async function openTarget(name: string, parent: string, profileDir?: string): Promise<Target> {
  const [label, folder] = name.split('=') as [string, string | undefined]
  if (folder) return directory(label, resolve(folder))
  if (name === 'ext4' || name === 'plain') return directory(name, parent)
  if (name === 'dfs') return dfsMount(parent, profileDir)
  if (name === 'gocryptfs') return gocryptfs(parent)
  throw new Error(`no target '${name}': ext4, dfs, gocryptfs, or NAME=DIR`)
}

/** Targets of a plain run: gocryptfs where it is installed. */
export const defaultTargets = (): string[] => ['ext4', 'dfs', ...(hasProgram('gocryptfs') ? ['gocryptfs'] : [])]

function directory(name: string, parent: string): Target {
  const dir = mkdtempSync(join(parent, 'dfs-bench-'))
  return { name, dir, close: async () => rmSync(dir, { recursive: true, force: true }) }
}

async function dfsMount(parent: string, profileDir: string | undefined): Promise<Target> {
  const profiler = pathToFileURL(join(REPOSITORY, 'dist/test/bench/profiler.js')).href
  const mount = await makeMount({ parent, ...(profileDir ? { env: { NODE_OPTIONS: `--import ${profiler}`, BENCH_PROFILE_DIR: profileDir } } : {}) })
  return { name: 'dfs', dir: mount.dir, pid: await mount.pid(), close: () => mount.close() }
}

async function gocryptfs(parent: string): Promise<Target> {
  const scratch = mkdtempSync(join(parent, 'dfs-bench-'))
  const [cipher, dir, password] = ['cipher', 'mnt', 'password'].map((n) => join(scratch, n)) as [string, string, string]
  mkdirSync(cipher)
  mkdirSync(dir)
  writeFileSync(password, 'bench\n')
  // The cost of the password is no part of any phase.
  await must('gocryptfs', ['-init', '-q', '-scryptn', '10', '-passfile', password, cipher])
  await must('gocryptfs', ['-q', '-passfile', password, cipher, dir])
  return {
    name: 'gocryptfs',
    dir,
    close: async () => {
      if ((await run('umount', [dir])).code !== 0) await must('fusermount3', ['-uz', dir])
      rmSync(scratch, { recursive: true, force: true })
    },
  }
}
