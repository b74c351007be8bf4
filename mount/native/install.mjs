/**
 * Brings the addon: the committed build for this system where it loads, else one
 * compiled here. Run by npm after an install.
 *
 *   (no option)     use prebuilds/linux-<arch>/dfs.node, or compile
 *   --from-source   compile always; the loader prefers that build
 *   --prebuilds     compile both committed builds (arm64 with the cross compiler
 *                   of Debian's crossbuild-essential-arm64)
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))
const root = join(here, '..', '..')
const sources = ['session.c', 'notify.c', 'system.c', 'warm.c']
const require = createRequire(import.meta.url)

function quit(message) {
  console.error(`dfs: ${message}`)
  process.exit(1)
}

function loads(file) {
  try {
    require(file)
    return true
  } catch {
    return false
  }
}

/** The folder of node_api.h and uv.h; undefined where this node came without headers. */
function headers() {
  const dirs = [process.env.npm_config_nodedir && join(process.env.npm_config_nodedir, 'include', 'node'),
    join(dirname(process.execPath), '..', 'include', 'node')]
  return dirs.find(dir => dir && existsSync(join(dir, 'node_api.h')))
}

function compileDirectly(compiler, output) {
  mkdirSync(dirname(output), { recursive: true })
  execFileSync(compiler, ['-std=gnu11', '-O2', '-Wall', '-Wextra', '-Wno-unused-parameter', '-fPIC', '-fvisibility=hidden',
    '-shared', '-s', `-I${headers()}`, '-o', output, ...sources.map(file => join(here, file))], { stdio: 'inherit' })
}

function compile() {
  const compiler = process.env.CC || 'cc'
  if (spawnSync(compiler, ['--version']).status !== 0) {
    quit(`there is no build of the addon for ${process.platform}-${process.arch}, and no C compiler to make one; install gcc and python3 and make`)
  }
  const output = join(here, 'build', 'Release', 'dfs.node')
  if (headers()) {
    compileDirectly(compiler, output)
  } else {
    // node-gyp fetches the headers; npm puts it in the PATH of its scripts
    const gyp = process.env.npm_config_node_gyp
    const run = gyp ? spawnSync(process.execPath, [gyp, 'rebuild'], { cwd: here, stdio: 'inherit' })
      : spawnSync('node-gyp', ['rebuild'], { cwd: here, stdio: 'inherit' })
    if (run.status !== 0) quit('compiling the addon failed; see above')
  }
  if (!loads(output)) quit(`the addon was compiled but does not load: ${output}`)
}

function prebuild() {
  if (!headers()) quit('the headers of node are needed to make the committed builds')
  for (const [arch, compiler] of [['x64', 'x86_64-linux-gnu-gcc'], ['arm64', 'aarch64-linux-gnu-gcc']]) {
    compileDirectly(compiler, join(root, 'prebuilds', `linux-${arch}`, 'dfs.node'))
  }
}

if (process.platform === 'linux') {
  if (process.argv.includes('--prebuilds')) prebuild()
  else if (process.argv.includes('--from-source')) compile()
  else if (!loads(join(root, 'prebuilds', `linux-${process.arch}`, 'dfs.node'))) compile()
}
