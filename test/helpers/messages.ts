/** Arbitrary messages of the swarm, for fast-check. */
import fc from 'fast-check'
import { MAX_COPIES } from '../../lib/limits.js'
import { valueOf } from '../../lib/store/factor-table.js'
import {
  BYE_REASONS, MAX_ENTRY_BYTES, MAX_SNAPSHOT_CREDIT_BYTES, PIECE_KINDS, SNAPSHOT_REFUSALS, URGENCIES, type Message,
} from '../../lib/swarm/messages.js'

export const bytes = (min: number, max: number) => fc.uint8Array({ minLength: min, maxLength: max }).map((b) => Buffer.from(b))
const uint = fc.oneof(fc.nat(300), fc.maxSafeNat())
const seq = fc.oneof(fc.integer({ min: 1, max: 300 }), fc.maxSafeInteger().filter((n) => n >= 1 && n < Number.MAX_SAFE_INTEGER - 2000))
const name = { incarnation: bytes(16, 16), device: bytes(32, 32) }
const ids = fc.array(bytes(32, 32), { minLength: 1, maxLength: 20 })
const type = <T extends Message['type']>(t: T) => fc.constant(t)

const held = fc.record({ ...name, seq, back: uint, hash: bytes(32, 32) })
  .map(({ back, ...log }) => ({ ...log, first: Math.max(1, log.seq + 1 - back) }))
const entry = fc.record({ signed: bytes(65, 300), sealed: bytes(40, 300) })

export const anyMessage: fc.Arbitrary<Message> = fc.oneof(
  fc.record({ type: type('have'), isFull: fc.boolean(), logs: fc.array(held, { maxLength: 10 }) }),
  fc.record({ type: type('wantEntries'), request: seq, ...name, from: seq, more: fc.nat(1000), limitBytes: fc.integer({ min: 1, max: MAX_ENTRY_BYTES }) })
    .map(({ more, ...m }) => ({ ...m, to: m.from + more })),
  fc.record({ type: type('entries'), request: uint, ...name, from: seq, entries: fc.array(entry, { minLength: 1, maxLength: 5 }) }),
  fc.record({ type: type('entryPart'), request: seq, signedBytes: fc.integer({ min: 65, max: 300 }), sealedBytes: fc.integer({ min: 40, max: 300 }), offset: fc.constant(0) })
    .map((m) => ({ ...m, part: Buffer.alloc(m.signedBytes + m.sealedBytes, m.request) })),
  fc.record({ type: type('noEntries'), request: seq, needBytes: fc.integer({ min: 0, max: MAX_ENTRY_BYTES }) }),
  fc.record({ type: type('certificates'), certificates: fc.array(bytes(1, 200), { minLength: 1, maxLength: 5 }) }),
  fc.record({ type: type('forked'), ...name, one: bytes(65, 200), other: bytes(65, 200) }),
  fc.record({ type: fc.constantFrom('wantSnapshot' as const, 'snapshotCredit' as const), creditBytes: fc.integer({ min: 1, max: MAX_SNAPSHOT_CREDIT_BYTES }) }),
  fc.record({ type: type('snapshotBegin'), meta: bytes(0, 200), totalBytes: uint }),
  fc.record({ type: type('snapshotPiece'), kind: fc.constantFrom(...PIECE_KINDS), bytes: bytes(1, 300) }),
  fc.record({ type: type('snapshotEnd'), hash: bytes(32, 32), head: bytes(0, 200) }),
  fc.record({ type: type('snapshotRefused'), reason: fc.constantFrom(...SNAPSHOT_REFUSALS) }),
  fc.record({ type: type('snapshotCancel') }),
  fc.record({ type: type('wantChunks'), urgency: fc.constantFrom(...URGENCIES), ids }),
  fc.record({ type: type('hurryChunks'), urgency: fc.constantFrom(...URGENCIES), ids }),
  fc.record({ type: type('chunk'), id: bytes(32, 32), sealed: bytes(17, 400) }),
  fc.record({ type: fc.constantFrom('noChunks' as const, 'cancelChunks' as const), ids }),
  fc.record({ type: fc.constantFrom('haveChunks' as const, 'askChunks' as const), copies: fc.integer({ min: 0, max: MAX_COPIES }), ids }),
  fc.record({ type: type('askFactors'), hashes: bytes(2048, 2048) }),
  fc.record({ type: type('factors'), buckets: fc.array(fc.tuple(fc.nat(255), fc.array(fc.tuple(bytes(31, 31), fc.integer({ min: 1, max: MAX_COPIES }), fc.boolean()), { maxLength: 5 })).map(bucketOf), { maxLength: 5 }) }),
  fc.record({ type: type('challenge'), id: bytes(32, 32), nonce: bytes(32, 32) }),
  fc.record({ type: type('proof'), id: bytes(32, 32), mac: bytes(32, 32) }),
  fc.record({ type: type('status'), capacityBytes: uint, usedBytes: uint, owedBytes: uint, keepsEverything: fc.boolean(), plan: bytes(32, 32) }),
  fc.record({ type: type('plan'), plan: bytes(0, 200) }),
  fc.record({ type: type('report'), report: bytes(1, 200) }),
  fc.record({ type: type('askReleases'), ids }),
  fc.record({ type: type('releases'), logs: fc.array(fc.record({ ...name, seq }), { maxLength: 10 }), ids: fc.array(bytes(32, 32), { maxLength: 20 }) }),
  fc.record({ type: type('bye'), reason: fc.constantFrom(...BYE_REASONS) }),
)

/** Ids of one bucket, ascending, each once. */
function bucketOf([bucket, list]: [number, [Buffer, number, boolean][]]) {
  const byId = new Map(list.map(([rest, copies, isPlain]) => [rest.toString('hex'), { id: Buffer.concat([Buffer.from([bucket]), rest]), value: valueOf({ copies, isPlain }) }]))
  return { bucket, chunks: [...byId.values()].sort((a, b) => a.id.compare(b.id)) }
}
