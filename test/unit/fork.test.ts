/** What proves a fork, and what does not. */
import test from 'brittle'
import { encodeHeader, entryHash } from '../../lib/log/entry.js'
import { isForkProof } from '../../lib/swarm/fork.js'

const log = { incarnation: Buffer.alloc(16, 1), device: Buffer.alloc(32, 2) }
const isSigned = (signed: Buffer, device: Buffer) => signed.at(-1) === device[0]

function signed(seq: number, previous: Buffer, change: { clockMs?: number; incarnation?: Buffer; drive?: Buffer } = {}, signature = 2): Buffer {
  const header = encodeHeader({
    drive: Buffer.alloc(32, 9), incarnation: log.incarnation, seq, previous, clockMs: 5, firstOp: 1, opCount: 1,
    incarnations: [log.incarnation], context: [], chunks: [], opsHash: Buffer.alloc(32), ...change,
  })
  return Buffer.concat([header, Buffer.alloc(64, signature)])
}

const zeros = Buffer.alloc(32)
const first = signed(1, zeros)
const second = signed(2, entryHash(first))
const third = signed(3, entryHash(second))
const otherSecond = signed(2, entryHash(first), { clockMs: 6 })

test('two different entries of one seq are a proof, and so is one that follows another', (t) => {
  t.ok(isForkProof(log, second, otherSecond, isSigned))
  t.ok(isForkProof(log, otherSecond, third, isSigned))
})

test('entries of one chain are none', (t) => {
  t.absent(isForkProof(log, first, second, isSigned))
  t.absent(isForkProof(log, second, third, isSigned))
  t.absent(isForkProof(log, first, third, isSigned), 'with one between them')
  t.absent(isForkProof(log, second, second, isSigned), 'the same')
  t.absent(isForkProof(log, otherSecond, first, isSigned), 'the wrong way round')
})

test('what is not signed, of another log, or no header, is none', (t) => {
  t.absent(isForkProof(log, second, signed(2, zeros, {}, 7), isSigned))
  t.absent(isForkProof(log, signed(2, zeros, {}, 7), second, isSigned))
  t.absent(isForkProof(log, second, signed(2, zeros, { incarnation: Buffer.alloc(16, 4) }), isSigned))
  t.absent(isForkProof(log, second, signed(2, zeros, { drive: Buffer.alloc(32, 4) }), isSigned))
  t.absent(isForkProof({ ...log, incarnation: Buffer.alloc(16, 4) }, second, otherSecond, isSigned))
  t.absent(isForkProof(log, second, Buffer.alloc(70), isSigned))
  t.absent(isForkProof(log, Buffer.alloc(0), second, isSigned))
})
