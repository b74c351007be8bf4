import test from 'brittle'
import { conflictName } from '../../lib/tree/conflict-name.js'

const NOV = 1_795_000_000
const free = () => false
const name = (text: string, device = 'anna', isTaken: (n: Buffer) => boolean = free) => conflictName(Buffer.from(text), device, NOV, isTaken)

test('copies are called after the file, whose they are and when', (t) => {
  t.is(name('a.txt').toString(), 'a (conflict, anna, 2026-11-18).txt')
  t.is(name('.rc').toString(), '.rc (conflict, anna, 2026-11-18)')
  t.is(name('a (conflict, bert, 2020-01-01).txt').toString(), 'a (conflict, anna, 2026-11-18).txt', 'a copy of a copy')
  t.is(name('a', 'x/(y)').toString(), 'a (conflict, x--y-, 2026-11-18)')
  const taken = name('a')
  t.is(name('a', 'anna', (n) => n.equals(taken)).toString(), 'a (conflict, anna, 2026-11-18 2)')
  t.is(conflictName(Buffer.from('a'), 'anna', 1e15, free).toString(), 'a (conflict, anna, 9999-12-31)')
})

test('long names are cut between characters', (t) => {
  for (const long of ['ä'.repeat(127), 'x' + '€'.repeat(84), '😀'.repeat(63) + '.tar']) {
    const made = name(long)
    t.ok(made.length <= 255)
    t.is(Buffer.from(made.toString()).compare(made), 0, 'it is UTF-8 still')
  }
})
