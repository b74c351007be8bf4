import type { Command } from 'commander'
import type { DriveStatus, NetworkStatus, PeerStatus } from '../../lib/api.js'
import { Client } from '../../lib/client.js'
import { fail } from '../../lib/errors.js'
import { run, type GlobalOptions } from '../context.js'
import { formatBytes, visible, writeJson, writeLine } from '../output.js'
import { writeTable } from '../table.js'

interface Options extends GlobalOptions { json?: boolean; forget?: string }

const VIA = { lan: 'TCP, local network', tcp: 'TCP', holepunched: 'UDP, direct', relayed: 'UDP, relayed' }

export function define(command: Command): void {
  command
    .description(`Shows which devices of the drive are connected now: how (over TCP in the local network or beyond, or
over UDP through NATs, directly or relayed by another device), at which address, how long a round trip takes, how many
log entries each side still owes the other, and how much came and went. What content is still to
come is in \`dfs status\`. Without a daemon nobody is connected.`)
    .option('--forget <host:port>', 'do not try this address any more, once the daemon is started again')
    .option('--json', 'print one JSON object')
    .addHelpText('after', `
Examples:
  dfs peers
  dfs peers --json | jq -r '.peers[].name'
  dfs mount --peer 192.168.1.5:4977 /mnt/dfs       adds an address, also while the daemon runs`)
    .action((options: Options) => run(command, async (context) => {
      const drive = await context.drive()
      if (options.forget !== undefined) {
        if (!(await drive.forgetPeer(options.forget))) throw fail('ENOENT', `${options.forget} is not among the addresses that are kept; dfs peers lists them`)
        await drive.sync()
        context.say(`${options.forget} is forgotten.`)
        return
      }
      const status = await drive.status()
      const isRunning = drive instanceof Client
      const { peers, network, knownPeers } = status
      if (options.json) return writeJson({ peers, network, knownPeers, daemon: isRunning })
      if (peers.length > 0) await list(peers)
      else await writeLine(isRunning ? 'No other device is connected.' : 'No daemon runs for this store, so no device is connected: see dfs mount and dfs serve.')
      await explain(status, network)
    }))
}

async function list(peers: PeerStatus[]): Promise<void> {
  await writeTable([
    ['NAME', 'ROLE', 'VIA', 'ADDRESS', 'ROUND TRIP', 'OWED TO IT', 'BY IT', 'IN', 'OUT'],
    ...peers.map((p) => [
      p.name, p.role, VIA[p.via], p.address, `${p.rttMs.toFixed(p.rttMs < 10 ? 1 : 0)} ms`, String(p.owedToPeer), String(p.owedFromPeer), formatBytes(p.bytesIn), formatBytes(p.bytesOut),
    ]),
  ], [4, 5, 6, 7, 8])
}

/** Where it looks, and what came of the addresses that were given and lead nowhere. */
async function explain({ knownPeers }: DriveStatus, network: NetworkStatus | null): Promise<void> {
  if (!network) {
    if (knownPeers.length > 0) await writeLine(`Addresses that will be tried: ${knownPeers.map(visible).join(', ')}`)
    return
  }
  await writeLine(`Listening on TCP port ${network.port}; ${discovery(network)}.`)
  for (const d of network.dials) {
    if (d.from === 'given' && d.lastError && d.state !== 'connected' && d.state !== 'resting') await writeLine(`${visible(d.address)}: ${visible(d.lastError)}; tried again`)
  }
}

export function discovery({ dht, lan }: NetworkStatus): string {
  const where = dht.bootstrap ? `the private DHT at ${dht.bootstrap.map(visible).join(', ')}` : 'the public DHT'
  const ways = [
    ...(dht.isOn ? [`${where} (${dht.isOnline ? `${dht.nodes} nodes` : 'which does not answer'})`] : []),
    ...(lan.isOn ? ['the local network'] : []),
  ]
  return ways.length > 0 ? `looking for devices over ${ways.join(' and ')}` : 'discovery is off'
}
