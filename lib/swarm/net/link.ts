/**
 * What the rest of dfs sees of the network: a `Net` finds the other devices of
 * a drive and keeps one `Link` to each. docs/protocol.md has the bytes,
 * lib/limits.ts the bounds that are named here.
 */

export interface NetOptions {
  /** Ed25519, 32 and 64 bytes; also the device's Noise static key. */
  device: { publicKey: Buffer; secretKey: Buffer }
  /** 32 bytes each, from lib/keys/derive.ts. */
  driveId: Buffer
  topic: Buffer
  proofKey: Buffer
  /** TCP port to listen on; 0 or absent: any. If a given one is taken, ready() fails. */
  port?: number
  /** Address to listen on, for TCP and the DHT; absent: all. */
  host?: string
  /** 'HOST:PORT' or '[V6]:PORT' of devices to connect to, as given with --peer. Tried for ever. */
  peers?: string[]
  /** Where devices were in earlier runs (Link.reachedAt), by their public keys in hex. */
  kept?: { device: string; addresses: string[] }[]
  /** 'HOST:PORT' of the bootstrap nodes of a private DHT; absent: the public one. */
  bootstrap?: string[]
  /** Listen for TCP and dial it. Default true; without it hyperswarm carries all. */
  tcp?: boolean
  /** Look for devices over hyperswarm. Default true. */
  dht?: boolean
  /** Look for devices on the local network, for TCP. Default true. */
  mdns?: boolean
  /** Bytes for the peer, at most MAX_HELLO_BYTES; called for each handshake. */
  hello: () => Uint8Array
}

/**
 * 'now' overtakes all that is queued as 'bulk'. Messages of one priority keep
 * their order; nothing is said of the order between the two.
 */
export type Priority = 'now' | 'bulk'

/** lan: TCP to a private address or one in a network of this machine; tcp: TCP to any other; holepunched: UDP that hyperswarm brought about; relayed: UDP through another device of the drive, which passes on what it cannot read. */
export type Via = 'lan' | 'tcp' | 'holepunched' | 'relayed'

/**
 * The one link to a peer. At any time there is at most one to each device: where
 * a better connection comes up, or the peer restarts, the old link closes with
 * the reason 'replaced' and `Net.onLink` gives the new one, mostly in the same tick.
 * What the old one had queued or in flight may or may not have arrived.
 *
 * A message that comes before onMessage is set waits for it. Handlers run on the
 * main thread and must not throw.
 */
export interface Link {
  /** The device's public key, 32 bytes, proven by Noise; the device has proven that it holds a key of this drive. */
  readonly peer: Buffer
  /** What the peer's `hello` gave: authentic, still to be checked. */
  readonly hello: Buffer
  readonly via: Via
  /** 'HOST:PORT' of the other end. */
  readonly address: string
  /** 'HOST:PORT' at which the device may be reached over TCP another time: where it was reached, what it tells of itself, where it is seen. Worth keeping, not proven. */
  readonly reachedAt: string[]
  /** Smoothed; measured in the handshake, by pings after. Under load it holds the wait in the buffers below. */
  readonly rttMs: number
  /** Of messages, heads included: taken here, and handed to the network. */
  readonly bytesIn: number
  readonly bytesOut: number
  /** Bulk and now together, not handed to the network yet. The caller keeps it bounded; past MAX_QUEUED_BYTES the link closes. */
  readonly queuedBytes: number

  /** One message of 1..MAX_MESSAGE_BYTES. The bytes are given away: they are copied or transferred, so do not use them after. Nothing happens on a closed link. */
  send(bytes: Uint8Array, priority: Priority): void
  /**
   * One bulk message: `head`, then `length` bytes of a file from `offset`, read off the main thread when its turn comes.
   * Counts with head and length in queuedBytes. If the range cannot be read nothing is sent, and onFileError is called.
   */
  sendFile(head: Uint8Array, file: { path: string; offset: number; length: number }): void

  /**
   * The bytes are the handler's own. What is not taken yet counts against a bound, beyond which no more is read from the
   * peer: a handler that works asynchronously returns a promise, and the message counts until it settles.
   */
  onMessage: (bytes: Buffer) => void | Promise<void>
  /**
   * A large message, in memory that is used again: asked before onMessage. True: it is taken, and `giveBack` is called once, when
   * `bytes` are used no more. Otherwise onMessage gets a copy.
   */
  onLent?: ((bytes: Buffer, giveBack: () => void) => boolean) | undefined
  /** queuedBytes has fallen below LOW_WATER_BYTES after it was above. */
  onDrain: () => void
  /** A sendFile that was not sent: its head and what went wrong. */
  onFileError: (head: Buffer, error: Error) => void
  /** Once, last. 'replaced', 'closed' (by this side), or why it ended. */
  onClose: (reason: string) => void
  close(reason?: string): void
}

export interface NetStatus {
  /** Where this device listens for TCP, and the addresses it tells its peers. */
  port: number
  addresses: string[]
  dht: { isOn: boolean; /** Nodes of the DHT answer. */ isOnline: boolean; /** Of its routing table. */ nodes: number; /** The UDP port. */ port: number }
  mdns: { isOn: boolean }
  /** Connections whose handshake is not over. */
  halfOpen: number
  /** Addresses tried, with what came of it last. */
  dials: { address: string; from: 'given' | 'kept' | 'peer' | 'lan'; /** resting: its device is linked by TCP already, or it is this one. */ state: 'waiting' | 'dialling' | 'connected' | 'resting'; failures: number; lastError: string | undefined }[]
  /** Connections refused since the start, by reason. */
  refused: Record<string, number>
}
