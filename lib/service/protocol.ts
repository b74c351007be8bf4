/**
 * What passes over the control socket, between lib/client.ts and
 * lib/service/control.ts. Both are of one installation, but a daemon may
 * outlive an update: hence the version in the greeting.
 *
 *   frame    u32le bytes of header | u32le bytes of payload | header (JSON, UTF-8) | payload
 *   server   greets with { hello, pid }, then answers
 *   client   { id, call, args } + payload          ask
 *            { cancel }                            end the call of that id; EINTR, if that ends it
 *   server   { id, value } + payload               done
 *            { id, more } + payload                a piece of a JSON value too large for one header; the last has `json`
 *            { id, json } + payload
 *            { id, code, message }                 failed
 *            { id, progress }                      any number before those
 *
 * Large data never waits in a queue: a reader asks for the next piece when it
 * has room (read, readdir), a writer waits for earlier pieces to be taken.
 */
import { DfsError, fail, type DfsErrorCode, understood } from '../errors.js'
import type { Path, Progress } from '../api.js'

export const PROTOCOL_VERSION = 1

/** A path is at most 4,095 bytes, six times that when escaped; two of them in one call. */
export const MAX_HEADER_BYTES = 64 * 1024
/** Large enough that the round trip is below the copying; small enough that many may be under way. */
export const MAX_PAYLOAD_BYTES = 256 * 1024
/** Calls of one connection that are under way; a client waits before it sends more. */
export const MAX_CALLS = 64
/** Open files and directories of one connection, as the usual RLIMIT_NOFILE. */
export const MAX_HANDLES = 1024
/** Of a value that comes in pieces (the problems found by fsck): a client must not be made to fill its memory. */
export const MAX_VALUE_BYTES = 64 * 1024 * 1024
/** Directory entries in one answer: about 100 KiB. */
export const MAX_BATCH_ENTRIES = 512

export interface Hello { hello: number; pid: number }
export type Request = { id: number; call: string; args: Record<string, unknown> } | { cancel: number }
export type Answer =
  | { id: number; value: unknown }
  | { id: number; more: true }
  | { id: number; json: true }
  | { id: number; code: string; message: string }
  | { id: number; progress: Progress }

export interface Frame {
  header: Record<string, unknown>
  payload: Buffer
}

const NONE = Buffer.alloc(0)

/** The pieces to write, in order; the payload is not copied. Throws if a limit is exceeded. */
export function encodeFrame(header: object, payload: Buffer = NONE): Buffer[] {
  const json = Buffer.from(JSON.stringify(header))
  if (json.length > MAX_HEADER_BYTES) throw fail('E2BIG', 'a message is too large for the control socket')
  if (payload.length > MAX_PAYLOAD_BYTES) throw fail('E2BIG', 'a payload is too large for the control socket')
  const head = Buffer.allocUnsafe(8)
  head.writeUInt32LE(json.length, 0)
  head.writeUInt32LE(payload.length, 4)
  return payload.length ? [head, json, payload] : [head, json]
}

/**
 * Cuts a stream of bytes into frames. Holds at most one frame and the bytes of
 * one push. After an error the stream has no known place: it must be dropped.
 */
export class FrameReader {
  #parts: Buffer[] = []
  #bytes = 0
  /** Bytes of the frame under way, its 8 of lengths included; undefined until those are here. */
  #wanted: { header: number; total: number } | undefined

  /** Whether a frame is only partly here. */
  get isBetweenFrames(): boolean {
    return this.#bytes === 0
  }

  /** The frames completed by `bytes`. Throws EINVAL if they are not frames. */
  *push(bytes: Buffer): Generator<Frame> {
    this.#parts.push(bytes)
    this.#bytes += bytes.length
    for (;;) {
      this.#wanted ??= this.#readLengths()
      if (!this.#wanted || this.#bytes < this.#wanted.total) return
      const { header, total } = this.#wanted
      const frame = this.#take(total)
      this.#wanted = undefined
      yield { header: parseHeader(frame.subarray(8, 8 + header)), payload: frame.subarray(8 + header) }
    }
  }

  #readLengths(): { header: number; total: number } | undefined {
    if (this.#bytes < 8) return undefined
    if (this.#parts[0]!.length < 8) this.#parts = [Buffer.concat(this.#parts)]
    const header = this.#parts[0]!.readUInt32LE(0)
    const payload = this.#parts[0]!.readUInt32LE(4)
    if (header < 2 || header > MAX_HEADER_BYTES || payload > MAX_PAYLOAD_BYTES) {
      throw fail('EINVAL', `not a frame: a header of ${header} and a payload of ${payload} bytes`)
    }
    return { header, total: 8 + header + payload }
  }

  #take(length: number): Buffer {
    const all = this.#parts.length === 1 ? this.#parts[0]! : Buffer.concat(this.#parts, this.#bytes)
    const rest = all.subarray(length)
    this.#parts = rest.length ? [rest] : []
    this.#bytes = rest.length
    return all.subarray(0, length)
  }
}

function parseHeader(bytes: Buffer): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(bytes.toString())
  } catch (error) {
    throw fail('EINVAL', 'not a frame: its header is not JSON', error)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw fail('EINVAL', 'not a frame: its header is not an object')
  return value as Record<string, unknown>
}

/** Names are bytes; JSON is text. Latin-1 holds every byte, and ASCII as it is. */
export type WirePath = string | { latin1: string }

export function packPath(path: Path): WirePath {
  return typeof path === 'string' ? path : { latin1: path.toString('latin1') }
}

/** EINVAL if `value` is no path. */
export function unpackPath(value: unknown): Path {
  if (typeof value === 'string') return value
  if (typeof value === 'object' && value !== null && 'latin1' in value && typeof value.latin1 === 'string') return Buffer.from(value.latin1, 'latin1')
  throw fail('EINVAL', 'a path is missing in a call')
}

/** Of an error that is not a DfsError nothing is told but that it happened; the daemon's log has the rest. */
export function packError(id: number, error: unknown): Answer {
  const known = understood(error)
  if (known) return { id, code: known.code, message: known.message.slice(0, 8192) }
  return { id, code: 'DAEMON_FAILED', message: 'the daemon failed at this call; its log daemon.log in the store says where' }
}

export function unpackError(code: string, message: string): DfsError {
  return fail(code as DfsErrorCode, message)
}
