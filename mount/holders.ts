/** Who keeps a mount from being taken away. */
import { promises as fs } from 'node:fs'

export interface Holder {
  pid: number
  /** Its name, as ps(1) shows it: at most 15 bytes. */
  command: string
  /** How: its working directory, root, program, an open file, or a mapped one. */
  by: 'cwd' | 'root' | 'exe' | 'fd' | 'map'
  path: string
}

/**
 * The processes that hold a file under `dir` (resolved, as KernelMount.dir), one entry each. Only link targets and maps in
 * /proc are read: the mount itself may be dead, or our own. Processes of others are left out where /proc hides them.
 */
export async function whoHolds(dir: string): Promise<Holder[]> {
  const pids = (await fs.readdir('/proc')).filter(name => /^\d+$/.test(name)).map(Number)
  const holders = await Promise.all(pids.map(pid => holding(pid, dir)))
  return holders.filter(holder => holder !== undefined)
}

async function holding(pid: number, dir: string): Promise<Holder | undefined> {
  const inside = (path: string | undefined) => path !== undefined && (path === dir || path.startsWith(dir === '/' ? dir : `${dir}/`))
  const found = async (by: Holder['by'], path: string): Promise<Holder> =>
    ({ pid, by, path, command: (await fs.readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '?')).trim() })
  for (const by of ['cwd', 'root', 'exe'] as const) {
    const path = await target(`/proc/${pid}/${by}`)
    if (inside(path)) return found(by, path!)
  }
  for (const fd of await fs.readdir(`/proc/${pid}/fd`).catch(() => [])) {
    const path = await target(`/proc/${pid}/fd/${fd}`)
    if (inside(path)) return found('fd', path!)
  }
  for (const line of (await fs.readFile(`/proc/${pid}/maps`, 'utf8').catch(() => '')).split('\n')) {
    const slash = line.indexOf('/')
    if (slash >= 0 && inside(line.slice(slash))) return found('map', line.slice(slash))
  }
  return undefined
}

async function target(link: string): Promise<string | undefined> {
  return fs.readlink(link).catch(() => undefined)
}
