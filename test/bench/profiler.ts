/**
 * Loaded into the daemon by `npm run bench -- --profile` (node --import): SIGUSR2
 * starts a CPU profile of the main thread, the next one writes it to
 * BENCH_PROFILE_DIR, named by its number. The file appears whole, by rename.
 */
import { renameSync, writeFileSync } from 'node:fs'
import { Session } from 'node:inspector'
import { join } from 'node:path'
import { isMainThread } from 'node:worker_threads'

const dir = process.env.BENCH_PROFILE_DIR
if (dir && isMainThread) {
  const session = new Session()
  session.connect()
  session.post('Profiler.enable')
  session.post('Profiler.setSamplingInterval', { interval: 200 })
  let running = false
  let number = 0
  process.on('SIGUSR2', () => {
    running = !running
    if (running) return session.post('Profiler.start')
    session.post('Profiler.stop', (error, result) => {
      const path = join(dir, `${++number}.cpuprofile`)
      writeFileSync(`${path}.part`, JSON.stringify(error ?? result.profile))
      renameSync(`${path}.part`, path)
    })
  })
}
