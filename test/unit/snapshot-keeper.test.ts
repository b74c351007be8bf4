/** When a storage peer gets a snapshot, and of whom. */
import test from 'brittle'
import { systemTimers } from '../../lib/clock.js'
import { DriveKeys } from '../../lib/keys/derive.js'
import { metaOfFresh, type SnapshotMeta } from '../../lib/snapshot.js'
import { fail } from '../../lib/errors.js'
import type { Message, Peer } from '../../lib/swarm/messages.js'
import { PiecesHash } from '../../lib/swarm/snapshot.js'
import { SnapshotKeeper } from '../../lib/swarm/snapshot-keeper.js'

const META = metaOfFresh(Buffer.alloc(16, 1))

function create() {
  let nowMs = 0
  const sent: [peer: Peer, m: Message][] = []
  const holder = {
    isDue: true, isFull: false, said: [] as string[],
    begin: (_: SnapshotMeta) => { holder.said.push('begin') },
    piece: () => { if (holder.isFull) throw fail('ENOSPC', 'full'); holder.said.push('piece') },
    complete: () => { holder.said.push('complete'); holder.isDue = false },
    abandon: () => { holder.said.push('abandon') },
  }
  const keeper = new SnapshotKeeper({ holder, timers: { ...systemTimers, nowMs: () => nowMs }, keys: DriveKeys.create(), send: (peer, m) => sent.push([peer, m]) })
  /** Who is asked in this time, tick by tick. */
  const asked = (ms: number, stepMs = 500): Peer[] => {
    for (const end = nowMs + ms; nowMs < end;) {
      nowMs += stepMs
      keeper.tick()
    }
    return sent.splice(0).filter(([, m]) => m.type === 'wantSnapshot').map(([peer]) => peer)
  }
  const give = (peer: Peer): void => {
    const hash = new PiecesHash()
    hash.add('rows', Buffer.of(1))
    keeper.message(peer, { type: 'snapshotBegin', meta: META, totalBytes: 1 })
    keeper.message(peer, { type: 'snapshotPiece', kind: 'rows', bytes: Buffer.of(1) })
    keeper.message(peer, { type: 'snapshotEnd', hash: hash.digest(), head: Buffer.alloc(0) })
  }
  return { holder, keeper, asked, give }
}

test('a device that may write is asked at once; when it fails another one, and each time after longer', (t) => {
  const { keeper, asked, holder } = create()
  keeper.up('kept', 'storage')
  t.alike(asked(1000), [])
  keeper.up('a', 'full')
  keeper.up('b', 'full')
  t.alike(asked(500), ['a'])
  keeper.message('a', { type: 'snapshotRefused', reason: 'busy' })
  t.alike(asked(500), [])
  t.alike(asked(500), ['b'])
  keeper.message('b', { type: 'snapshotRefused', reason: 'busy' })
  t.alike(asked(1500), [])
  t.alike(asked(500), ['a'])
  keeper.down('a')
  t.alike(asked(3500), [])
  t.alike(asked(500), ['b'])
  keeper.message('b', { type: 'snapshotBegin', meta: META, totalBytes: 1 })
  t.alike(holder.said, ['abandon', 'abandon', 'abandon', 'begin'])
  t.alike(asked(20_000), [], 'it says nothing any more')
  t.is(holder.said.at(-1), 'abandon')
  t.alike(asked(4000), ['b'])
})

test('what is taken is not asked for again until it is due, or lacks what nobody has; whose word counts', (t) => {
  const { keeper, asked, give, holder } = create()
  keeper.up('a', 'full')
  t.alike(asked(500), ['a'])
  give('a')
  t.alike(holder.said, ['begin', 'piece', 'complete'])
  t.alike(asked(100_000), [])
  keeper.up('kept', 'storage')
  keeper.lacking('kept')
  keeper.lacking('stranger')
  t.alike(asked(100_000), [], 'not while there is a device that may write, which says nothing of the kind')
  keeper.lacking('a')
  t.alike(asked(1000), ['a'])
  give('a')
  t.alike(asked(100_000), [])
  holder.isDue = true
  t.alike(asked(1000), ['a'])
})

test('another storage peer is asked when no device that may write was there for a while; it must begin with a head', (t) => {
  const { keeper, asked, give, holder } = create()
  keeper.up('kept', 'storage')
  t.alike(asked(4500), [])
  t.alike(asked(500), ['kept'])
  give('kept')
  t.alike(holder.said, ['abandon'], 'not so')
})

test('a full disk ends it, and it is tried again', (t) => {
  const { keeper, asked, give, holder } = create()
  keeper.up('a', 'full')
  t.alike(asked(500), ['a'])
  holder.isFull = true
  give('a')
  t.alike(holder.said, ['begin', 'abandon'])
  holder.isFull = false
  t.alike(asked(1500), ['a'])
  give('a')
  t.is(holder.said.at(-1), 'complete')
})
