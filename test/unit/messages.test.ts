/**
 * The messages of the swarm as bytes: what is written can be read, and nothing
 * that a stranger sends does more than throw a DfsError.
 */
import test from 'brittle'
import fc from 'fast-check'
import assert from 'node:assert'
import { isDfsError } from '../../lib/errors.js'
import { MAX_MESSAGE_BYTES } from '../../lib/limits.js'
import { Writer } from '../../lib/log/codec.js'
import {
  MAX_CERTIFICATES, MAX_CERTIFICATE_BYTES, MAX_ENTRIES, MAX_ENTRIES_BYTES, MAX_HAVE_LOGS, MAX_FORKED_HEADER_BYTES, MAX_IDS, MAX_SEALED_CHUNK_BYTES, MAX_SIGNED_HEADER_BYTES,
  type Message,
} from '../../lib/swarm/messages.js'
import { decode, encode } from '../../lib/swarm/wire.js'
import { anyMessage, bytes } from '../helpers/messages.js'

/** 'read', or 'refused' with a DfsError; anything else that is thrown is thrown on. */
function outcome(input: Buffer): 'read' | 'refused' {
  try {
    // A copy of its own length: a view into a larger buffer would hide reads past the end.
    const m = decode(Buffer.from(input))
    if (!encode(m).equals(input)) throw new Error(`${input.toString('hex')} is read as ${m.type}, which is written otherwise`)
    return 'read'
  } catch (e) {
    if (isDfsError(e)) return 'refused'
    throw e
  }
}

test('what is written is read back', (t) => {
  fc.assert(fc.property(anyMessage, (m) => {
    // Not the strict kind: fast-check's records have no prototype.
    assert.deepEqual(decode(encode(m)), m)
  }), { numRuns: 2000 })
  t.pass()
})

test('every kind of message is among those tried', (t) => {
  const kinds = new Set(fc.sample(anyMessage, 3000).map((m) => m.type))
  t.is(kinds.size, 31)
})

test('a message that was cut anywhere is refused', (t) => {
  fc.assert(fc.property(anyMessage, (m) => {
    const whole = encode(m)
    for (let n = 0; n < whole.length; n++) {
      const cut = outcome(whole.subarray(0, n))
      // A shorter chunk is a chunk: its id tells.
      if (cut === 'read' && m.type !== 'chunk') return false
    }
    return true
  }), { numRuns: 300 })
  t.pass()
})

test('bytes after the end are refused', (t) => {
  fc.assert(fc.property(anyMessage.filter((m) => m.type !== 'chunk'), bytes(1, 40), (m, more) => outcome(Buffer.concat([encode(m), more])) === 'refused'), { numRuns: 500 })
  t.pass()
})

test('garbage, and messages with some bytes changed, are refused or have one meaning', (t) => {
  fc.assert(fc.property(fc.integer({ min: 0, max: 40 }), bytes(0, 300), (type, rest) => {
    outcome(Buffer.concat([Buffer.from([type]), rest]))
  }), { numRuns: 5000 })
  fc.assert(fc.property(anyMessage, fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 4 }), (m, changes) => {
    const whole = encode(m)
    for (const [at, v] of changes) whole[at % whole.length] = v
    outcome(whole)
  }), { numRuns: 5000 })
  t.pass()
})

test('counts and lengths past the limits, or past what follows, are refused before anything is allocated', (t) => {
  const name = Buffer.alloc(48)
  const long: [string, (w: Writer) => void][] = [
    ['have', (w) => { w.byte(1); w.byte(1); w.uint(MAX_HAVE_LOGS + 1) }],
    ['entries', (w) => { w.byte(3); w.uint(0); w.fixed(name); w.uint(1); w.uint(MAX_ENTRIES + 1) }],
    ['header', (w) => { w.byte(3); w.uint(0); w.fixed(name); w.uint(1); w.uint(1); w.uint(MAX_SIGNED_HEADER_BYTES + 1) }],
    ['ids', (w) => { w.byte(18); w.uint(MAX_IDS + 1) }],
    ['certificate', (w) => { w.byte(5); w.uint(1); w.uint(4097) }],
    ['rows', (w) => { w.byte(10); w.byte(0); w.uint(2 ** 40) }],
  ]
  for (const [what, write] of long) {
    const w = new Writer()
    write(w)
    const head = w.take()
    t.is(outcome(head), 'refused', `${what}, cut`)
    const before = process.memoryUsage().arrayBuffers
    const padded = Buffer.concat([head, Buffer.alloc(256 * 1024)])
    for (let i = 0; i < 100; i++) try { decode(padded) } catch { /* the point */ }
    t.ok(process.memoryUsage().arrayBuffers - before < 16 * 1024 * 1024, `${what}: little is allocated`)
    t.is(outcome(padded), 'refused', `${what}, with bytes behind`)
  }
  // A count within its limit, but far beyond the bytes that follow.
  const w = new Writer()
  w.byte(18)
  w.uint(MAX_IDS)
  w.fixed(Buffer.alloc(31))
  t.is(outcome(w.take()), 'refused')
})

test('the largest messages fit a link, a longer one is refused unread', (t) => {
  const name = { incarnation: Buffer.alloc(16), device: Buffer.alloc(32) }
  const n = Number.MAX_SAFE_INTEGER - 1
  const largest: Message[] = [
    { type: 'forked', ...name, one: Buffer.alloc(MAX_FORKED_HEADER_BYTES), other: Buffer.alloc(MAX_FORKED_HEADER_BYTES, 1) },
    { type: 'entries', request: n, ...name, from: 2 ** 52, entries: [{ signed: Buffer.alloc(MAX_ENTRIES_BYTES / 2), sealed: Buffer.alloc(MAX_ENTRIES_BYTES / 2) }] },
    { type: 'have', isFull: true, logs: Array.from({ length: MAX_HAVE_LOGS }, () => ({ ...name, seq: n, first: n, hash: Buffer.alloc(32) })) },
    { type: 'certificates', certificates: Array.from({ length: MAX_CERTIFICATES }, () => Buffer.alloc(MAX_CERTIFICATE_BYTES)) },
  ]
  for (const m of largest) {
    const whole = encode(m)
    t.ok(whole.length <= MAX_MESSAGE_BYTES, m.type)
    t.is(outcome(whole), 'read', m.type)
  }
  t.is(outcome(Buffer.alloc(MAX_MESSAGE_BYTES + 1, 17)), 'refused')
})

test('a chunk has a length that a sealed chunk can have, and is not copied', (t) => {
  const id = Buffer.alloc(32, 3)
  const frame = encode({ type: 'chunk', id, sealed: Buffer.alloc(MAX_SEALED_CHUNK_BYTES, 1) })
  const m = decode(frame)
  if (m.type !== 'chunk') return t.fail()
  t.is(m.sealed.length, MAX_SEALED_CHUNK_BYTES)
  t.is(m.sealed.buffer, frame.buffer)
  t.is(outcome(Buffer.concat([frame, Buffer.alloc(1)])), 'refused')
  t.is(outcome(encode({ type: 'chunk', id, sealed: Buffer.alloc(16) })), 'refused')
})

test('a number has one form', (t) => {
  const long = Buffer.from([4, 0x81, 0x00, 0])
  const short = Buffer.from([4, 1, 0])
  t.is(outcome(short), 'read')
  t.is(outcome(long), 'refused')
})
