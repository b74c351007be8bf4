/** Until all that is known now is where it is to be: writers that go on must not make that last for ever, and nothing else may shorten it. */
import test from 'brittle'
import { Awaited } from '../../lib/placement/awaited.js'
import { Plan } from '../../lib/placement/plan.js'
import { NO_PLAN, type Report } from '../../lib/placement/report.js'
import { GB, placed } from '../helpers/placing.js'

const DEVICES = [1, 2, 3].map((n) => placed(n, n * 100 * GB))
const plan = new Plan({ devices: DEVICES, wanted: 2, self: DEVICES[0]!.key })
const [self, second, third] = DEVICES.map((d) => d.key.toString('hex')) as [string, string, string]

function setUp(withPlan = true) {
  const state = { here: [] as number[], isLaid: true, lacked: [] as number[], isExact: true, plan: withPlan ? plan : null, reports: new Map<string, { lacks: number[]; seq: number; plan: Buffer; isExact: boolean }>() }
  const say = (peer: string, seq: number, lacks: number[], by: { digest: Buffer } = withPlan ? plan : { digest: NO_PLAN }, isExact = true) => state.reports.set(peer, { lacks, seq, plan: by.digest, isExact })
  const lackOf = (groups: number[]) => new Map(groups.map((group) => [group, { chunks: 1, bytes: 1 }]))
  const awaited = new Awaited({
    keeping: {
      get plan() { return state.plan }, get isLaid() { return state.isLaid }, get size() { return state.here.length },
      missing: () => lackOf(state.here),
    },
    reports: {
      of: (peer) => {
        const r = state.reports.get(peer)
        return r && { plan: r.plan, lacks: lackOf(r.lacks), whole: Buffer.alloc(8192, r.isExact ? 255 : 0) } as unknown as Report
      },
      knows: (peer, logs) => (state.reports.get(peer)?.seq ?? 0) >= logs.get('log')!,
    },
    self, others: () => [second, third], lacksOfAll: () => ({ byGroup: lackOf(state.lacked), isExact: state.isExact }),
  }, new Map([['log', 5]]))
  return { state, say, devices: () => awaited.devices().sort() }
}
const sorted = (...peers: string[]) => peers.sort()

test('a device is awaited until each group was whole once since it knew of the logs', (t) => {
  const { state, say, devices } = setUp()
  state.here = [20, 21]
  t.alike(devices(), sorted(self, second, third), 'who has said nothing')
  say(second, 4, [])
  say(third, 5, [])
  t.alike(devices(), sorted(self, second), 'whole, but as of earlier entries')
  say(second, 6, [10, 11])
  t.alike(devices(), sorted(self, second))
  say(second, 7, [11, 12])
  state.here = [21, 22]
  t.alike(devices(), sorted(self, second), 'one group is left, and what is newer does not count')
  say(second, 8, [10, 12, 13])
  state.here = [20, 22]
  t.alike(devices(), [], 'there is always something that is lacked, and all of the time before is there')
})

test('another plan begins anew', (t) => {
  const { state, say, devices } = setUp()
  say(second, 5, [])
  say(third, 5, [])
  t.alike(devices(), [])
  state.plan = new Plan({ devices: DEVICES, wanted: 3, self: DEVICES[0]!.key })
  state.isLaid = false
  t.alike(devices(), sorted(self, second, third), 'nobody has said anything by it')
  state.isLaid = true
  say(second, 5, [1], state.plan)
  say(third, 5, [], state.plan)
  t.alike(devices(), [second])
})

test('without a plan others are awaited too, and here as there each group once', (t) => {
  const { state, say, devices } = setUp(false)
  say(second, 5, [0])
  say(third, 3, [])
  state.lacked = [7, 8]
  t.alike(devices(), sorted(self, second, third))
  state.lacked = [8, 9]
  say(second, 6, [1])
  say(third, 5, [])
  t.alike(devices(), [self])
  state.lacked = [7, 9]
  t.alike(devices(), [], 'what is newer does not count')
})

test('what is too much to be told by group is awaited until it is told', (t) => {
  const { state, say, devices } = setUp(false)
  say(third, 5, [])
  say(second, 5, [0], undefined, false)
  Object.assign(state, { lacked: [0], isExact: false })
  t.alike(devices(), sorted(self, second))
  say(second, 6, [3, 4])
  Object.assign(state, { lacked: [5], isExact: true })
  t.alike(devices(), sorted(self, second), 'other groups than the one that all was said under')
  say(second, 7, [4])
  t.alike(devices(), sorted(self, second))
  say(second, 8, [9])
  state.lacked = []
  t.alike(devices(), [])
})
