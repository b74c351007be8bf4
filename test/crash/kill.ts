/** node dist/test/crash/kill.js [--kills 200] [--seed N] [--writers 3] [--max-life MS] [--keep]: the long run of the kill loop. */
import { parseArgs } from 'node:util'
import { makeMount } from '../helpers/mount.js'
import { killLoop } from './loop.js'

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      kills: { type: 'string', default: '200' }, seed: { type: 'string', default: '1' }, writers: { type: 'string', default: '3' }, 'max-life': { type: 'string', default: '1500' },
      keep: { type: 'boolean', default: false },
    },
  })
  const mount = await makeMount()
  let failed = true
  try {
    const report = await killLoop(mount, { kills: Number(values.kills), seed: Number(values.seed), writers: Number(values.writers), maxLifeMs: Number(values['max-life']), onRound: (text) => console.log(text) })
    if (!report.problems.length) {
      await mount.unmount()
      const { code, stdout, stderr } = await mount.dfs('fsck', '--data')
      if (code !== 0) report.problems.push(`fsck --data of the unmounted store: exit code ${code}\n${stdout}${stderr}`)
    }
    for (const text of report.problems) console.log(text)
    failed = report.problems.length > 0
    console.log(`${report.kills} kills, ${report.files} files and ${report.fsyncs} fsyncs checked: ${failed ? `${report.problems.length} problems` : 'every promise kept'}`)
  } finally {
    if (failed && values.keep) console.log(`kept: ${mount.scratch}`)
    else await mount.close()
  }
  return failed ? 1 : 0
}

main().then((code) => { process.exitCode = code }, (e: unknown) => {
  console.error(e instanceof Error ? e.message : String(e))
  process.exitCode = 1
})
