/**
 * The process of the daemon. Started by dfs mount and dfs serve, never by hand:
 * its order comes over standard input, its answer goes out over descriptor 3
 * (lib/service/launch.ts).
 */
import { answerStart, readOrder, startFailure } from '../lib/service/launch.js'
import { serve } from './serving.js'

// Whatever the daemon makes is its user's alone; the modes of files in the drive are given in full.
process.umask(0o077)
// Must not keep any file system busy.
process.chdir('/')

try {
  const { order, ended } = await readOrder(process.stdin)
  const isWell = await serve(order, {
    started: ({ created }) => answerStart({ ok: true, pid: process.pid, created }),
    failed: (error) => answerStart(startFailure(error)),
    ...(order.foreground && { ended }),
  })
  // Sessions whose users would not go keep the event loop alive: they end here.
  process.exit(isWell ? 0 : 1)
} catch (error) {
  answerStart(startFailure(error))
  process.exit(1)
}
