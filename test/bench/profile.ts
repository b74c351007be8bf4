/** CPU profiles of the daemon while a phase runs (profiler.ts does the recording), and where its time went. */
import { existsSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { sleep } from '../helpers/run.js'

const LINES = 25

interface CpuProfile {
  nodes: { id: number; callFrame: { functionName: string; url: string; lineNumber: number } }[]
  samples: number[]
  timeDeltas: number[]
}

/** Leaves DIR/NAME.cpuprofile (for a browser's developer tools) and DIR/NAME.txt (self time by function). */
export async function recordWhile<T>(pid: number, dir: string, name: string, action: () => Promise<T>): Promise<T> {
  for (const left of readdirSync(dir)) if (/^\d+\.cpuprofile/.test(left)) rmSync(join(dir, left))
  process.kill(pid, 'SIGUSR2')
  try {
    return await action()
  } finally {
    process.kill(pid, 'SIGUSR2')
    const written = () => readdirSync(dir).find((f) => /^\d+\.cpuprofile$/.test(f))
    for (let i = 0; i < 400 && !written(); i++) await sleep(25)
    const file = written()
    if (file) {
      renameSync(join(dir, file), join(dir, `${name}.cpuprofile`))
      writeFileSync(join(dir, `${name}.txt`), selfTimes(join(dir, `${name}.cpuprofile`)))
    } else if (existsSync(dir)) process.stderr.write(`no profile of ${name}: the daemon wrote none\n`)
  }
}

/** Self time by function, greatest first, as text. */
export function selfTimes(path: string): string {
  const profile = JSON.parse(readFileSync(path, 'utf8')) as CpuProfile
  const names = new Map(profile.nodes.map(({ id, callFrame: f }) => [id, `${f.functionName || '(anonymous)'} ${f.url.replace(/^.*\/(dist|node_modules)\//, '')}${f.url ? `:${f.lineNumber + 1}` : ''}`]))
  const self = new Map<string, number>()
  let total = 0
  profile.samples.forEach((id, i) => {
    const us = Math.max(0, profile.timeDeltas[i] ?? 0)
    self.set(names.get(id)!, (self.get(names.get(id)!) ?? 0) + us)
    total += us
  })
  const lines = [...self].sort((a, b) => b[1] - a[1]).slice(0, LINES)
  return [`${(total / 1000).toFixed(0)} ms`, ...lines.map(([name, us]) => `${((us / total) * 100).toFixed(1).padStart(5)} %  ${(us / 1000).toFixed(0).padStart(7)} ms  ${name}`)].join('\n') + '\n'
}
