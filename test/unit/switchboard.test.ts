/**
 * Two devices, any number of connections between them that come, die and are
 * told of late: both always end up with the same one, the best there is.
 * Packets of one connection keep their order, those of different ones do not; a
 * seed replays.
 */
import test from 'brittle'
import fc from 'fast-check'
import type { Conn, ConnState, Transport } from '../../lib/swarm/net/conn.js'
import { NO_LINK, type Greeting } from '../../lib/swarm/net/handshake.js'
import { Switchboard } from '../../lib/swarm/net/switchboard.js'

type Signal = { type: 'ready'; greeting: Greeting } | { type: 'use' } | { type: 'lost'; linkId: Buffer } | { type: 'bye'; reason: string } | { type: 'message'; linkId: Buffer } | { type: 'ping' } | { type: 'pong' }

/** What a Switchboard uses of a Conn. */
class FakeConn {
  state: ConnState = 'greeting'
  greeting: Greeting | undefined
  other!: FakeConn
  readonly inbox: Signal[] = []
  isCut = false
  readonly #waiting: ((isAlive: boolean) => void)[] = []

  constructor(readonly side: Side, readonly peer: Buffer, readonly linkId: Buffer, readonly origin: { transport: Transport }) {}

  say(signal: Signal): void {
    if (!this.isCut) this.other.inbox.push(signal)
  }
  start(): void { this.say({ type: 'ready', greeting: { instance: this.side.instance, ended: this.side.board.endedWith(this.peer), port: 0, hosts: [], hello: Buffer.alloc(0) } }) }
  use(): void {
    this.say({ type: 'use' })
    this.state = 'active'
  }
  activate(): void { this.state = 'active' }
  tellLost(linkId: Buffer): void { this.say({ type: 'lost', linkId }) }
  probe(): Promise<boolean> {
    if (this.state === 'closed') return Promise.resolve(false)
    this.say({ type: 'ping' })
    return new Promise((resolve) => this.#waiting.push(resolve))
  }
  answered(): void { for (const resolve of this.#waiting.splice(0)) resolve(true) }
  get isProbed(): boolean { return this.#waiting.length > 0 }
  close(reason: string, isTold = true): void {
    if (this.state === 'closed') return
    if (isTold) this.say({ type: 'bye', reason })
    this.state = 'closed'
    for (const resolve of this.#waiting.splice(0)) resolve(false)
    this.side.board.closed(this.real, reason)
  }
  get real(): Conn { return this as unknown as Conn }

  async deliver(): Promise<void> {
    const signal = this.inbox.shift()
    if (!signal || this.state === 'closed') return
    this.answered()
    switch (signal.type) {
      case 'ready':
        this.greeting = signal.greeting
        this.state = 'ready'
        this.side.board.ready(this.real)
        break
      case 'use':
        this.side.board.use(this.real)
        break
      case 'lost':
        this.side.board.lost(this.real, signal.linkId)
        break
      case 'bye':
        this.close(signal.reason, false)
        break
      case 'ping':
        this.say({ type: 'pong' })
        break
      case 'message':
        if (!this.side.link?.linkId.equals(signal.linkId)) throw new Error('a message of a link that is not in use here')
    }
    await Promise.resolve()
  }
}

class Side {
  readonly conns: FakeConn[] = []
  link: FakeConn | undefined
  links = 0
  board: Switchboard
  instance: Buffer

  constructor(readonly key: Buffer, readonly run: number) {
    this.instance = Buffer.alloc(16, run)
    this.board = new Switchboard(key, {
      onLink: (conn) => {
        if (this.link) throw new Error('a second link to one device')
        this.link = conn as unknown as FakeConn
        this.links++
      },
      onLinkClosed: (conn) => {
        if ((this.link as unknown as Conn) !== conn) throw new Error('the end of a link that was not there')
        this.link = undefined
      },
      onPeerChange() {},
    })
  }
}

const KEYS = [Buffer.alloc(32, 1), Buffer.alloc(32, 2)] as const
const step = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom('tcp', 'udx').map((transport) => ({ type: 'connect' as const, transport: transport as Transport })) },
  { weight: 12, arbitrary: fc.nat().map((pick) => ({ type: 'deliver' as const, pick })) },
  { weight: 2, arbitrary: fc.tuple(fc.nat(), fc.boolean(), fc.boolean()).map(([pick, atA, atB]) => ({ type: 'cut' as const, pick, atA, atB })) },
  { weight: 1, arbitrary: fc.nat(1).map((which) => ({ type: 'restart' as const, which })) },
  { weight: 2, arbitrary: fc.nat(1).map((which) => ({ type: 'say' as const, which })) },
)

test('both sides end with the same link, the best there is, through any comings and goings', async (t) => {
  await fc.assert(fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 120, size: 'max' }), async (steps) => {
    const sides: [Side, Side] = [new Side(KEYS[0], 1), new Side(KEYS[1], 2)]
    let made = 0
    const all: FakeConn[] = []
    const connect = (transport: Transport) => {
      if (all.filter(({ state }) => state !== 'closed').length >= 6) return // three connections, of the four that are allowed
      const linkId = Buffer.alloc(8)
      linkId.writeUInt32LE(++made)
      const pair = [0, 1].map((i) => new FakeConn(sides[i]!, KEYS[1 - i]!, linkId, { transport })) as [FakeConn, FakeConn]
      pair[0].other = pair[1]
      pair[1].other = pair[0]
      all.push(...pair)
      for (const conn of pair) {
        conn.side.conns.push(conn)
        conn.side.board.add(conn.real)
      }
    }
    const settle = async () => {
      for (;;) {
        // A probe that finds nothing ends what it probed; a dead wire is noticed in the end.
        for (const conn of all) if (conn.state !== 'closed' && (conn.isCut || conn.other.state === 'closed') && conn.inbox.length === 0) conn.close('no answer', false)
        await Promise.resolve()
        const busy = all.filter((conn) => conn.inbox.length > 0 && conn.state !== 'closed')
        if (busy.length === 0) break
        for (const conn of busy) await conn.deliver()
      }
      await new Promise((resolve) => setImmediate(resolve))
    }
    for (const action of steps) {
      const alive = all.filter(({ state }) => state !== 'closed')
      if (action.type === 'connect') connect(action.transport)
      if (action.type === 'deliver') {
        const waiting = alive.filter(({ inbox }) => inbox.length > 0)
        if (waiting.length > 0) await waiting[action.pick % waiting.length]!.deliver()
      }
      if (action.type === 'cut' && alive.length > 0) {
        const conn = alive[action.pick % alive.length]!
        conn.isCut = conn.other.isCut = true
        if (action.atA) conn.close('the connection broke', false)
        if (action.atB) conn.other.close('the connection broke', false)
      }
      if (action.type === 'say') {
        const { link } = sides[action.which]!
        if (link && link.state === 'active') link.say({ type: 'message', linkId: link.linkId })
      }
      if (action.type === 'restart') {
        const old = sides[action.which]!
        for (const conn of all) {
          if (conn.side !== old) continue
          conn.state = 'closed'
          conn.isCut = conn.other.isCut = true
        }
        sides[action.which] = new Side(KEYS[action.which]!, 10 + made + steps.indexOf(action))
      }
    }
    await settle()
    await settle()
    const [a, b] = sides
    // And the next one works.
    if (!a.link) {
      connect('tcp')
      await settle()
      await settle()
      if (a.link === undefined) return false
    }
    if ((a.link === undefined) !== (b.link === undefined)) return false
    if (a.link && b.link && !(a.link.linkId.equals(b.link.linkId) && a.link.state === 'active' && b.link.state === 'active')) return false
    // The best of what is alive at both ends.
    const whole = a.conns.filter((conn) => conn.state !== 'closed' && conn.other.state !== 'closed')
    if (whole.length > 0 && !a.link) return false
    return !(a.link?.origin.transport === 'udx' && whole.some(({ origin }) => origin.transport === 'tcp'))
  }), { numRuns: 3000 })
  t.pass()
})

test('nothing that was remembered is needed: the end of a link is told or it is not', (t) => {
  const side = new Side(KEYS[0], 1)
  t.alike(side.board.endedWith(KEYS[1]), NO_LINK)
  t.absent(side.board.isLinked(KEYS[1]))
})
