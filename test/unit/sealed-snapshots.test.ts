/** Snapshots on a device that cannot read them: whole ones, replaced while they are read, and what a crash leaves. */
import test from 'brittle'
import { join } from 'node:path'
import { Database } from '../../lib/store/database.js'
import { SealedSnapshots } from '../../lib/store/sealed-snapshots.js'
import { scratchDir } from '../helpers/scratch.js'

function add(s: SealedSnapshots, fill: number, pieces: number): void {
  s.begin()
  for (let i = 0; i < pieces; i++) s.add(i === pieces - 1 ? 1 : 0, Buffer.alloc(100, fill))
}

const count = (db: Database) => (db.sql.prepare('SELECT count(*) AS n FROM snapshot_piece').get() as { n: number }).n

test('one that is whole takes the place of the one before, which stays for who reads it', (t) => {
  const path = join(scratchDir(t), 'index.db')
  const db = Database.create(path)
  const s = new SealedSnapshots(db)
  t.absent(s.head)
  t.absent(s.reader())
  add(s, 1, 40)
  t.is(s.coming, 40)
  t.absent(s.head, 'not before it is whole')
  s.complete(Buffer.from('one'))
  t.is(s.head!.toString(), 'one')
  const reader = s.reader()!
  add(s, 2, 3)
  s.complete(Buffer.from('two'))
  while (s.sweep());
  t.is(count(db), 43, 'somebody reads the first')
  t.is(reader.piece(39)!.bytes[0], 1)
  t.is(s.nextOf(1, 0)!.n, 2)
  t.is(s.nextOf(1, 3), undefined)
  reader.close()
  reader.close()
  t.ok(s.sweep(), 'in parts')
  while (s.sweep());
  t.is(count(db), 3)
  t.is(s.named, 0)
  s.named = 3
  add(s, 3, 5)
  db.close()

  const again = Database.open(path)
  const after = new SealedSnapshots(again)
  t.is(after.head!.toString(), 'two')
  t.is(after.named, 3)
  t.is(after.reader()!.piece(0)!.bytes[0], 2)
  while (after.sweep());
  t.is(count(again), 3, 'what was not whole is gone')
  add(after, 4, 2)
  after.abandon()
  while (after.sweep());
  t.is(count(again), 3)
  add(after, 5, 1)
  after.complete(Buffer.from('five'))
  t.is(after.reader()!.piece(0)!.bytes[0], 5)
  t.is(after.named, 0)
  again.close()
})
