import test from 'brittle'
import { writeFileSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { COMMANDS } from '../../bin/commands/index.js'
import { makeCli } from '../helpers/cli.js'
import { hasProgram, must } from '../helpers/run.js'

test('bash completes commands, options, choices and files', { timeout: 60_000 }, async (t) => {
  const cli = makeCli(t)
  const script = join(cli.dir, 'dfs.bash')
  writeFileSync(script, await cli.ok('completion', 'bash'))
  mkdirSync(join(cli.dir, 'folder one'))
  writeFileSync(join(cli.dir, 'file'), '')
  const complete = async (...words: string[]) => {
    const list = words.map((w) => `'${w}'`).join(' ')
    const text = await must('bash', ['-c', `. "${script}"; COMP_WORDS=(${list}); COMP_CWORD=${words.length - 1}; _dfs; printf '%s\\n' "\${COMPREPLY[@]}"`], { cwd: cli.dir })
    return text.split('\n').filter(Boolean)
  }
  t.alike(await complete('dfs', 'unm'), ['unmount'])
  t.is((await complete('dfs', '')).filter((w) => !w.startsWith('-')).length, COMMANDS.length)
  t.alike(await complete('dfs', 'put', '--rec'), ['--recursive'])
  t.alike(await complete('dfs', 'mount', '--driver', 'k'), ['kernel'])
  t.alike(await complete('dfs', '--store', 'fo'), ['folder one'])
  t.alike(await complete('dfs', '--store', 'x', 'mo'), ['mount'])
  t.alike(await complete('dfs', 'mount', 'f'), ['folder one'])
  t.alike((await complete('dfs', 'put', 'f')).sort(), ['file', 'folder one', 'dfs.bash'].filter((f) => f.startsWith('f')).sort())
  t.alike(await complete('dfs', 'completion', 'z'), ['zsh'])
  t.alike(await complete('dfs', 'conflicts', ''), ['resolve'])
  t.alike(await complete('dfs', 'service', 'uni'), ['uninstall'])
  t.alike(await complete('dfs', 'service', 'install', '--mem'), ['--memory-max'])
  t.alike(await complete('dfs', 'conflicts', 'resolve', '/a', '--keep', 'm'), ['mine'])
})

for (const shell of ['zsh', 'fish']) {
  test(`the ${shell} script names every command${hasProgram(shell) ? ', and parses' : ''}`, { timeout: 60_000 }, async (t) => {
    const cli = makeCli(t)
    const text = await cli.ok('completion', shell)
    for (const { name } of COMMANDS) t.ok(text.includes(name), name)
    const script = join(cli.dir, 'script')
    writeFileSync(script, text)
    if (hasProgram(shell)) await must(shell, ['-n', script])
  })
}
