/**
 * The network of a served drive: a Swarm with the settings of the daemon, what
 * the store remembers of addresses, and what is told of it (`dfs peers`,
 * `dfs status`).
 *
 * Owned by the drive, which closes it.
 */
import type { NetworkStatus, PeerStatus } from '../api.js'
import type { NetworkConfig } from '../config.js'
import type { Clock } from '../clock.js'
import type { DriveNetwork } from '../drive.js'
import { isDfsError } from '../errors.js'
import type { Database } from '../store/database.js'
import type { SwarmHost } from '../swarm/host.js'
import { keepAddresses, keptAddresses, knownPeers, lastPort, noteSeen, rememberPeers, rememberPort } from '../swarm/known-peers.js'
import type { NetStatus } from '../swarm/net/link.js'
import { Swarm, type SwarmOptions } from '../swarm/swarm.js'

/** So often it is noted who is connected; a daemon that is killed has lost no more. */
const NOTE_MS = 600_000

export interface StartOptions {
  /** What a person should know: a lying peer, a fork. */
  onNotice(text: string): void
  /** Listens elsewhere if the port that was asked for is taken. */
  anyPort?: boolean
}

/** A Drive, or a StoragePeer. */
export interface Served extends SwarmHost {
  readonly db: Database
  readonly clock: Clock
  network: DriveNetwork | null
}

export class ServedNetwork implements DriveNetwork {
  readonly #drive: Served
  readonly #swarm: Swarm
  readonly #config: NetworkConfig
  readonly #timer: NodeJS.Timeout

  private constructor(drive: Served, swarm: Swarm, config: NetworkConfig) {
    this.#drive = drive
    this.#swarm = swarm
    this.#config = config
    this.#timer = setInterval(() => this.#note(), NOTE_MS).unref()
  }

  /**
   * From now on the drive takes part. Listens where `config` says, else where it did last, so that addresses stay good; if others
   * have that port by now, on any. USAGE if the port that was asked for cannot be had.
   */
  static async start(drive: Served, config: NetworkConfig, { onNotice, anyPort = false }: StartOptions): Promise<void> {
    const { db, journal, clock } = drive
    if (rememberPeers(db, config.peers).length > 0) journal.touched()
    const open = async (port: number) => {
      const swarm = new Swarm(drive, { ...swarmOptions(config), port, peers: knownPeers(db), kept: keptAddresses(db, clock.nowMs()) })
      swarm.onNotice = onNotice
      swarm.onReached = (device, addresses) => {
        if (!journal.stopped && keepAddresses(db, device, addresses, clock.nowMs())) journal.touched('derived')
      }
      try {
        await swarm.ready()
        return swarm
      } catch (error) {
        await swarm.close()
        throw error
      }
    }
    const wanted = config.port ?? lastPort(db)
    const swarm = await open(wanted).catch((error: unknown) => {
      if (wanted === 0 || (config.port !== undefined && !anyPort) || !isDfsError(error, 'USAGE')) throw error
      return open(0)
    })
    if (swarm.net.port !== lastPort(db)) {
      rememberPort(db, swarm.net.port)
      journal.touched()
    }
    drive.network = new ServedNetwork(drive, swarm, config)
  }

  peers(): PeerStatus[] {
    return this.#swarm.peers()
  }

  /** Undefined for a moment after the network's thread had to be started again. */
  async status(): Promise<NetworkStatus | undefined> {
    const status = await this.#swarm.net.status()
    return status && { ...networkStatus(status, this.#config), wanted: this.#swarm.chunks.wanted }
  }

  dial(addresses: readonly string[]): void {
    for (const address of addresses) this.#swarm.net.addPeer(address)
  }

  announce(certificate: Buffer): void {
    this.#swarm.announce(certificate)
  }

  close(): Promise<void> {
    clearInterval(this.#timer)
    this.#note()
    return this.#swarm.close()
  }

  #note(): void {
    const { db, journal, clock } = this.#drive
    const devices = this.peers().map((p) => p.device)
    if (devices.length === 0 || journal.stopped) return
    noteSeen(db, devices, clock.nowMs())
    journal.touched('derived')
  }
}

/** As Swarm and Net take them. */
export function swarmOptions(config: NetworkConfig): SwarmOptions {
  return {
    ...(config.bootstrap && { bootstrap: config.bootstrap }),
    dht: config.discovery.includes('dht'), mdns: config.discovery.includes('lan'),
  }
}

function networkStatus(s: NetStatus, config: NetworkConfig): Omit<NetworkStatus, 'wanted'> {
  return {
    port: s.port, addresses: s.addresses,
    dht: { ...s.dht, bootstrap: config.bootstrap ?? null },
    lan: { isOn: s.mdns.isOn },
    dials: s.dials.map(({ lastError, ...dial }) => ({ ...dial, lastError: lastError ?? null })),
    refused: s.refused,
  }
}
