/**
 * node dist/test/posix/self.js: clones this repository onto a fresh mount, does
 * npm ci and the build there, and lets what was built list a drive of its own.
 * Needs the network, or npm's cache, for npm ci.
 */
import { join } from 'node:path'
import { makeMount } from '../helpers/mount.js'
import { must, need, REPOSITORY } from '../helpers/run.js'

async function main(): Promise<void> {
  need(['git', 'git'], ['npm', 'npm'])
  const mount = await makeMount()
  try {
    const clone = join(mount.dir, 'dfs')
    const step = async (what: string, program: string, args: string[], cwd = clone) => {
      const start = performance.now()
      const printed = await must(program, args, { cwd })
      console.log(`${what}: ${((performance.now() - start) / 1000).toFixed(1)} s`)
      return printed
    }
    await step('git clone', 'git', ['-c', 'safe.directory=*', 'clone', '-q', '--no-local', REPOSITORY, clone], mount.dir)
    await step('npm ci', 'npm', ['ci', '--no-audit', '--no-fund'])
    await step('npm run build', 'npm', ['run', 'build'])
    // Everything from the store again: the modules, and the addon, which is mapped.
    await mount.remount()
    const own = ['--store', join(mount.scratch, 'second')]
    const dfs = join(clone, 'dist/bin/dfs.js')
    await step('dfs create', process.execPath, [dfs, ...own, 'create'])
    await step('dfs put', process.execPath, [dfs, ...own, 'put', '-r', join(clone, 'lib'), '/'])
    console.log(await step('dfs ls', process.execPath, [dfs, ...own, 'ls', '/lib']))
    await step('dfs fsck', process.execPath, [dfs, ...own, 'fsck', '--data'])
    const { code, stdout, stderr } = await mount.dfs('fsck', '--data')
    if (code !== 0) throw new Error(`fsck of the drive that held it: exit code ${code}\n${stdout}${stderr}`)
  } finally {
    await mount.close()
  }
}

main().catch((e: unknown) => {
  console.error(e instanceof Error ? e.message : String(e))
  process.exitCode = 1
})
