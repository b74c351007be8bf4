/**
 * Which chunks nobody needs any more, for devices that keep them without reading
 * the tree. docs/decisions/027-releases.md says why that holds elsewhere too.
 */
import type { FlushEngine } from './file/flush.js'
import type { Metadata } from './metadata.js'
import type { ChunkTable } from './store/chunks.js'
import { MAX_HAVE_LOGS, type AppliedLog } from './swarm/messages.js'

export interface DeadParts {
  metadata: Metadata
  chunks: ChunkTable
  flusher: Pick<FlushEngine, 'pinned'>
  canWrite: boolean
}

export interface DeadChunks {
  /** What is applied here of each log. */
  logs: AppliedLog[]
  ids: Buffer[]
}

/**
 * Those of `ids` to which nothing refers: no file, nothing that may be taken back, nothing that was and is kept. undefined: this
 * device cannot say, since what it has is about to be replaced or to change places.
 */
export function deadChunks({ metadata, chunks, flusher, canWrite }: DeadParts, ids: Buffer[]): DeadChunks | undefined {
  const { journal, engine, own, newcomers, log, tree } = metadata
  if (!canWrite || journal.stopped || !engine.revises || own.isHeld || own.isCatchingUp || newcomers.isBeginning || metadata.isGivenUp || metadata.mustBeginAnew !== undefined) return undefined
  const applied = [...engine.has()].filter(([, seq]) => seq > 0)
  if (applied.length === 0 || applied.length > MAX_HAVE_LOGS) return undefined
  // What is counted is as of now.
  tree.rows.flush()
  journal.touched('derived')
  return {
    logs: applied.map(([inc, seq]) => ({ incarnation: log.incarnationId(inc), device: log.deviceOf(inc), seq })),
    ids: ids.filter((id) => {
      const num = chunks.findById(id)
      return num === 0 || (chunks.identity(num)!.refs === 0 && !flusher.pinned.has(num))
    }),
  }
}
