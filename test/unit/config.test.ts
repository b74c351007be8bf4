import test from 'brittle'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { loadConfig, parseEnv } from '../../lib/config.js'
import { codeOf, scratchDir } from '../helpers/scratch.js'

const HOME = { HOME: '/home/u' }

test('the store: option, environment, .env file, XDG, home', (t) => {
  const cwd = scratchDir(t)
  writeFileSync(join(cwd, '.env'), 'DFS_STORE=from-file\nDFS_PASSPHRASE_FILE=~/pass\nOTHER=1\n')
  const env = { ...HOME, XDG_DATA_HOME: '/xdg', DFS_STORE: '/from-env' }
  const config = (options: { store?: string }, e: NodeJS.ProcessEnv, where = cwd) => {
    const { store, storeFrom } = loadConfig({ options, env: e, cwd: where })
    return [store, storeFrom]
  }
  t.alike(config({ store: 'x' }, env), [join(cwd, 'x'), 'option'])
  t.alike(config({}, env), ['/from-env', 'environment'])
  t.alike(config({}, HOME), [join(cwd, 'from-file'), '.env'])
  t.alike(config({}, { ...HOME, DFS_STORE: '' }), [join(cwd, 'from-file'), '.env'], 'an empty variable is none')
  t.alike(config({}, { ...HOME, XDG_DATA_HOME: '/xdg' }, '/'), ['/xdg/dfs', 'default'])
  t.alike(config({}, { ...HOME, XDG_DATA_HOME: 'relative' }, '/'), ['/home/u/.local/share/dfs', 'default'])
  t.alike(config({}, HOME, '/'), ['/home/u/.local/share/dfs', 'default'])
  t.alike(config({ store: '~/drive' }, HOME, '/'), ['/home/u/drive', 'option'])
  t.is(loadConfig({ env: HOME, cwd }).passphraseFile, '/home/u/pass')
})

test('the passphrase file: a path, or - for standard input; the device name', (t) => {
  t.is(loadConfig({ options: { passphraseFile: '-' }, env: HOME, cwd: '/' }).passphraseFile, '-')
  t.is(loadConfig({ env: { ...HOME, DFS_PASSPHRASE_FILE: 'p' }, cwd: '/tmp' }).passphraseFile, '/tmp/p')
  t.is(loadConfig({ env: HOME, cwd: '/' }).passphraseFile, undefined)
  t.is(loadConfig({ env: { ...HOME, NODE_ID: 'laptop' }, cwd: '/' }).deviceName, 'laptop')
})

test('an empty option is a mistake', async (t) => {
  t.is(await codeOf(() => loadConfig({ options: { store: '' }, env: HOME, cwd: '/' })), 'USAGE')
  t.is(await codeOf(() => loadConfig({ options: { passphraseFile: '' }, env: HOME, cwd: '/' })), 'USAGE')
})

test('.env: comments, quotes, export, and names of others', (t) => {
  t.alike(parseEnv('# DFS_STORE=/no\nexport DFS_STORE = "/a b#c" # why\r\nNODE_ID=\'x\'\nPATH=/evil\nnonsense\n=\n'), { DFS_STORE: '/a b#c', NODE_ID: 'x' })
  t.alike(parseEnv('DFS_STORE=/plain # comment'), { DFS_STORE: '/plain' })
  t.alike(parseEnv('DFS_STORE=/with#hash'), { DFS_STORE: '/with#hash' })
  t.alike(parseEnv('DFS_STORE=#nothing'), { DFS_STORE: '' })
})

test('the network: addresses, port, discovery, a DHT; option before environment before file', async (t) => {
  const cwd = scratchDir(t)
  writeFileSync(join(cwd, '.env'), 'NODE_PORT=1\nDFS_DISCOVERY=lan\nDFS_BOOTSTRAP=10.0.0.1:1\n')
  const network = (options: object, env: NodeJS.ProcessEnv = {}, where = cwd) => loadConfig({ options, env: { ...HOME, ...env }, cwd: where }).network
  t.alike(network({}), { peers: [], port: 1, bootstrap: ['10.0.0.1:1'], discovery: ['lan'] })
  t.alike(network({}, { NODE_PORT: '2', DFS_DISCOVERY: 'dht, lan', DFS_BOOTSTRAP: 'a:1, b:2' }), { peers: [], port: 2, bootstrap: ['a:1', 'b:2'], discovery: ['dht', 'lan'] })
  t.alike(network({ peer: ['[::1]:5', 'host:6'], port: '0', discovery: 'none' }, { NODE_PORT: '2' }), { peers: ['[::1]:5', 'host:6'], port: 0, bootstrap: ['10.0.0.1:1'], discovery: [] })
  t.alike(network({}, {}, '/'), { peers: [], discovery: ['dht', 'lan'] })
  for (const options of [{ peer: ['host'] }, { peer: ['host:0'] }, { port: 'x' }, { port: '70000' }, { discovery: 'wan' }, { discovery: 'none,lan' }, { bootstrap: 'x', discovery: 'dht' }, { bootstrap: 'h:1', discovery: 'lan' }]) {
    t.is(await codeOf(() => network(options, {}, '/')), 'USAGE', JSON.stringify(options))
  }
  t.is(await codeOf(() => network({}, { DFS_DISCOVERY: 'everywhere' })), 'USAGE')
})
