/** The parts of the Holepunch packages that dfs uses; they have no types of their own. */

declare module 'b4a' {
  const b4a: {
    from(text: string, encoding?: BufferEncoding): Buffer
    toString(bytes: Uint8Array, encoding?: BufferEncoding): string
    equals(a: Uint8Array, b: Uint8Array): boolean
    toBuffer(bytes: Uint8Array): Buffer
  }
  export default b4a
}

declare module 'noise-curve-ed' {
  const curve: object
  export default curve
}

declare module 'noise-handshake' {
  /** Throws where the other side does not keep to the pattern, or has not the key that it claims. */
  export default class Noise {
    constructor(pattern: 'XX', isInitiator: boolean, keyPair: { publicKey: Uint8Array; secretKey: Uint8Array }, options: { curve: object })
    initialise(prologue: Uint8Array): void
    send(): Uint8Array
    recv(message: Uint8Array): Uint8Array
    readonly complete: boolean
    /** From then on: 32 bytes each (64 with what follows the key), the hash 64. */
    readonly tx: Uint8Array | null
    readonly rx: Uint8Array | null
    readonly hash: Uint8Array | null
    /** The other side's static key. */
    readonly rs: Uint8Array | null
  }
}

declare module '@hyperswarm/secret-stream' {
  import type { Duplex } from 'node:stream'
  import type { EventEmitter } from 'node:events'
  interface KeyPair { publicKey: Uint8Array; secretKey: Uint8Array }
  interface Options { keyPair?: KeyPair; autoStart?: boolean; data?: Uint8Array; enableSend?: boolean }
  /** A streamx duplex: close to Node's, for what is used here. */
  export default class SecretStream extends EventEmitter {
    constructor(isInitiator: boolean, rawStream: Duplex | null, options?: Options)
    readonly isInitiator: boolean
    readonly rawStream: EventEmitter & { remoteHost?: string | null; remotePort?: number }
    readonly publicKey: Buffer
    readonly remotePublicKey: Buffer
    /** 64 bytes, the same at both ends; null before the handshake. */
    readonly handshakeHash: Buffer | null
    /** False if it was destroyed before. */
    readonly opened: Promise<boolean>
    readonly destroying: boolean
    /** Room for one message, encrypted in place if it is the next one written. */
    alloc(length: number): Buffer
    /** False: wait for 'drain'. */
    write(data: Uint8Array): boolean
    end(): void
    destroy(error?: Error): void
    setKeepAlive(ms: number): void
    sendKeepAlive(): void
    resume(): this
  }
}

declare module 'hyperdht' {
  import type { EventEmitter } from 'node:events'
  import type SecretStream from '@hyperswarm/secret-stream'
  interface Address { host: string; port: number }
  export interface Server extends EventEmitter {
    /** True refuses the handshake before anything is allocated for a stream. */
    firewall: (remotePublicKey: Buffer, payload: unknown, address: Address | null) => boolean | Promise<boolean>
    /** Handshakes under way, by their first message. */
    readonly _connects: Map<string, unknown>
  }
  export interface DhtOptions {
    /** Under which it connects where no other key is given. */
    keyPair?: { publicKey: Uint8Array; secretKey: Uint8Array }
    bootstrap?: (string | Address)[]
    port?: number
    host?: string
    ephemeral?: boolean
    firewalled?: boolean
    anyPort?: boolean
  }
  export default class DHT extends EventEmitter {
    constructor(options?: DhtOptions)
    static keyPair(): { publicKey: Buffer; secretKey: Buffer }
    static bootstrapper(port: number, host: string, options?: DhtOptions): DHT
    readonly online: boolean
    readonly nodes: Iterable<Address>
    address(): Address & { family: number }
    fullyBootstrapped(): Promise<void>
    /** Asks other nodes whether it can be reached unasked; `onlyFirewall`: and no more than that. */
    _updateNetworkState(onlyFirewall: boolean): Promise<boolean>
    readonly firewalled: boolean
    toArray(options?: { limit?: number }): Address[]
    connect(remotePublicKey: Uint8Array, options?: object): SecretStream
    createRawStream(options: object): object
    createServer(options: object, onConnection: (stream: SecretStream) => void): Server & { listen(keyPair: object): Promise<void>; close(): Promise<void> }
    destroy(options?: { force?: boolean }): Promise<void>
  }
}

declare module 'hyperdht/testnet.js' {
  import type DHT from 'hyperdht'
  export interface Testnet { nodes: DHT[]; bootstrap: { host: string; port: number }[]; destroy(): Promise<void> }
  export default function createTestnet(size: number, options?: { host?: string; port?: number; teardown?: (action: () => unknown) => void }): Promise<Testnet>
}

declare module 'hyperswarm' {
  import type { EventEmitter } from 'node:events'
  import type SecretStream from '@hyperswarm/secret-stream'
  import type DHT from 'hyperdht'
  import type { Server } from 'hyperdht'
  interface Discovery { flushed(): Promise<boolean>; refresh(): Promise<void>; destroy(): Promise<void> }
  interface Options {
    keyPair: { publicKey: Uint8Array; secretKey: Uint8Array }
    dht: DHT
    maxPeers?: number
    maxParallel?: number
    /** Milliseconds after the first, second, third and later failures. */
    backoffs?: number[]
    /** Keys of devices to be relayed through, one of which is taken, or null. `isForced`: an attempt without has failed. Undefined for those who come in. */
    relayThrough?: (isForced: boolean | undefined) => Uint8Array[] | null
  }
  export default class Hyperswarm extends EventEmitter {
    constructor(options: Options)
    readonly dht: DHT
    readonly server: Server
    join(topic: Uint8Array, options?: { server?: boolean; client?: boolean }): Discovery
    /** Keeps trying to reach this device. */
    joinPeer(publicKey: Uint8Array): void
    leavePeer(publicKey: Uint8Array): void
    on(event: 'connection', listener: (stream: SecretStream, info: { publicKey: Buffer; /** Since the last success: decides when it is tried again. */ attempts: number }) => void): this
    on(event: 'update', listener: () => void): this
    destroy(options?: { force?: boolean }): Promise<void>
    /** Its own, and no promise: opened ones, and by key all that are open or being opened. */
    readonly connections: Set<SecretStream>
    protected readonly _allConnections: { get(publicKey: Uint8Array): SecretStream | undefined }
    protected _connect(peer: { publicKey: Buffer }, isQueued: boolean): void
    protected _handleServerConnection(stream: SecretStream): void
    protected _handleServerConnectionSwap(before: SecretStream, stream: SecretStream): void
  }
}

declare module 'blind-relay' {
  import type { EventEmitter } from 'node:events'
  import type SecretStream from '@hyperswarm/secret-stream'
  class Server {
    constructor(options: { createStream: (options: object) => object })
    accept(stream: SecretStream, options: { id: Uint8Array }): EventEmitter
  }
  const blindRelay: { Server: typeof Server; Client: { from(stream: SecretStream, options: { id: Uint8Array }): EventEmitter } }
  export default blindRelay
}
