/**
 * Every message that two devices of a drive exchange after the handshake: its
 * fields, its limits, what it means and who sends it when. docs/protocol.md
 * tells the same in prose; lib/swarm/wire.ts turns them into bytes and back.
 *
 * A link delivers whole messages, each at most once. It has two lanes: 'now' (small
 * things, and what somebody waits for) overtakes 'bulk'. Order is kept within a
 * lane only, so no message may rely on one sent in the other lane before it.
 */
import { MAX_CHUNK_BYTES, MAX_ENTRY_OPS_BYTES } from '../limits.js'
import { sealedLength } from '../seal/chunk.js'
import { OPS_OVERHEAD_BYTES, SIGNATURE_BYTES } from '../seal/entry.js'

/** Names a peer to the host: one live link to one device. Its device's id in hex, say; opaque here. */
export type Peer = string

/**
 * Names a log. The device is part of the name: who claims another's incarnation
 * names a log of his own, which only he can sign.
 */
export interface LogName {
  /** 16 bytes. */
  incarnation: Buffer
  /** 32 bytes: the public key that signs the entries. */
  device: Buffer
}

/** What a device holds, durably, of one log. */
export interface HeldLog extends LogName {
  /** Oldest entry that it can still serve; seq + 1 if none. */
  first: number
  /** The last one; 1 or more. */
  seq: number
  /** 32 bytes: hash of entry `seq`. Two devices that name another hash for one seq have seen a fork. */
  hash: Buffer
}

/** One entry as it is stored: opaque here, verified by the host. */
export interface SignedEntry {
  /** Header and signature, lib/log/entry.ts. */
  signed: Buffer
  /** The sealed ops. */
  sealed: Buffer
}

// --- limits; all are part of the protocol ---

export const INCARNATION_BYTES = 16
export const DEVICE_BYTES = 32
export const ID_BYTES = 32
export const HASH_BYTES = 32
export const NONCE_BYTES = 32

/** Logs in one `have`: 130 KiB at most, so that it never holds up what somebody waits for. More go into further messages. */
export const MAX_HAVE_LOGS = 1024
/** Logs of one peer that are remembered, about 1 MiB: a drive has one for each device and each of its lost tails. */
export const MAX_PEER_LOGS = 4096
/**
 * Header and signature of one entry. The ids of its chunks are its bulk: 32 bytes for each
 * at least 65 of its ops, so half of MAX_ENTRY_OPS_BYTES; the rest is incarnations and context.
 */
export const MAX_SIGNED_HEADER_BYTES = MAX_ENTRY_OPS_BYTES
/** A signature and something signed. */
export const MIN_SIGNED_HEADER_BYTES = SIGNATURE_BYTES + 1
export const MAX_SEALED_OPS_BYTES = MAX_ENTRY_OPS_BYTES + OPS_OVERHEAD_BYTES
export const MIN_SEALED_OPS_BYTES = OPS_OVERHEAD_BYTES
/** The largest entry there can be. */
export const MAX_ENTRY_BYTES = MAX_SIGNED_HEADER_BYTES + MAX_SEALED_OPS_BYTES
/** Entries in one message: bounds what decoding allocates beside the bytes themselves. */
export const MAX_ENTRIES = 1024
/** Entries in one message add up to at most so many bytes, so that they fit a message of a link. A larger entry goes in parts. */
export const MAX_ENTRIES_BYTES = 1024 * 1024
/** Of an entry that goes in parts. */
export const MAX_PART_BYTES = 512 * 1024
/** A header in a proof of a fork: two fit a message. Larger ones (25,000 chunks in one entry) are not spread; each device then finds the fork by itself. */
export const MAX_FORKED_HEADER_BYTES = 768 * 1024
/** A device certificate is a few hundred bytes; a lot of room for later fields. */
export const MAX_CERTIFICATE_BYTES = 4096
/** Certificates in one message: 1 MiB at most. More go into further messages. */
export const MAX_CERTIFICATES = 256
/** What describes a snapshot: up to MAX_PEER_LOGS logs, 140 bytes each, a certificate and a signature. */
export const MAX_SNAPSHOT_META_BYTES = 1024 * 1024
/** A piece of a snapshot: long enough to be efficient, short enough that it is sent in some milliseconds. */
export const MAX_SNAPSHOT_PIECE_BYTES = 512 * 1024
/** Credit that can be outstanding: a sender never has more than this under way. */
export const MAX_SNAPSHOT_CREDIT_BYTES = 16 * 1024 * 1024
/** Ids in one message: 32 KiB. */
export const MAX_IDS = 1024
/** A chunk of MAX_CHUNK_BYTES with its tags. */
export const MAX_SEALED_CHUNK_BYTES = sealedLength(MAX_CHUNK_BYTES)
/** One byte of plaintext and a tag. */
export const MIN_SEALED_CHUNK_BYTES = sealedLength(1)
// No message is longer than MAX_MESSAGE_BYTES of lib/limits.ts, what a link carries; `forked` comes nearest.

