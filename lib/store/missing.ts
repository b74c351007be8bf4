/** Live chunks that are elsewhere and should be here. */
import { ELSEWHERE } from './chunks.js'
import type { Database } from './database.js'
import { PINNED } from './residents.js'

/** What should be here: everything; what the plan says; what is pinned; both. Of a device without pins only the first two can be asked. */
export type Owed = 'everything' | 'planned' | 'pinned' | 'planned or pinned'

const IS_PINNED = `num IN (SELECT num FROM chunk_use WHERE used >= ${PINNED})`
const WHERE: Record<Owed, string> = {
  everything: '',
  planned: 'AND num IN (SELECT num FROM lacking)',
  pinned: `AND ${IS_PINNED}`,
  'planned or pinned': `AND (num IN (SELECT num FROM lacking) OR ${IS_PINNED})`,
}

export function countMissing({ sql }: Database, owed: Owed): { chunks: number; bytes: number } {
  return sql.prepare(`SELECT count(*) AS chunks, ifnull(sum(len), 0) AS bytes FROM chunk WHERE seg = ${ELSEWHERE} AND refs > 0 ${WHERE[owed]}`).get() as { chunks: number; bytes: number }
}

/** Numbers of the first of them. */
export function listMissing({ sql }: Database, owed: Owed, limit: number): number[] {
  return sql.prepare(`SELECT num FROM chunk WHERE seg = ${ELSEWHERE} AND refs > 0 ${WHERE[owed]} ORDER BY num LIMIT ?`).pluck().all(limit) as number[]
}
