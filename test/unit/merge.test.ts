/**
 * The conflict rules, one by one: two devices that hear of each other late, with
 * either clock ahead, and two witnesses that hear of them in either order.
 */
import test, { type Assert } from 'brittle'
import { INO_HIGH, type Op } from '../../lib/log/ops.js'
import { ROOT_INO, S_IFDIR, S_IFLNK, S_IFREG } from '../../lib/tree/inode.js'
import { copyOf, TestDevice } from '../helpers/device.js'
import { compareAll, exchangeAll } from '../helpers/merging.js'

class World {
  readonly a = new TestDevice(1, 1000)
  readonly b = new TestDevice(2, 1000)
  readonly #witnesses: TestDevice[] = []

  constructor(t: Assert) {
    t.teardown(() => { for (const d of this.all) d.close() })
  }

  get all(): TestDevice[] { return [this.a, this.b, ...this.#witnesses] }

  /** Both have everything; from here on they do not hear of each other. `later` has the clock that is ahead. */
  part(later: TestDevice): { earlier: TestDevice; later: TestDevice } {
    exchangeAll([this.a, this.b])
    for (const d of [this.a, this.b]) d.clockMs = 5000
    later.clockMs = 9000
    return { earlier: later === this.a ? this.b : this.a, later }
  }

  /** All hear of everything, in different orders, and have the same sound tree. Gives one of them. */
  meet(): TestDevice {
    if (this.#witnesses.length === 0) this.#witnesses.push(new TestDevice(3), new TestDevice(4))
    const [first, second] = this.#witnesses as [TestDevice, TestDevice]
    for (const from of [this.a, this.b]) while (first.pull(from, 1) > 0);
    for (const from of [this.b, this.a]) while (second.pull(from, 1) > 0);
    exchangeAll(this.all)
    compareAll(this.all)
    return this.a
  }
}

/** The rule with either device ahead of the other. */
function rule(name: string, body: (t: Assert, w: World, later: 'a' | 'b') => void): void {
  for (const later of ['a', 'b'] as const) test(`${name} (${later} is later)`, (t) => body(t, new World(t), later))
}

const fills = (d: TestDevice, ino: number) => d.content(ino).map((c) => c[2])
const conflict = (stem: string, device: number, ext = '') => `${stem} (conflict, device ${device}, 1970-01-01)${ext}`

// --- directories ------------------------------------------------------------

rule('directories made under one name on both sides are one', (t, w, later) => {
  const p = w.part(w[later])
  const first = p.earlier.mkdir('d')
  p.earlier.make('x', S_IFREG | 0o644, first)
  const second = p.later.mkdir('d')
  p.later.make('y', S_IFREG | 0o644, second)
  const sub1 = p.earlier.mkdir('sub', first)
  p.earlier.make('deep1', S_IFREG | 0o644, sub1)
  const sub2 = p.later.mkdir('sub', second)
  p.later.make('deep2', S_IFREG | 0o644, sub2)
  const d = w.meet()
  t.alike(d.names(), ['d'])
  t.alike(d.names(first), ['sub', 'x', 'y'])
  t.alike(d.names(sub1), ['deep1', 'deep2'])
  t.is(d.t.tree.get(second)!.ino, first, 'the later number stands for the earlier')
})

rule('what is done to the later number of a merged directory is done to it', (t, w, later) => {
  const p = w.part(w[later])
  const first = p.earlier.mkdir('d')
  const second = p.later.mkdir('d')
  w.meet()
  w.part(p.later)
  const ino = p.later.make('z', S_IFREG | 0o644, second)
  p.later.submit({ type: 'setattr', ino: second, mode: 0o700, ctime: { sec: 9, nsec: 0 } })
  p.later.submit({ type: 'xattr', ino: second, name: Buffer.from('user.a'), value: Buffer.from('1'), ctime: { sec: 9, nsec: 0 } })
  p.later.submit({ type: 'xattr', ino: second, name: Buffer.from('user.b'), value: Buffer.from('2'), ctime: { sec: 9, nsec: 0 } })
  p.later.submit({ type: 'xattr', ino: second, name: Buffer.from('user.a'), value: null, ctime: { sec: 9, nsec: 0 } })
  const d = w.meet()
  t.is(d.child('d/z'), ino)
  t.is(d.t.tree.get(first)!.mode & 0o777, 0o700)
  t.alike(d.t.tree.xattrNames(d.t.tree.get(first)!).map(String), ['user.b'])
  w.part(p.earlier)
  t.is(p.earlier.unlink('z', first), '')
  t.is(p.earlier.unlink('d'), '')
  const gone = w.meet()
  t.alike(gone.names(), [])
})

rule('a merged directory is one with both its numbers when moves would make a cycle', (t, w, later) => {
  const p = w.part(w[later])
  const first = p.earlier.mkdir('d')
  const second = p.later.mkdir('d')
  p.later.mkdir('x')
  w.meet()
  const x = w.a.child('x')
  const again = w.part(p.later)
  again.earlier.clockMs = 20_000
  again.later.clockMs = 30_000
  t.is(again.earlier.rename('d', 'd', ROOT_INO, x), '')
  t.is(again.later.submit({ type: 'rename', parent: ROOT_INO, name: Buffer.from('x'), ino: x, newParent: second, newName: Buffer.from('x'), over: 0, exchange: false, time: { sec: 9, nsec: 0 } }), '')
  const d = w.meet()
  t.alike(d.names(), ['x'])
  t.is(d.child('x/d'), first)
  t.alike(d.names(first), [])
})

test('three directories made under one name are one, by each number, below each other too', (t) => {
  const w = new World(t)
  const c = new TestDevice(5, 6000)
  t.teardown(() => c.close())
  w.part(w.b)
  const made = [w.a, c, w.b].map((d) => {
    const dir = d.mkdir('d')
    const sub = d.mkdir('sub', dir)
    d.make(`of ${d.inc}`, S_IFREG | 0o644, sub)
    d.commit()
    return { dir, sub }
  })
  exchangeAll([w.a, w.b, c])
  const d = w.meet()
  exchangeAll([...w.all, c])
  compareAll([...w.all, c])
  t.alike(d.names(), ['d'])
  for (const { dir, sub } of made) t.alike([d.names(d.t.rows.resolve(dir)), d.names(d.t.rows.resolve(sub))], [['sub'], ['of 1', 'of 2', 'of 5']])
})

rule('a directory keeps its name against a file', (t, w, later) => {
  const p = w.part(w[later])
  const dir = w.a.mkdir('n')
  const file = w.b.make('n')
  w.b.write(file, 7)
  const d = w.meet()
  t.is(d.child('n'), dir)
  t.alike(d.names(), ['n', conflict('n', 2)])
  t.alike(fills(d, file), [7])
  t.ok(p)
})

rule('directories moved onto one name do not blend', (t, w, later) => {
  const x = w.a.mkdir('x')
  const y = w.a.mkdir('y')
  w.a.make('in-x', S_IFREG | 0o644, x)
  w.a.make('in-y', S_IFREG | 0o644, y)
  const p = w.part(w[later])
  p.earlier.rename('x', 'goal')
  p.later.rename('y', 'goal')
  const d = w.meet()
  t.is(d.child('goal'), x)
  t.alike(d.names(), ['goal', conflict('goal', p.later.inc)])
  t.alike(d.names(y), ['in-y'])
})

rule('a directory that is made does not blend with one that was moved to its name', (t, w, later) => {
  const x = w.a.mkdir('x')
  const p = w.part(w[later])
  p.earlier.rename('x', 'goal')
  const made = p.later.mkdir('goal')
  const d = w.meet()
  t.is(d.child('goal'), x)
  t.is(d.child(conflict('goal', p.later.inc)), made)
})

rule('what is made in a directory wins against its removal, however deep', (t, w, later) => {
  const top = w.a.mkdir('top')
  const mid = w.a.mkdir('mid', top)
  w.part(w[later])
  w.a.unlink('mid', top)
  w.a.unlink('top')
  const file = w.b.make('kept', S_IFREG | 0o644, mid)
  const d = w.meet()
  t.is(d.child('top/mid/kept'), file)
  t.alike(d.names(), ['top'])
})

rule('what is made in a removed directory goes to the one made again in its place', (t, w, later) => {
  const old = w.a.mkdir('d')
  w.part(w[later])
  w.a.unlink('d')
  const again = w.a.mkdir('d')
  w.a.make('new', S_IFREG | 0o644, again)
  w.b.make('late', S_IFREG | 0o644, old)
  const d = w.meet()
  t.alike(d.names(), ['d'])
  t.alike(d.names(d.child('d')), ['late', 'new'])
})

// --- files ------------------------------------------------------------------

rule('of two files made under one name the later keeps it', (t, w, later) => {
  const p = w.part(w[later])
  const first = p.earlier.make('notes.txt')
  p.earlier.write(first, 1)
  const second = p.later.make('notes.txt')
  p.later.write(second, 2)
  const d = w.meet()
  t.is(d.child('notes.txt'), second)
  t.is(d.child(conflict('notes', p.earlier.inc, '.txt')), first)
  t.alike([fills(d, first), fills(d, second)], [[1], [2]])
})

rule('of two files with equal content there is one', (t, w, later) => {
  w.part(w[later])
  for (const d of [w.a, w.b]) {
    d.write(d.make('f'), 5)
    d.make('link', S_IFLNK | 0o777)
  }
  const d = w.meet()
  t.alike(d.names(), ['f', 'link'])
  t.alike(fills(d, d.child('f')), [5])
})

rule('of two files that come to have equal content there is one', (t, w, later) => {
  w.part(w[later])
  const inos = [w.a, w.b].map((d) => {
    const ino = d.make('f')
    d.commit()
    return ino
  })
  w.meet()
  w.part(w[later])
  w.a.write(inos[0]!, 5)
  w.b.write(inos[1]!, 5)
  t.alike(w.meet().names(), ['f'])
})

rule('a program goes on writing to a file of which equal content made no copy', (t, w, later) => {
  const p = w.part(w[later])
  const first = p.earlier.make('f')
  p.later.make('f')
  w.meet()
  t.alike(w.a.names(), ['f'], 'both are empty')
  w.part(w[later])
  t.is(p.earlier.write(first, 3), '')
  const d = w.meet()
  t.is(d.names().length, 2)
  t.alike(fills(d, first), [3])
  t.is(d.t.tree.get(first)!.nlink, 1)
})

rule('of two writes to one file the later keeps the name, the earlier stands beside it', (t, w, later) => {
  const ino = w.a.make('doc.tar.gz')
  w.a.write(ino, 1)
  const p = w.part(w[later])
  p.earlier.write(ino, 2)
  p.later.write(ino, 3)
  const d = w.meet()
  t.is(d.child('doc.tar.gz'), ino)
  t.alike(fills(d, ino), [3])
  const copy = d.child(conflict('doc.tar', p.earlier.inc, '.gz'))
  t.alike(fills(d, copy), [2])
  t.is(d.t.rows.conflicts.get(copy)?.of, ino)
})

rule('equal writes to one file make no copy', (t, w, later) => {
  const ino = w.a.make('f')
  w.a.write(ino, 1)
  w.part(w[later])
  w.a.write(ino, 2)
  w.b.write(ino, 2)
  t.alike(w.meet().names(), ['f'])
})

rule('many writes on both sides make one copy', (t, w, later) => {
  const ino = w.a.make('f')
  const p = w.part(w[later])
  for (let i = 0; i < 6; i++) {
    for (const d of [w.a, w.b]) {
      d.write(ino, d.inc * 10 + i, 0, 50 + i)
      d.commit()
      d.clockMs += 100
    }
  }
  const d = w.meet()
  t.alike(d.names(), ['f', conflict('f', p.earlier.inc)])
  t.alike(fills(d, ino), [p.later.inc * 10 + 5])
  t.alike(fills(d, d.child(conflict('f', p.earlier.inc))), [p.earlier.inc * 10 + 5])
})

test('devices that all go on writing one file leave one copy for each but the last', (t) => {
  const w = new World(t)
  const ino = w.a.make('f')
  w.part(w.b)
  const others = [5, 6].map((inc) => new TestDevice(inc, 5000 + inc))
  t.teardown(() => { for (const d of others) d.close() })
  for (const d of others) d.pull(w.a)
  const all = [w.a, w.b, ...others]
  for (let round = 0; round < 5; round++) {
    for (const d of all) {
      d.write(ino, d.inc * 10 + round, 0, 50 + round)
      d.commit()
      d.clockMs += 100
    }
  }
  exchangeAll(all)
  w.meet()
  exchangeAll([...w.all, ...others])
  compareAll([...w.all, ...others])
  t.is(w.a.names().length, all.length)
  t.alike(w.a.names().map((n) => fills(w.a, w.a.child(n))[0]).sort(), all.map((d) => d.inc * 10 + 4).sort(), 'the last of each')
})

test('when the side that stands aside goes on without knowing, it takes the name', (t) => {
  const w = new World(t)
  const ino = w.a.make('f')
  w.part(w.b)
  w.a.write(ino, 1)
  w.a.commit()
  w.b.write(ino, 2)
  w.b.commit()
  w.a.clockMs = 20_000
  w.a.write(ino, 11, 100)
  const d = w.meet()
  t.alike(fills(d, ino), [1, 11], 'the last write and what it was written upon')
  t.alike(d.names(), ['f', conflict('f', 2)])
  t.alike(fills(d, d.child(conflict('f', 2))), [2])
})

rule('writes to ranges apart are two versions all the same', (t, w, later) => {
  const ino = w.a.make('f')
  w.a.write(ino, 1, 0, 300)
  const p = w.part(w[later])
  p.earlier.write(ino, 2, 0, 100)
  p.later.write(ino, 3, 200, 100)
  const d = w.meet()
  t.alike(fills(d, ino), [1, 3])
  t.alike(fills(d, d.child(conflict('f', p.earlier.inc))), [2, 1])
})

rule('editors that save by renaming on both sides: the later keeps the name', (t, w, later) => {
  const ino = w.a.make('doc')
  w.a.write(ino, 1)
  const p = w.part(w[later])
  const saved = [p.earlier, p.later].map((d) => {
    const tmp = d.make(`.tmp${d.inc}`)
    d.write(tmp, d.inc + 1)
    d.rename(`.tmp${d.inc}`, 'doc')
    return tmp
  })
  const d = w.meet()
  t.alike(d.names(), ['doc', conflict('doc', p.earlier.inc)])
  t.is(d.child('doc'), saved[1])
  t.is(d.child(conflict('doc', p.earlier.inc)), saved[0])
})

rule('editors that save the same make no copy', (t, w, later) => {
  w.a.write(w.a.make('doc'), 1)
  w.part(w[later])
  for (const d of [w.a, w.b]) {
    d.write(d.make('.tmp'), 2)
    d.rename('.tmp', 'doc')
  }
  t.alike(w.meet().names(), ['doc'])
})

rule('a write to a file that is replaced by renaming is kept beside or keeps the name', (t, w, later) => {
  const ino = w.a.make('doc')
  w.a.write(ino, 1)
  const p = w.part(w[later])
  const tmp = w.a.make('.tmp')
  w.a.write(tmp, 2)
  w.a.rename('.tmp', 'doc')
  w.b.write(ino, 3)
  const d = w.meet()
  t.is(d.child('doc'), p.later === w.a ? tmp : ino)
  t.is(d.names().length, 2)
  t.alike([fills(d, tmp), fills(d, ino)], [[2], [3]])
})

// --- removals ---------------------------------------------------------------

rule('a write wins against a removal that had not seen it', (t, w, later) => {
  const ino = w.a.make('f')
  w.a.write(ino, 1)
  w.part(w[later])
  w.a.unlink('f')
  w.b.write(ino, 2, 0, 50)
  const d = w.meet()
  t.alike(d.names(), ['f'])
  t.alike(fills(d, ino), [2, 1])
})

rule('what the removal had seen makes no copy when a write brings the file back', (t, w, later) => {
  const ino = w.a.make('f')
  w.a.write(ino, 1)
  w.part(w[later])
  w.a.write(ino, 2)
  w.a.commit()
  w.a.unlink('f')
  w.b.clockMs = 20_000
  w.b.write(ino, 3)
  const d = w.meet()
  t.alike(d.names(), ['f'])
  t.alike(fills(d, ino), [3])
})

rule('a removal that saw the write removes', (t, w, later) => {
  const ino = w.a.make('f')
  w.part(w[later])
  w.b.write(ino, 2)
  w.a.pull(w.b)
  w.a.unlink('f')
  t.alike(w.meet().names(), [])
})

rule('writing to a file that was open when it was removed does not bring it back', (t, w, later) => {
  const ino = w.a.make('f')
  w.part(w[later])
  w.a.unlink('f')
  w.a.write(ino, 9)
  w.b.make('g')
  t.alike(w.meet().names(), ['g'])
})

rule('what comes back where the name is taken stands beside, and nothing is lost', (t, w, later) => {
  const ino = w.a.make('f')
  w.a.write(ino, 1)
  w.part(w[later])
  w.a.unlink('f')
  const again = w.a.make('f')
  w.a.write(again, 2)
  w.b.write(ino, 3)
  const d = w.meet()
  t.is(d.names().length, 2)
  t.alike([fills(d, again), fills(d, ino)], [[2], [3]])
  t.ok(d.child('f'))
})

rule('a move wins against a removal', (t, w, later) => {
  const ino = w.a.make('f')
  const dir = w.a.mkdir('d')
  w.part(w[later])
  w.a.unlink('f')
  w.a.unlink('d')
  w.b.rename('f', 'g')
  w.b.rename('d', 'e')
  const d = w.meet()
  t.alike(d.names(), ['e', 'g'])
  t.alike([d.child('g'), d.child('e')], [ino, dir])
})

rule('a removal takes a name that was placed anew only if it saw that', (t, w, later) => {
  w.a.make('f')
  w.part(w[later])
  w.a.unlink('f')
  const again = w.b.make('g')
  w.b.unlink('f')
  w.b.rename('g', 'f')
  const d = w.meet()
  t.is(d.child('f'), again)
})

// --- moves ------------------------------------------------------------------

rule('of two moves that make a cycle the later does nothing', (t, w, later) => {
  const x = w.a.mkdir('x')
  const y = w.a.mkdir('y')
  const p = w.part(w[later])
  p.earlier.rename('x', 'x', ROOT_INO, y)
  p.later.rename('y', 'y', ROOT_INO, x)
  const d = w.meet()
  t.alike(d.names(), ['y'])
  t.is(d.child('y/x'), x)
})

test('a move that made a cycle counts when an older op makes room for it', (t) => {
  const w = new World(t)
  const x = w.a.mkdir('x')
  const y = w.a.mkdir('y')
  w.part(w.b)
  const c = new TestDevice(5, 1000)
  t.teardown(() => c.close())
  c.pull(w.a)
  w.a.clockMs = 6000
  w.a.rename('x', 'x', ROOT_INO, y)
  w.b.rename('y', 'y', ROOT_INO, x)
  w.meet()
  t.is(w.a.child('y/x'), x)
  // Older than both: x is elsewhere when the first move comes, which goes on from there all the same.
  c.clockMs = 5500
  const dir = c.mkdir('dir')
  c.rename('y', 'y', ROOT_INO, dir)
  for (const d of w.all) d.pull(c)
  exchangeAll([...w.all, c])
  compareAll([...w.all, c])
  t.is(w.a.child('dir/y/x'), x)
})

test('a move that was ignored, as it made a cycle, is made when an older op takes the cycle away', (t) => {
  const w = new World(t)
  const x = w.a.mkdir('x')
  const y = w.a.mkdir('y')
  w.part(w.b)
  const c = new TestDevice(5, 1000)
  t.teardown(() => c.close())
  c.pull(w.a)
  w.a.clockMs = 6000
  w.a.rename('x', 'x', ROOT_INO, y)
  w.b.rename('y', 'y', ROOT_INO, x)
  w.meet()
  t.alike([w.a.child('y/x'), w.a.child('x')], [x, 0], 'the later was ignored')
  // Older than both: now the first makes the cycle, and the second does not.
  c.clockMs = 5500
  c.rename('y', 'z', ROOT_INO, x)
  for (const d of w.all) d.pull(c)
  exchangeAll([...w.all, c])
  compareAll([...w.all, c])
  t.alike([w.a.child('x/y'), w.a.child('y')], [y, 0])
  t.is(w.a.child('x'), x)
})

rule('a move into a removed directory that the moved one has replaced does nothing', (t, w, later) => {
  const goal = w.a.mkdir('goal')
  const x = w.a.mkdir('x')
  w.part(w[later])
  w.a.unlink('goal')
  w.a.rename('x', 'goal')
  w.b.rename('x', 'x', ROOT_INO, goal)
  const d = w.meet()
  t.is(d.t.tree.isWithin(d.t.tree.get(x)!, d.t.tree.get(ROOT_INO)!), true)
})

rule('a file moved to two names has the later', (t, w, later) => {
  const ino = w.a.make('f')
  const dir = w.a.mkdir('d')
  const p = w.part(w[later])
  p.earlier.rename('f', 'one')
  p.later.rename('f', 'two', ROOT_INO, dir)
  const d = w.meet()
  t.alike(d.names(), ['d'])
  t.is(d.child('d/two'), ino)
})

rule('names swapped on one side stay so if the other left them alone', (t, w, later) => {
  const f = w.a.make('f')
  const g = w.a.make('g')
  w.part(w[later])
  w.a.submit({ type: 'rename', parent: ROOT_INO, name: Buffer.from('f'), ino: f, newParent: ROOT_INO, newName: Buffer.from('g'), over: g, exchange: true, time: { sec: 2, nsec: 0 } })
  w.b.write(f, 4)
  const d = w.meet()
  t.alike([d.child('f'), d.child('g')], [g, f])
  t.alike(fills(d, f), [4])
})

test('a later exchange of a name that has moved on does nothing', (t) => {
  const w = new World(t)
  const f = w.a.make('f')
  const g = w.a.make('g')
  w.part(w.b)
  w.a.rename('f', 'h')
  w.b.submit({ type: 'rename', parent: ROOT_INO, name: Buffer.from('f'), ino: f, newParent: ROOT_INO, newName: Buffer.from('g'), over: g, exchange: true, time: { sec: 2, nsec: 0 } })
  const d = w.meet()
  t.alike([d.child('h'), d.child('g')], [f, g])
})

rule('a hard link keeps a file that is removed by its other name', (t, w, later) => {
  const ino = w.a.make('f')
  w.part(w[later])
  w.a.unlink('f')
  w.b.submit({ type: 'link', ino, parent: ROOT_INO, name: Buffer.from('g'), time: { sec: 2, nsec: 0 } })
  const d = w.meet()
  t.is(d.child('g'), ino)
})

rule('hard links made under one name: the later keeps it, both files stay', (t, w, later) => {
  const f = w.a.make('f')
  const g = w.a.make('g')
  w.a.write(f, 1)
  w.a.write(g, 2)
  const p = w.part(w[later])
  const link = (d: TestDevice, ino: number) => d.submit({ type: 'link', ino, parent: ROOT_INO, name: Buffer.from('l'), time: { sec: 2, nsec: 0 } })
  link(p.earlier, f)
  link(p.later, g)
  const d = w.meet()
  t.is(d.child('l'), g)
  t.is(d.t.tree.get(f)!.nlink, 2)
  t.is(d.names().length, 4)
})

// --- attributes -------------------------------------------------------------

rule('of attributes the last writer of each counts', (t, w, later) => {
  const ino = w.a.make('f')
  const p = w.part(w[later])
  p.earlier.submit({ type: 'setattr', ino, mode: 0o600, uid: 7, ctime: { sec: 5, nsec: 0 } })
  p.earlier.submit({ type: 'setattr', ino, atime: { sec: 3, nsec: 1 }, mtime: { sec: 4, nsec: 2 }, gid: 8, ctime: { sec: 5, nsec: 0 } })
  p.later.submit({ type: 'setattr', ino, mode: 0o640, ctime: { sec: 9, nsec: 0 } })
  p.later.submit({ type: 'setattr', ino, gid: 9, ctime: { sec: 9, nsec: 0 } })
  const set = (d: TestDevice, name: string, value: string | null) => d.submit({ type: 'xattr', ino, name: Buffer.from(name), value: value === null ? null : Buffer.from(value), ctime: { sec: 9, nsec: 0 } })
  set(p.earlier, 'user.one', 'early')
  set(p.later, 'user.one', 'late')
  set(p.earlier, 'user.two', 'early')
  const d = w.meet()
  const inode = d.t.tree.get(ino)!
  t.alike([inode.mode & 0o777, inode.uid, inode.gid, inode.atime, inode.mtime, inode.mtimeNs, inode.ctime, inode.ctimeNs], [0o640, 7, 9, 3, 4, 2, 9, 0])
  t.alike(['one', 'two'].map((n) => d.t.tree.getXattr(inode, Buffer.from(`user.${n}`))!.toString()), ['late', 'early'])
})

// --- names of copies --------------------------------------------------------

function conflictNames(t: Assert, name: string): string[] {
  const w = new World(t)
  w.part(w.b)
  for (const d of [w.a, w.b]) d.write(d.make(name), d.inc)
  return w.meet().names()
}

test('the name of a copy keeps the extension and fits', (t) => {
  t.alike(conflictNames(t, '.bashrc'), [conflict('.bashrc', 1), '.bashrc'].sort())
  t.ok(conflictNames(t, `f.${'x'.repeat(40)}`).includes(conflict(`f.${'x'.repeat(40)}`, 1)), 'what is so long is no extension')
  const long = conflictNames(t, `${'n'.repeat(251)}.txt`).find((n) => n.includes('conflict'))!
  t.is(Buffer.byteLength(long), 255)
  t.ok(long.endsWith(conflict('', 1, '.txt')))
  const wide = conflictNames(t, 'ü'.repeat(127)).find((n) => n.includes('conflict'))!
  t.ok(wide.startsWith('ü') && !wide.includes('\ufffd') && Buffer.byteLength(wide) <= 255, 'cut between characters')
})

test('a copy of a copy does not nest names, and a taken name gets a number', (t) => {
  const w = new World(t)
  const taken = w.a.make(conflict('f', 1))
  w.a.write(taken, 8)
  w.part(w.b)
  for (const d of [w.a, w.b]) d.write(d.make('f'), d.inc)
  const second = conflict('f', 1).replace(')', ' 2)')
  t.alike(w.meet().names(), ['f', conflict('f', 1), second].sort())
  w.part(w.b)
  const copy = w.a.child(second)
  w.a.write(copy, 31)
  w.b.write(copy, 32)
  const d = w.meet()
  t.is(d.names().length, 4)
  for (const n of d.names()) t.is(n.split('(conflict').length <= 2, true, n)
})

// --- copies go on -----------------------------------------------------------

test('what is written to a copy is kept when an older op shows that none was needed', (t) => {
  const w = new World(t)
  const ino = w.a.make('f')
  w.a.write(ino, 1)
  w.part(w.b)
  const c = new TestDevice(5, 1000)
  t.teardown(() => c.close())
  c.pull(w.a)
  w.a.write(ino, 2)
  w.a.commit()
  w.b.write(ino, 3)
  w.b.pull(w.a)
  // B sees the copy of A's version, and writes to it.
  const copy = w.b.child(conflict('f', 1))
  t.ok(copy)
  w.b.clockMs = 10_000
  w.b.write(copy, 4, 100)
  w.b.commit()
  // An entry of C, older than both: it changes nothing about them but where they are applied.
  c.clockMs = 4000
  c.unlink('f')
  c.commit()
  for (const d of [w.a, w.b]) d.pull(c)
  exchangeAll([...w.all, c])
  const d = w.meet()
  const found = d.names().flatMap((n) => fills(d, d.child(n)))
  for (const fill of [3, 4]) t.ok(found.includes(fill), `${fill} in ${found}`)
})

/** B has seen a copy of A's version; then comes a write of C upon that version, older than B's, with which there is no such copy. */
function withoutCopy(t: Assert, body: (b: TestDevice, copy: number, ino: number) => void): { d: TestDevice; ino: number; copy: number; found: number[] } {
  const w = new World(t)
  const ino = w.a.make('f')
  w.a.write(ino, 1, 0, 300)
  w.part(w.b)
  const c = new TestDevice(5, 1000)
  t.teardown(() => c.close())
  w.a.write(ino, 2)
  c.pull(w.a)
  c.clockMs = 6000
  c.write(ino, 3, 0, 100)
  w.b.write(ino, 4)
  w.b.pull(w.a)
  const copy = w.b.child(conflict('f', 1))
  t.alike(fills(w.b, copy), [2, 1])
  body(w.b, copy, ino)
  for (const d of [w.a, w.b]) d.pull(c)
  exchangeAll([...w.all, c])
  const d = w.meet()
  return { d, ino, copy, found: d.names().flatMap((n) => fills(d, d.child(n))) }
}

test('what is written to a copy that a later order does not make stays when its writer removes the file', (t) => {
  const { d, ino, copy, found } = withoutCopy(t, (b, copy) => {
    t.is(b.write(copy, 5, 200), '')
    t.is(b.unlink('f'), '')
  })
  t.is(d.t.tree.get(ino)!.nlink, 0)
  t.alike(fills(d, copy), [2, 1, 5], 'upon the version that the copy held')
  t.ok(found.includes(3), 'what came late stands aside too')
})

test('a copy that a later order does not make is where it was moved, and what is linked to it', (t) => {
  const { d, ino, copy } = withoutCopy(t, (b, copy) => {
    t.is(b.rename(conflict('f', 1), 'mine'), '')
    t.is(b.submit({ type: 'link', ino: copy, parent: ROOT_INO, name: Buffer.from('too'), time: { sec: 9, nsec: 0 } }), '')
  })
  t.is(d.child('mine'), copy)
  t.is(d.child('too'), copy)
  t.is(d.t.tree.get(copy)!.nlink, 2)
  t.is(d.child('f'), ino)
  t.alike(fills(d, copy), [2, 1])
})

test('a link to a copy that a later order does not make', (t) => {
  const { d, copy } = withoutCopy(t, (b, copy) => {
    t.is(b.submit({ type: 'link', ino: copy, parent: ROOT_INO, name: Buffer.from('too'), time: { sec: 9, nsec: 0 } }), '')
  })
  t.is(d.child('too'), copy)
  t.alike(fills(d, copy), [2, 1])
})

test('what is written to an inode that only a copy can have goes to a file of its own', (t) => {
  const w = new World(t)
  const copy = copyOf(2 * INO_HIGH + 77)
  // As if all that made the copy were final here and the order were another there.
  const op = (fill: number, off: number): Op => ({
    type: 'content', ino: copy, base: 0, cut: Infinity, size: off + 100, chunks: [{ id: Buffer.alloc(32, fill ^ 255), h: Buffer.alloc(32, fill), len: 4096 }],
    pieces: [{ off, len: 100, chunk: 0, coff: 0 }], mtime: { sec: 2, nsec: 0 }, ctime: { sec: 2, nsec: 0 },
  })
  w.a.receiveFrom(9, [op(5, 0), { ...op(6, 100), base: 9 * INO_HIGH + 1 } as Op])
  t.alike(w.a.names(), ['recovered'])
  t.alike(fills(w.a, w.a.child('recovered')), [5, 6])
  t.alike(w.a.t.findings(), [])
})

rule('a removed copy stays away, and one that was moved is a file like others', (t, w, later) => {
  const ino = w.a.make('f')
  w.part(w[later])
  w.a.write(ino, 1)
  w.b.write(ino, 2)
  const d = w.meet()
  const name = d.names().find((n) => n.includes('conflict'))!
  w.part(w[later])
  t.is(w.b.rename(name, 'mine'), '')
  w.meet()
  t.alike(w.a.names(), ['f', 'mine'])
  t.is(w.a.t.rows.conflicts.size, 0)
  w.part(w[later])
  t.is(w.a.unlink('mine'), '')
  t.alike(w.meet().names(), ['f'])
})

// --- the order --------------------------------------------------------------

test('a clock in 2099 wins a day, not for ever', (t) => {
  const w = new World(t)
  const ino = w.a.make('f')
  w.part(w.b)
  w.a.clockMs = 4_070_908_800_000
  w.a.write(ino, 1)
  w.a.commit()
  const key = w.a.engine.timeline.tail.at(-1)!.key
  t.ok(key < 86_400_000 + 100_000, 'believed for a day ahead of what it had seen')
  w.b.clockMs = 2 * 86_400_000
  // Its own clock is far ahead too, in two steps, each allowed.
  w.b.make('x')
  w.b.commit()
  w.b.write(ino, 2)
  const d = w.meet()
  t.alike(fills(d, ino), [2])
})

test('a clock that goes back does not reorder what a device has seen', (t) => {
  const w = new World(t)
  const ino = w.a.make('f')
  w.part(w.b)
  w.b.write(ino, 2)
  w.a.pull(w.b)
  w.a.clockMs = 1
  w.a.write(ino, 1)
  const d = w.meet()
  t.alike(d.names(), ['f'])
  t.alike(fills(d, ino), [1])
})

test('at one time the greater incarnation is later', (t) => {
  const w = new World(t)
  const ino = w.a.make('f')
  w.part(w.b)
  for (const d of [w.a, w.b]) {
    d.clockMs = 7000
    d.write(ino, d.inc)
  }
  const d = w.meet()
  t.alike(fills(d, ino), [2])
  t.alike(fills(d, d.child(conflict('f', 1))), [1])
})

test('what is final is not undone any more, and what it held is let go of exactly', (t) => {
  const w = new World(t)
  const ino = w.a.make('f')
  w.a.write(ino, 1, 0, 300)
  w.part(w.b)
  w.a.write(ino, 2)
  w.b.write(ino, 3)
  const dead = w.b.make('dead')
  w.b.write(dead, 4)
  w.b.unlink('dead')
  w.meet()
  t.ok(w.a.t.tree.get(dead), 'its removal may yet be taken back')
  const members = w.all.map((d) => [d.inc])
  for (let i = 0; i < 2; i++) {
    for (const d of w.all) d.commit(true)
    exchangeAll(w.all)
  }
  for (const d of w.all) t.ok(d.engine.settle(members) > 0)
  t.is(w.a.t.tree.get(dead), undefined)
  for (const d of w.all) {
    d.t.rows.flush()
    const refs = d.t.db.sql.prepare('SELECT count(*) AS n FROM chunk c WHERE refs != (SELECT count(*) FROM extent e WHERE e.chunk = c.num)').get() as { n: number }
    const held = (d.t.db.sql.prepare('SELECT count(*) AS n FROM placed WHERE count > 0').get() as { n: number }).n
    t.is(held, 0)
    t.is(refs.n, 0)
  }
  compareAll(w.all)
})

test('late ops that have nothing to do with later ones leave them alone; others do not', (t) => {
  const w = new World(t)
  const mine = w.a.mkdir('mine')
  const yours = w.a.mkdir('yours')
  w.part(w.a)
  for (let i = 0; i < 5; i++) w.a.write(w.a.make(`f${i}`, S_IFREG | 0o644, mine), i)
  w.a.commit()
  const file = w.b.make('g', S_IFREG | 0o644, yours)
  w.b.write(file, 9)
  w.b.rename('g', 'h', yours)
  w.b.mkdir('sub', yours)
  w.a.pull(w.b)
  t.is(w.a.engine.redone, 0)
  t.is(w.a.child('yours/h'), file)
  w.b.rename('sub', 'moved', yours)
  w.a.pull(w.b)
  t.is(w.a.engine.redone, 0, 'no directory was moved since')
  w.a.clockMs = 20_000
  w.a.mkdir('top')
  w.a.rename('top', 'other')
  w.a.commit()
  w.b.rename('moved', 'again', yours)
  w.a.pull(w.b)
  t.ok(w.a.engine.redone > 0, 'moving a directory looks beyond it')
  w.meet()
})

/** What late ops of B, in the directory in which A has worked since, make A take back and apply anew; all compare. */
function lateIn(t: Assert, later: (a: TestDevice, dir: number) => void, late: (b: TestDevice, dir: number) => void): { a: TestDevice; dir: number; redone: number } {
  const w = new World(t)
  const dir = w.a.mkdir('dir')
  w.a.make('old', S_IFREG | 0o644, dir)
  w.a.mkdir('sub', dir)
  w.part(w.a)
  later(w.a, dir)
  w.a.commit()
  late(w.b, dir)
  w.a.pull(w.b)
  const { redone } = w.a.engine
  w.meet()
  return { a: w.a, dir, redone }
}

test('late ops on other names of a directory leave later ones alone: its times are of the last, its links of both', (t) => {
  const { a, dir, redone } = lateIn(t, (a, dir) => {
    a.make('mine', S_IFREG | 0o644, dir)
    a.mkdir('mine too', dir)
    a.commit()
    a.clockMs = 20_000
    a.make('more', S_IFREG | 0o644, dir)
    a.rename('more', 'most', dir)
  }, (b, dir) => {
    b.mkdir('yours', dir)
    b.rename('old', 'moved', dir)
    b.make('gone', S_IFREG | 0o644, dir)
    b.unlink('gone', dir)
    b.unlink('sub', dir)
    b.submit({ type: 'link', ino: b.child('dir/moved'), parent: dir, name: Buffer.from('linked'), time: { sec: 5, nsec: 0 } })
  })
  t.is(redone, 0)
  t.alike(a.names(dir), ['linked', 'mine', 'mine too', 'most', 'moved', 'yours'])
  const { mtime, ctime, nlink } = a.t.tree.get(dir)!
  t.alike([mtime, ctime, nlink], [20, 20, 4])
})

test('the record of what comes after late ops has what it would have found, in the tables too', (t) => {
  const w = new World(t)
  const dir = w.a.mkdir('dir')
  const f = w.a.make('f', S_IFREG | 0o644, dir)
  w.part(w.b)
  const c = new TestDevice(5, 7700)
  t.teardown(() => c.close())
  c.pull(w.a)
  w.a.clockMs = 6000
  w.a.mkdir('a', dir)
  w.a.commit()
  w.a.clockMs = 8000
  w.a.unlink('f', dir)
  w.a.commit()
  for (const at of [7000, 7500]) {
    w.b.clockMs = at
    w.b.mkdir(`b${at}`, dir)
    w.b.commit()
    w.a.pull(w.b)
  }
  t.is(w.a.engine.redone, 0)
  t.is(w.a.t.tree.get(dir)!.mtime, 8)
  w.a.engine.reload()
  // With this write the removal comes to nothing: what is left are the times of the op before.
  c.write(f, 1)
  w.a.pull(c)
  t.is(w.a.engine.redone, 1)
  t.alike(w.a.names(dir), ['a', 'b7000', 'b7500', 'f'])
  t.is(w.a.t.tree.get(dir)!.mtime, 7)
  t.is(w.a.t.tree.get(dir)!.nlink, 5)
  exchangeAll([...w.all, c])
  w.meet()
})

for (const [what, later, late, count] of [
  ['the same name', (a, dir) => a.make('x', S_IFREG | 0o644, dir), (b, dir) => b.make('x', S_IFREG | 0o644, dir), 1],
  ['a name that a later op looked up and found taken', (a, dir) => { a.unlink('old', dir); a.make('old', S_IFREG | 0o644, dir) }, (b, dir) => b.rename('old', 'x', dir), 2],
  ['a link by a name that is a directory since', (a, dir) => a.mkdir('l', dir), (b, dir) => b.submit({ type: 'link', ino: b.child('dir/old'), parent: dir, name: Buffer.from('l'), time: { sec: 5, nsec: 0 } }), 1],
  ['the directory itself removed', (a) => a.make('x', S_IFREG | 0o644, a.child('dir/sub')), (b, dir) => b.unlink('sub', dir), 1],
  ['the mode of the directory, in which there was something made since', (a, dir) => a.make('x', S_IFREG | 0o644, dir), (b, dir) => b.submit({ type: 'setattr', ino: dir, mode: 0o700, ctime: { sec: 5, nsec: 0 } }), 1],
  ['a name in a directory whose mode was set since', (a, dir) => a.submit({ type: 'setattr', ino: dir, mode: 0o700, ctime: { sec: 9, nsec: 0 } }), (b, dir) => b.make('x', S_IFREG | 0o644, dir), 1],
] as [string, (a: TestDevice, dir: number) => void, (b: TestDevice, dir: number) => void, number][]) {
  test(`it makes a difference, and later ops are applied anew: ${what}`, (t) => {
    t.is(lateIn(t, later, late).redone, count)
  })
}

test('moves of directories that have nothing in common but make a cycle are told apart in their order', (t) => {
  const w = new World(t)
  const [x, y] = [w.a.mkdir('x'), w.a.mkdir('y')]
  const [inX, inY] = [w.a.mkdir('in x', x), w.a.mkdir('in y', y)]
  w.part(w.a)
  w.a.rename('y', 'y', ROOT_INO, inX)
  w.a.commit()
  w.b.rename('x', 'x', ROOT_INO, inY)
  w.a.pull(w.b)
  t.is(w.a.engine.redone, 1)
  t.is(w.a.child('y/in y/x'), x)
  w.meet()
})

test('after a restart nothing is known of what the tail touches: all is taken back', (t) => {
  const w = new World(t)
  w.part(w.a)
  w.a.make('f')
  w.a.commit()
  const dir = w.b.mkdir('d')
  w.b.commit()
  w.a.engine.reload()
  w.a.pull(w.b)
  t.is(w.a.engine.redone, 1)
  w.b.make('g', S_IFREG | 0o644, dir)
  w.a.pull(w.b)
  t.is(w.a.engine.redone, 1, 'then it is known again')
  w.meet()
})

test('a copy says who wrote it, by the name in the log', (t) => {
  const w = new World(t)
  const c = new TestDevice(11, 1000)
  t.teardown(() => c.close())
  c.submit({ type: 'author', name: Buffer.from('slash/(laptop)') })
  c.write(c.make('f'), 1)
  c.commit()
  w.b.clockMs = 9000
  w.b.write(w.b.make('f'), 2)
  w.b.pull(c)
  t.alike(w.b.names(), ['f', 'f (conflict, slash--laptop-, 1970-01-01)'])
  t.is(w.b.submit({ type: 'author', name: Buffer.from('again') }), 'EEXIST')
})

test('other kinds of nodes stand beside each other too', (t) => {
  const w = new World(t)
  w.part(w.b)
  w.a.make('n', S_IFLNK | 0o777)
  w.b.write(w.b.make('n'), 2)
  w.a.mkdir('m')
  w.b.make('m', S_IFLNK | 0o777)
  const d = w.meet()
  t.alike(d.names(), ['m', conflict('m', 2), 'n', conflict('n', 1)].sort())
  t.is(d.t.tree.get(d.child('m'))!.mode & S_IFDIR, S_IFDIR)
})