// --- logs: lib/swarm/sync.ts ---

/**
 * What the sender holds durably. At connect `isFull` (everything that was said
 * before is forgotten) and, if there are more than MAX_HAVE_LOGS, further ones
 * that add to it; then, whenever something became durable, the logs that changed.
 * To the author of a log it is the receipt for its entries.
 */
export interface Have { type: 'have'; isFull: boolean; logs: HeldLog[] }

/**
 * Asks for entries from..to. The answer is one `entries` with a beginning of the
 * range of at most `limitBytes` (signed and sealed bytes added up) and MAX_ENTRIES_BYTES; or,
 * if entry `from` alone takes more than MAX_ENTRIES_BYTES, that one in `entryPart`s; or one `noEntries`.
 */
export interface WantEntries extends LogName {
  type: 'wantEntries'
  /** Chosen by the asker, 1 or more; repeated in the answer. */
  request: number
  from: number
  to: number
  limitBytes: number
}

/** Entries from, from + 1, ... of one log; at least one. As an answer, or pushed by their author to everybody when they became durable. */
export interface Entries extends LogName {
  type: 'entries'
  /** 0: pushed. */
  request: number
  from: number
  entries: SignedEntry[]
}

/** A part of entry `from` of a request: bytes from `offset` of signed || sealed. In order, each of MAX_PART_BYTES except the last. */
export interface EntryPart {
  type: 'entryPart'
  request: number
  signedBytes: number
  sealedBytes: number
  offset: number
  part: Buffer
}

/** The answer when there is nothing to send. */
export interface NoEntries {
  type: 'noEntries'
  request: number
  /** 0: the sender does not hold entry `from`. Otherwise entry `from` alone takes so many bytes: ask again with room for them. */
  needBytes: number
}

/** Device certificates, signed by the drive's authority; at connect all, then new ones. Entries of a device count only after its certificate. */
export interface Certificates { type: 'certificates'; certificates: Buffer[] }

/**
 * Proof that a log was forked: two headers, signed by its device, that cannot be of one chain: of one seq but different,
 * or `other` is the next one and names another hash for `one`. To everybody who is connected, and at connect.
 */
export interface Forked extends LogName { type: 'forked'; one: Buffer; other: Buffer }

// --- snapshots: lib/swarm/snapshot.ts ---

/** Asks for a snapshot; the sender of it may send `creditBytes` of pieces. A second one starts anew. */
export interface WantSnapshot { type: 'wantSnapshot'; creditBytes: number }
/** `meta`: SnapshotMeta of lib/snapshot.ts, opaque here. `totalBytes` of pieces, about, for showing progress. */
export interface SnapshotBegin { type: 'snapshotBegin'; meta: Buffer; totalBytes: number }
/** The next piece. */
export interface SnapshotPiece { type: 'snapshotPiece'; kind: PieceKind; bytes: Buffer }
/** More may be sent: the receiver has worked off so much. */
export interface SnapshotCredit { type: 'snapshotCredit'; creditBytes: number }
/** All pieces were sent. `hash`: BLAKE3 over kind u8 || length u32 le || bytes of each. `head`: the signed head (lib/log/snapshot-head.ts), or nothing if `meta` had it. */
export interface SnapshotEnd { type: 'snapshotEnd'; hash: Buffer; head: Buffer }
/** From the sender of the snapshot: it will not, or cannot go on. */
export interface SnapshotRefused { type: 'snapshotRefused'; reason: SnapshotRefusal }
/** From the receiver: it wants no more of it. */
export interface SnapshotCancel { type: 'snapshotCancel' }

/** 'rows': sealed. 'chunks': ids and lengths of all chunks in it, in the clear, for who keeps it without reading it. */
export type PieceKind = 'rows' | 'chunks'
export const PIECE_KINDS: readonly PieceKind[] = ['rows', 'chunks']

/** 'busy': ask later. 'none': there is none. 'failed': begin anew. */
export type SnapshotRefusal = 'busy' | 'none' | 'failed'
export const SNAPSHOT_REFUSALS: readonly SnapshotRefusal[] = ['busy', 'none', 'failed']

// --- chunks: lib/swarm/exchange.ts, lib/swarm/serve.ts ---

/** Who waits for a chunk; what is first is served first. */
export type Urgency = 'reader' | 'ahead' | 'pin' | 'background'
export const URGENCIES: readonly Urgency[] = ['reader', 'ahead', 'pin', 'background']

/** Asks for chunks; each is answered by one `chunk` or named in a `noChunks`, in any order. Asked again with another urgency: that one counts. */
export interface WantChunks { type: 'wantChunks'; urgency: Urgency; ids: Buffer[] }
/** Of chunks that were asked for: they are urgent now. No question of its own, for the answer may be on its way: asking again would bring it twice. */
export interface HurryChunks { type: 'hurryChunks'; urgency: Urgency; ids: Buffer[] }
/** Sealed bytes, whose BLAKE3 is the id. A view of the frame that it came in. */
export interface Chunk { type: 'chunk'; id: Buffer; sealed: Buffer }
/** The sender does not hold these, or will not serve them now. Answers `wantChunks` and `askChunks`. */
export interface NoChunks { type: 'noChunks'; ids: Buffer[] }
/** No longer wanted; what is on its way may still arrive. */
export interface CancelChunks { type: 'cancelChunks'; ids: Buffer[] }

