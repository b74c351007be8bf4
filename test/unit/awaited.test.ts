/** Until all that is known now is where it is to be: writers that go on must not make that last for ever, and nothing else may shorten it. */
import test from 'brittle'
import { Awaited } from '../../lib/placement/awaited.js'
import { Plan } from '../../lib/placement/plan.js'
import type { Report } from '../../lib/placement/report.js'
import { GB, placed } from '../helpers/placing.js'

const DEVICES = [1, 2, 3].map((n) => placed(n, n * 100 * GB))
const plan = new Plan(DEVICES, 2, DEVICES[0]!.key)
const [self, second, third] = DEVICES.map((d) => d.key.toString('hex')) as [string, string, string]

function setUp(withPlan = true) {
  const state = { here: [] as number[], isLaid: true, isLacking: false, plan: withPlan ? plan : null, reports: new Map<string, { lacks: number[]; seq: number; plan: Buffer }>() }
  const say = (peer: string, seq: number, lacks: number[], by = plan) => state.reports.set(peer, { lacks, seq, plan: by.digest })
  const awaited = new Awaited({
    keeping: {
      get plan() { return state.plan }, get isLaid() { return state.isLaid }, get size() { return state.here.length },
      missing: () => new Map(state.here.map((group) => [group, { chunks: 1, bytes: 1 }])),
    },
    reports: {
      of: (peer) => {
        const r = state.reports.get(peer)
        return r && { plan: r.plan, lacks: new Map(r.lacks.map((group) => [group, { chunks: 1, bytes: 1 }])) } as Report
      },
      knows: (peer, logs) => (state.reports.get(peer)?.seq ?? 0) >= logs.get('log')!,
    },
    self, others: () => [second, third], isLacking: () => state.isLacking,
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
  state.plan = new Plan(DEVICES, 3, DEVICES[0]!.key)
  state.isLaid = false
  t.alike(devices(), sorted(self, second, third), 'nobody has said anything by it')
  state.isLaid = true
  say(second, 5, [1], state.plan)
  say(third, 5, [], state.plan)
  t.alike(devices(), [second])
})

test('without a plan others are awaited too', (t) => {
  const { state, say, devices } = setUp(false)
  say(second, 5, [0])
  say(third, 3, [])
  state.isLacking = true
  t.alike(devices(), sorted(self, second, third))
  state.isLacking = false
  say(second, 5, [])
  say(third, 5, [])
  t.alike(devices(), [])
})
