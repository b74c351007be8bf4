/**
 * What travels between the pool and its workers. Numbers go as typed arrays and
 * bytes in shared memory, so that a message costs the same for one chunk as for
 * a thousand.
 */
import type { WorkerKeys } from '../keys/derive.js'
import type { DfsErrorCode } from '../errors.js'

export interface WorkerSetup { keys: WorkerKeys }

export type Job =
  /** runs: start, length pairs. */
  | { type: 'cut'; id: number; arena: SharedArrayBuffer; runs: Uint32Array; average: number }
  /** chunks: start, length pairs in arena; h: 32 bytes each. Sealed bytes go to out from outStart on, each after `gap` bytes left alone, then ids (32 bytes each). */
  | { type: 'seal'; id: number; arena: SharedArrayBuffer; chunks: Uint32Array; h: Uint8Array; out: SharedArrayBuffer; outStart: number; gap: number }
  /** reads: offset in the file, plain length, from, to. Whole pieces go to `into` from intoStart on, if there is room for them. */
  | { type: 'open'; id: number; path: string; reads: Float64Array; h: Uint8Array; into?: SharedArrayBuffer; intoStart: number; room: number }

/** Not answered. */
export type Notice = { type: 'forget'; path: string }

export type Answer =
  | { id: number; chunks: Uint32Array; h: Uint8Array }
  | { id: number; sealed: true }
  /** plain: wanted ranges one after another in whole pieces, unless they went into `into`; at: start of each wanted range in it. */
  | { id: number; plain: Uint8Array | null; at: Uint32Array }
  | { id: number; error: { code: DfsErrorCode | undefined; message: string } }
