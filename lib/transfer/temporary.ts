/**
 * Temporary names on the machine's own disks. Each says who builds there, so that
 * what a killed copy has left can be told from what a living one is building:
 *
 *   .dfs-copy-MACHINE-BOOT-NAMESPACE-PID-START-RANDOM
 *
 * The builder is certainly dead if it ran on this machine, in this boot and in our pid namespace, and no process has
 * that pid and start time; or in an earlier boot of this machine, on a disk that no other machine can be using.
 * All else is left alone. Nothing but what the user owns is looked at: a directory like /tmp is open to others.
 */
import { createHash, randomBytes } from 'node:crypto'
import { readFileSync, readlinkSync } from 'node:fs'
import * as fs from 'node:fs/promises'
import type { Path } from '../api.js'
import { TEMPORARY } from '../store/unfinished.js'

/** f_type of statfs(2): ext, xfs, btrfs, f2fs, tmpfs, zfs, bcachefs. Not overlay: what is below may be anything. */
const LOCAL = new Set([0xef53, 0x58465342, 0x9123683e, 0xf2f52010, 0x01021994, 0x2fc12fc1, 0xca451a4e])
const FORM = /^\.dfs-copy-([0-9a-f]{8})-([0-9a-f]{8})-(\d+)-(\d+)-(\d+)-[0-9a-f]{16}$/

export interface Builder { machine: string; boot: string; namespace: string; pid: number; start: string }

/** This process; undefined where the system does not say (no /proc). */
export function ourselves(): Builder | undefined {
  try {
    const machine = readFileSync('/etc/machine-id', 'latin1').trim()
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim()
    const namespace = /\d+/.exec(readlinkSync('/proc/self/ns/pid'))![0]
    const start = startOf(process.pid)
    return machine && start ? { machine: short(machine), boot: short(boot), namespace, pid: process.pid, start } : undefined
  } catch {
    return undefined
  }
}

export function temporaryName(builder: Builder | undefined): string {
  const random = randomBytes(8).toString('hex')
  if (!builder) return TEMPORARY + random
  const { machine, boot, namespace, pid, start } = builder
  return `${TEMPORARY}${machine}-${boot}-${namespace}-${pid}-${start}-${random}`
}

/** Whether who built under this name can be no more; `isLocal`: the disk is this machine's alone. */
export function isDead(name: string, us: Builder, isLocal: boolean): boolean {
  const [, machine, boot, namespace, pid, start] = FORM.exec(name) ?? []
  if (machine !== us.machine) return false
  if (boot !== us.boot) return isLocal
  if (namespace !== us.namespace) return false
  try {
    process.kill(Number(pid), 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH'
  }
  const now = startOf(Number(pid))
  return now !== undefined && now !== start
}

/** Removes what dead copies have left in `directory`. Never throws: a copy can go on without. */
export async function clearDead(directory: Path, remove: (path: Buffer) => Promise<void>): Promise<void> {
  const us = ourselves()
  if (!us) return
  try {
    const found = (await fs.readdir(directory, { encoding: 'buffer' })).filter((name) => name.subarray(0, TEMPORARY.length).equals(Buffer.from(TEMPORARY)))
    if (found.length === 0) return
    const isLocal = LOCAL.has((await fs.statfs(directory)).type)
    for (const name of found) {
      const path = Buffer.concat([Buffer.from(directory), Buffer.from('/'), name])
      if (!isDead(name.toString('latin1'), us, isLocal) || (await fs.lstat(path)).uid !== process.geteuid?.()) continue
      await remove(path).catch(() => {})
    }
  } catch {
    // It cannot be listed, or has gone.
  }
}

/** Clock ticks since boot, field 22 of proc(5) stat; undefined if the process cannot be looked at. */
function startOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]
  } catch {
    return undefined
  }
}

function short(text: string): string {
  return createHash('sha256').update(`dfs ${text}`).digest('hex').slice(0, 8)
}
