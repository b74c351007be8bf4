/** Whose log is taken (lib/log/newcomers.ts). */
import test from 'brittle'
import { Newcomers } from '../../lib/log/newcomers.js'
import type { Vector } from '../../lib/log/vector.js'
import { Database } from '../../lib/store/database.js'
import { scratchDir } from '../helpers/scratch.js'
import { join } from 'node:path'

const DEVICE = Buffer.alloc(32, 1)
const OTHER = Buffer.alloc(32, 2)
const INC = 7

function rules(db: Database, canWrite = true) {
  const state = { stated: new Map() as Vector, final: new Map() as Vector, welcomes: [] as { by: number; bySeq: number }[], nowMs: 0 }
  const rule = new Newcomers({ db, canWrite, stated: () => state.stated, final: () => state.final, welcomes: () => state.welcomes, nowMs: () => state.nowMs })
  return { rule, state, takes: (context: [number, number][], device = DEVICE) => rule.isTaken(INC, device, new Map(context)) }
}

test('a newcomer must have seen what was stated when it became known, what is final, or a welcome', (t) => {
  const db = Database.create(join(scratchDir(t), 'index.db'))
  const { rule, state, takes } = rules(db)
  state.stated = new Map([[1, 10], [2, 5]])
  rule.meet(DEVICE)
  state.stated = new Map([[1, 20], [2, 9]])
  t.absent(takes([[1, 10], [2, 4]]), 'it lacks an entry that was stated')
  t.alike(rule.refused(), [], 'somebody may yet vouch for it')
  state.nowMs = 60_000
  t.alike(rule.refused(), [DEVICE])
  t.ok(takes([[1, 10], [2, 5]]), 'what was stated later need not be seen')
  t.alike(rule.refused(), [])
  state.final = new Map([[2, 6]])
  t.absent(takes([[1, 10], [2, 5]]), 'what is final must be')
  state.welcomes = [{ by: 1, bySeq: 12 }]
  t.absent(takes([[1, 11], [2, 5]]), 'it came before its welcome')
  t.ok(takes([[1, 12], [2, 5]]))
  state.welcomes = []
  t.absent(takes([]))
  rule.name(INC)
  t.ok(takes([]), 'a log that is here names it')
  const again = rules(db)
  t.absent(again.takes([[1, 10], [2, 4]]), 'it is remembered')
  t.ok(again.takes([[1, 10], [2, 5]]))
  db.close()
})

test('who begins itself takes nobody on his own word, and later asks for what it began with', (t) => {
  const db = Database.create(join(scratchDir(t), 'index.db'))
  const { rule, state, takes } = rules(db)
  rule.isBeginning = true
  rule.meet(DEVICE)
  t.absent(takes([[1, 100]]))
  state.nowMs = 60_000
  rule.begin(new Map([[1, 7]]))
  t.alike(rule.refused(), [], 'what was refused before was not judged')
  t.absent(takes([[1, 6]]))
  t.ok(takes([[1, 7]]))
  state.stated = new Map([[1, 8]])
  rule.meet(OTHER)
  t.absent(takes([[1, 7]], OTHER))
  t.ok(takes([[1, 8]], OTHER))
  t.ok(takes([[1, 7]]))
  db.close()
})

test('who only reads asks for what is final', (t) => {
  const db = Database.create(join(scratchDir(t), 'index.db'))
  const { rule, state, takes } = rules(db, false)
  rule.meet(DEVICE)
  state.final = new Map([[1, 3]])
  t.absent(takes([[1, 2]]))
  t.ok(takes([[1, 3]]))
  db.close()
})
