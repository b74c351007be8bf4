import test from 'brittle'
import fc from 'fast-check'
import { encodeFrame, FrameReader, MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES, packPath, unpackPath, type Frame } from '../../lib/service/protocol.js'
import { codeOf } from '../helpers/scratch.js'

/** Pushes `bytes` in pieces of the given sizes, over and over. */
function readIn(bytes: Buffer, sizes: number[]): Frame[] {
  const reader = new FrameReader()
  const frames: Frame[] = []
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const size = sizes[i % sizes.length]!
    for (const f of reader.push(bytes.subarray(at, at + size))) frames.push({ header: f.header, payload: Buffer.from(f.payload) })
    at += size
  }
  return frames
}

test('frames come out as they went in, however the stream is cut', (t) => {
  const frame = fc.record({ header: fc.dictionary(fc.string(), fc.oneof(fc.string(), fc.integer(), fc.boolean())), payload: fc.uint8Array({ maxLength: 300 }) })
  fc.assert(fc.property(fc.array(frame, { maxLength: 8 }), fc.array(fc.integer({ min: 1, max: 64 }), { minLength: 1, maxLength: 5 }), (frames, sizes) => {
    const bytes = Buffer.concat(frames.flatMap((f) => encodeFrame(f.header, Buffer.from(f.payload))))
    const read = readIn(bytes, sizes)
    return read.length === frames.length && read.every((f, i) =>
      JSON.stringify(f.header) === JSON.stringify(JSON.parse(JSON.stringify(frames[i]!.header))) && f.payload.equals(Buffer.from(frames[i]!.payload)))
  }))
  t.pass()
})

test('arbitrary bytes are refused or waited for, never more', (t) => {
  fc.assert(fc.property(fc.uint8Array({ minLength: 1, maxLength: 400 }), fc.integer({ min: 1, max: 40 }), (bytes, size) => {
    try {
      readIn(Buffer.from(bytes), [size])
      return true
    } catch (error) {
      return (error as { code?: string }).code === 'EINVAL'
    }
  }), { numRuns: 500 })
  t.pass()
})

test('lengths are judged before anything is kept for them', async (t) => {
  const lengths = (header: number, payload: number) => {
    const head = Buffer.alloc(8)
    head.writeUInt32LE(header, 0)
    head.writeUInt32LE(payload, 4)
    return head
  }
  const push = (bytes: Buffer) => codeOf(() => [...new FrameReader().push(bytes)])
  t.is(await push(lengths(MAX_HEADER_BYTES + 1, 0)), 'EINVAL')
  t.is(await push(lengths(2, MAX_PAYLOAD_BYTES + 1)), 'EINVAL')
  t.is(await push(lengths(0, 0)), 'EINVAL')
  t.is(await push(lengths(0xffffffff, 0xffffffff)), 'EINVAL')
  t.is(await push(lengths(2, MAX_PAYLOAD_BYTES)), 'none')
  for (const header of ['[]', 'null', '12', '"a"', '{"a":', 'xx']) t.is(await push(Buffer.concat([lengths(header.length, 0), Buffer.from(header)])), 'EINVAL', header)
})

test('a message too large to send is refused where it is made', async (t) => {
  t.is(await codeOf(() => encodeFrame({ text: 'x'.repeat(MAX_HEADER_BYTES) })), 'E2BIG')
  t.is(await codeOf(() => encodeFrame({}, Buffer.alloc(MAX_PAYLOAD_BYTES + 1))), 'E2BIG')
})

test('paths cross as text or as bytes', async (t) => {
  const odd = Buffer.from([47, 0xff, 0xfe, 0x80, 65])
  t.alike(unpackPath(JSON.parse(JSON.stringify(packPath(odd)))), odd)
  t.is(unpackPath(packPath('/ä')), '/ä')
  for (const bad of [undefined, null, 3, {}, { latin1: 3 }, []]) t.is(await codeOf(() => unpackPath(bad)), 'EINVAL')
})