// --- who holds chunks: lib/swarm/custody.ts ---

/** "These are durable here": answers `askChunks`, with its `copies`, and unasked after new ones became durable, with 0. Eviction elsewhere may rely on it. */
export interface HaveChunks { type: 'haveChunks'; copies: number; ids: Buffer[] }
/** Which of these do you hold durably? With `copies`: as one of so many that there are to be, as far as you know. Each is then named in a `haveChunks` or a `noChunks`. */
export interface AskChunks { type: 'askChunks'; copies: number; ids: Buffer[] }
/** Before the last own copy goes: prove that you hold it. */
export interface Challenge { type: 'challenge'; id: Buffer; nonce: Buffer }
/** BLAKE3(nonce || sealed). Without the chunk: `noChunks`. */
export interface Proof { type: 'proof'; id: Buffer; mac: Buffer }

// --- what nobody needs any more: lib/releases.ts ---

/** How far a device has applied a log. */
export interface AppliedLog extends LogName { seq: number }
/** From a device that cannot read the drive's state to one with the full key: which of these does nobody need? Answered by one `releases`; none before that is asked again. */
export interface AskReleases { type: 'askReleases'; ids: Buffer[] }
/** Of those that were asked about: to which nothing refers that is in these logs, nor can refer again. No logs: the sender cannot say. */
export interface Releases { type: 'releases'; logs: AppliedLog[]; ids: Buffer[] }

// --- the peer itself: the host ---

/** At connect and when it has changed much: what placement and the asking for chunks go by. */
export interface Status {
  type: 'status'
  capacityBytes: number
  usedBytes: number
  /** Sealed bytes that it lacks of what it means to hold. */
  owedBytes: number
  /** It means to hold every chunk of the drive. */
  keepsEverything: boolean
  /** 32 bytes: digest of its plan (lib/placement/plan.ts), by which it holds what it is to hold; zeros: it has none. */
  plan: Buffer
}

// --- placement: lib/placement/ ---

/** From a device with the full key to one that cannot read the drive's state: the plan by which it is to hold chunks; empty: all of them. At connect and whenever it changes. */
export interface PlanMessage { type: 'plan'; plan: Buffer }
/** What a device says, signed, of the groups that it is to hold (lib/placement/report.ts). From itself, and passed on by everybody who did not know it; at connect all that are known. */
export interface ReportMessage { type: 'report'; report: Buffer }

/** The last message on a link. */
export interface Bye { type: 'bye'; reason: ByeReason }

/** 'duplicate': another link to this device is kept. 'protocol': a message that no encoder writes. 'lying': it proved wrong. 'removed': no longer a member. */
export type ByeReason = 'leaving' | 'duplicate' | 'busy' | 'protocol' | 'lying' | 'removed'
export const BYE_REASONS: readonly ByeReason[] = ['leaving', 'duplicate', 'busy', 'protocol', 'lying', 'removed']

export type SyncMessage = Have | WantEntries | Entries | EntryPart | NoEntries | Certificates | Forked
export type SnapshotMessage = WantSnapshot | SnapshotBegin | SnapshotPiece | SnapshotCredit | SnapshotEnd | SnapshotRefused | SnapshotCancel
export type ChunkMessage = WantChunks | HurryChunks | Chunk | NoChunks | CancelChunks
export type CustodyMessage = HaveChunks | AskChunks | Challenge | Proof
/** From a device that cannot read the drive's state to one with the full key, with what it knows: FACTOR_BUCKETS hashes of 8 bytes. Answered by one `factors`. */
export interface AskFactors { type: 'askFactors'; hashes: Buffer }
/** What directories want of chunks (lib/store/factor-table.ts): some buckets that are otherwise, whole. None: all others are the same. */
export interface Factors { type: 'factors'; buckets: { bucket: number; chunks: { id: Buffer; value: number }[] }[] }

export type PlacementMessage = PlanMessage | ReportMessage | AskFactors | Factors
export type ReleaseMessage = AskReleases | Releases
export type PeerMessage = Status | Bye
export type Message = SyncMessage | SnapshotMessage | ChunkMessage | CustodyMessage | PlacementMessage | ReleaseMessage | PeerMessage

/** Map key of an id or a log's name. */
export function keyOf(id: Buffer): string {
  return id.toString('latin1')
}

export function logKey(log: LogName): string {
  return log.incarnation.toString('latin1') + log.device.toString('latin1')
}

/** Bytes of an entry as limits count them. */
export function entryBytes(entry: SignedEntry): number {
  return entry.signed.length + entry.sealed.length
}
