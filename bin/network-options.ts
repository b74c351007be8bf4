/** The options by which commands say how to reach the other devices; lib/config.ts reads them. */
import { Option, type Command } from 'commander'

const collect = (value: string, all: string[] | undefined) => [...(all ?? []), value]

export function peerOption(): Option {
  return new Option('--peer <host:port>', 'where a device of the drive listens; may be given again, and is remembered').argParser(collect)
}

export function addNetworkOptions(command: Command): Command {
  return command
    .addOption(peerOption())
    .option('--port <port>', 'the TCP port to listen on (default: NODE_PORT, else the last one, else any)')
    .option('--discovery <ways>', 'where to look for devices: dht,lan or one of them, or none (default: DFS_DISCOVERY, else dht,lan)')
    .option('--bootstrap <addresses>', 'nodes of a private DHT, HOST:PORT, separated by commas (default: DFS_BOOTSTRAP, else the public DHT)')
}
