/** How far each log is known or seen: incarnation (local index) to seq. */
import { Reader, Writer } from './codec.js'

export type Vector = Map<number, number>

/** Whether `vector` holds all of `other`. */
export function holds(vector: ReadonlyMap<number, number>, other: ReadonlyMap<number, number>): boolean {
  for (const [inc, seq] of other) if ((vector.get(inc) ?? 0) < seq) return false
  return true
}

export function encodeVector(v: ReadonlyMap<number, number>): Buffer {
  const w = new Writer(16 + v.size * 12)
  w.uint(v.size)
  for (const [inc, seq] of v) { w.uint(inc); w.uint(seq) }
  return w.take()
}

export function decodeVector(b: Buffer): Vector {
  const r = new Reader(b)
  const v: Vector = new Map()
  for (let n = r.uint(); n > 0; n--) v.set(r.uint(), r.uint())
  return v
}
