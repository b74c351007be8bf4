/**
 * The API of a drive against a running daemon, for programs that hold no store;
 * and what the daemon offers beside it: mounting, and its own end.
 *
 * Owns one connection. When that ends, whatever waits fails with
 * DAEMON_UNREACHABLE, and files opened through it are closed by the daemon.
 */
import type { Socket } from 'node:net'
import type { Conflict, ConflictSide, DeviceChange, DeviceStatus, Dirent, DriveApi, DriveStatus, EvictReport, FileHandle, FsckReport, GcReport, Keep, Locality, MendReport, OnProgress, Path, PeerStatus, Progress, RestoreOptions, RestoreReport, ScrubReport, SettingStatus, Stats, SyncOptions, VersionEvent, VersionLog } from './api.js'
import { socketPath } from './config.js'
import { type DfsError, fail } from './errors.js'
import type { MountRequest } from './service/calls.js'
import { connect, type Connection } from './service/connect.js'
import {
  encodeFrame, FrameReader, MAX_BATCH_ENTRIES, MAX_CALLS, MAX_VALUE_BYTES, packPath, unpackError, type Frame,
} from './service/protocol.js'
import { RemoteFile } from './service/remote-file.js'

/** Small at first, so that `ls | head` is quick. */
const FIRST_BATCH_ENTRIES = 64

/** As in calls.ts: the name's bytes as Latin-1. */
type WireDirent = Omit<Dirent, 'name'> & { name: string }

type WireEvent = Omit<VersionEvent, 'path' | 'from'> & { path: string; from: string | null }
type WireSide = Omit<ConflictSide, 'path'> & { path: string }

interface Waiting {
  resolve(answer: { value: unknown; payload: Buffer }): void
  reject(error: Error): void
  onProgress: OnProgress | undefined
  pieces: Buffer[]
  piecesBytes: number
}

export class Client implements DriveApi {
  /** The daemon's process id. */
  readonly pid: number
  /** Resolves when the connection has ended, for whatever reason. A daemon that stops ends it last, with its store free. */
  readonly closed: Promise<void>
  #socket: Socket
  #reader = new FrameReader()
  #waiting = new Map<number, Waiting>()
  #queue: (() => void)[] = []
  #nextId = 1
  #end: DfsError | undefined

  /**
   * Connects to the daemon of the store in `storeDir`; undefined if none runs.
   * DAEMON_UNREACHABLE if one is there but does not answer or is of another version.
   */
  static async connect(storeDir: string): Promise<Client | undefined> {
    const connection = await connect(socketPath(storeDir))
    return connection && new Client(connection)
  }

  private constructor({ socket, pid }: Connection) {
    this.#socket = socket
    this.pid = pid
    socket.on('data', (bytes) => this.#receive(bytes))
    socket.on('error', () => socket.destroy())
    this.closed = new Promise((resolve) => socket.on('close', () => {
      this.#fail(fail('DAEMON_UNREACHABLE', 'the daemon ended before it answered; its log daemon.log in the store may say why'))
      resolve()
    }))
    socket.resume()
  }

  // --- the drive ------------------------------------------------------------

  async stat(path: Path): Promise<Stats> {
    return (await this.#value('stat', { path: packPath(path) })) as Stats
  }

  async lstat(path: Path): Promise<Stats> {
    return (await this.#value('lstat', { path: packPath(path) })) as Stats
  }

  async *opendir(path: Path): AsyncIterable<Dirent> {
    const handle = await this.#value('opendir', { path: packPath(path) })
    const next = (limit: number) => this.#value('readdir', { handle, limit }) as Promise<{ batch: WireDirent[]; done: boolean }>
    let pending: ReturnType<typeof next> | undefined
    try {
      pending = next(FIRST_BATCH_ENTRIES)
      for (;;) {
        const { batch, done }: { batch: WireDirent[]; done: boolean } = await pending
        // One batch ahead of the reader, no more.
        pending = done ? undefined : next(MAX_BATCH_ENTRIES)
        pending?.catch(() => {})
        for (const { name, ...rest } of batch) yield { name: Buffer.from(name, 'latin1'), ...rest }
        if (!pending) return
      }
    } finally {
      await pending?.catch(() => {})
      if (!this.#end) await this.#value('close', { handle })
    }
  }

  async open(path: Path, flags?: string, mode?: number): Promise<FileHandle> {
    const handle = await this.#value('open', { path: packPath(path), ...(flags !== undefined && { flags }), ...(mode !== undefined && { mode }) })
    return new RemoteFile((call, args, payload) => this.#call(call, { handle, ...args }, payload))
  }

  async mkdir(path: Path, options: { recursive?: boolean; mode?: number } = {}): Promise<void> {
    await this.#value('mkdir', { path: packPath(path), ...options })
  }

  async rm(path: Path, options: { recursive?: boolean; force?: boolean } = {}): Promise<void> {
    await this.#value('rm', { path: packPath(path), ...options })
  }

  async rename(from: Path, to: Path): Promise<void> {
    await this.#value('rename', { from: packPath(from), to: packPath(to) })
  }

  async link(existing: Path, path: Path): Promise<void> {
    await this.#value('link', { existing: packPath(existing), path: packPath(path) })
  }

  async symlink(target: Path, path: Path): Promise<void> {
    await this.#value('symlink', { target: packPath(target), path: packPath(path) })
  }

  async readlink(path: Path): Promise<Buffer> {
    return (await this.#call('readlink', { path: packPath(path) })).payload
  }

  async chmod(path: Path, mode: number): Promise<void> {
    await this.#value('chmod', { path: packPath(path), mode })
  }

  async chown(path: Path, uid: number, gid: number): Promise<void> {
    await this.#value('chown', { path: packPath(path), uid, gid })
  }

  async utimes(path: Path, atimeMs: number, mtimeMs: number): Promise<void> {
    await this.#value('utimes', { path: packPath(path), atimeMs, mtimeMs })
  }

  async listXattrs(path: Path): Promise<Buffer[]> {
    return ((await this.#value('listXattrs', { path: packPath(path) })) as string[]).map((name) => Buffer.from(name, 'latin1'))
  }

  async getXattr(path: Path, name: Buffer): Promise<Buffer> {
    return (await this.#call('getXattr', { path: packPath(path), name: packPath(name) })).payload
  }

  async setXattr(path: Path, name: Buffer, value: Buffer): Promise<void> {
    await this.#call('setXattr', { path: packPath(path), name: packPath(name) }, value)
  }

  async temporary(path: Path): Promise<Path> {
    return Buffer.from((await this.#value('temporary', { path: packPath(path) })) as string, 'latin1')
  }

  async sync({ acks, timeoutMs }: SyncOptions = {}): Promise<void> {
    await this.#value('sync', { acks, timeoutMs })
  }

  async status(): Promise<DriveStatus> {
    return (await this.#value('status')) as DriveStatus
  }

  async peers(): Promise<PeerStatus[]> {
    return (await this.#value('peers')) as PeerStatus[]
  }

  async devices(): Promise<DeviceStatus[]> {
    return (await this.#value('devices')) as DeviceStatus[]
  }

  async setDevice(device: string, change: DeviceChange): Promise<void> {
    await this.#value('setDevice', { device, ...change })
  }

  async config(dir?: Path): Promise<SettingStatus[]> {
    return (await this.#value('config', dir === undefined ? {} : { dir: packPath(dir) })) as SettingStatus[]
  }

  async setConfig(name: string, value: string | null, dir?: Path): Promise<void> {
    await this.#value('setConfig', { name, value, ...(dir !== undefined && { dir: packPath(dir) }) })
  }

  async waitPlaced(onProgress?: OnProgress): Promise<void> {
    await this.#value('waitPlaced', {}, onProgress)
  }

  async addDevice(device: string, role: 'read-only' | 'storage', name: string): Promise<void> {
    await this.#value('addDevice', { device, role, name })
  }

  async conflicts(): Promise<Conflict[]> {
    const side = (s: WireSide) => ({ ...s, path: Buffer.from(s.path, 'latin1') })
    const list = (await this.#value('conflicts')) as { aside: WireSide; plain: WireSide | null }[]
    return list.map(({ aside, plain }) => ({ aside: side(aside), plain: plain && side(plain) }))
  }

  async resolveConflict(path: Path, keep: Keep): Promise<Buffer[]> {
    return ((await this.#value('resolveConflict', { path: packPath(path), keep })) as string[]).map((p) => Buffer.from(p, 'latin1'))
  }

  async versions(path: Path, options: { limit?: number } = {}): Promise<VersionLog> {
    const log = (await this.#value('versions', { path: packPath(path), ...options })) as Omit<VersionLog, 'events'> & { events: WireEvent[] }
    return { ...log, events: log.events.map((e) => ({ ...e, path: Buffer.from(e.path, 'latin1'), from: e.from === null ? null : Buffer.from(e.from, 'latin1') })) }
  }

  async restore(path: Path, { to, signal, ...options }: RestoreOptions, onProgress?: OnProgress): Promise<RestoreReport> {
    return (await this.#value('restore', { path: packPath(path), ...options, ...(to !== undefined && { to: packPath(to) }) }, onProgress, signal)) as RestoreReport
  }

  async addPeers(addresses: string[]): Promise<void> {
    await this.#value('addPeers', { addresses })
  }

  async forgetPeer(address: string): Promise<boolean> {
    return (await this.#value('forgetPeer', { address })) as boolean
  }

  /** Cancelled by an `onProgress` that throws; a repair then goes on in the daemon. */
  async fsck(options: { data?: boolean; repair?: boolean }, onProgress?: OnProgress): Promise<FsckReport> {
    return (await this.#value('fsck', { ...options }, onProgress)) as FsckReport
  }

  /** Cancelled by an `onProgress` that throws; the pass goes on in the background. */
  async scrub(options: { restart?: boolean }, onProgress?: OnProgress): Promise<ScrubReport> {
    return (await this.#value('scrub', { ...options }, onProgress)) as ScrubReport
  }

  async setScrubRate(bytesPerS: number): Promise<void> {
    await this.#value('setScrubRate', { bytesPerS })
  }

  /** Cancelled by an `onProgress` that throws; what is missing is still fetched in the background. */
  async mend(onProgress?: OnProgress): Promise<MendReport> {
    return (await this.#value('mend', {}, onProgress)) as MendReport
  }

  async gc(onProgress?: OnProgress): Promise<GcReport> {
    return (await this.#value('gc', {}, onProgress)) as GcReport
  }

  async pin(path: Path): Promise<Locality> {
    return (await this.#value('pin', { path: packPath(path) })) as Locality
  }

  async unpin(path: Path): Promise<void> {
    await this.#value('unpin', { path: packPath(path) })
  }

  async evict(path: Path, onProgress?: OnProgress): Promise<EvictReport> {
    return (await this.#value('evict', { path: packPath(path) }, onProgress)) as EvictReport
  }

  async locality(path: Path): Promise<Locality> {
    return (await this.#value('locality', { path: packPath(path) })) as Locality
  }

  async setCache(bytes: number | null): Promise<void> {
    await this.#value('setCache', { bytes })
  }

  async key(kind: 'full' | 'read-only' | 'storage'): Promise<string> {
    return (await this.#value('key', { kind })) as string
  }

  // --- the daemon -----------------------------------------------------------

  /** `dir` absolute and without symlinks. `already`: it was mounted there before. */
  async mount(request: MountRequest): Promise<{ dir: string; already: boolean }> {
    return (await this.#value('mount', { ...request })) as { dir: string; already: boolean }
  }

  /** Resolves when all is flushed. NOT_MOUNTED, MOUNTPOINT_BUSY (naming who holds it). `ended`: the daemon stops now, `closed` follows. */
  async unmount(dir: string, options: { lazy?: boolean } = {}): Promise<{ ended: boolean }> {
    return (await this.#value('unmount', { dir, ...options })) as { ended: boolean }
  }

  /** Resolves when `dir` is mounted no more. */
  async unmounted(dir: string): Promise<void> {
    await this.#value('unmounted', { dir })
  }

  /** Unmounts everything and ends the daemon; `closed` resolves when the store is free. MOUNTPOINT_BUSY unless `lazy`. */
  async stop(options: { lazy?: boolean } = {}): Promise<void> {
    await this.#value('stop', options)
  }

  /** May be called twice. */
  async close(): Promise<void> {
    this.#socket.destroy()
    await this.closed
  }

  // --- calls ----------------------------------------------------------------

  /** When `signal` is aborted the daemon is told to end the call, and its answer is waited for; an `onProgress` that throws ends the call at once. */
  async #value(call: string, args: object = {}, onProgress?: OnProgress, signal?: AbortSignal): Promise<unknown> {
    return (await this.#call(call, args, undefined, onProgress, signal)).value
  }

  async #call(call: string, args: object, payload?: Buffer, onProgress?: OnProgress, signal?: AbortSignal): Promise<{ value: unknown; payload: Buffer }> {
    while (this.#waiting.size >= MAX_CALLS && !this.#end) await new Promise<void>((resolve) => this.#queue.push(resolve))
    if (this.#end) throw this.#end
    if (signal?.aborted) throw fail('EINTR', 'interrupted before it had begun')
    const id = this.#nextId++
    const answer = new Promise<{ value: unknown; payload: Buffer }>((resolve, reject) => {
      const parts = encodeFrame({ id, call, args }, payload)
      this.#waiting.set(id, { resolve, reject, onProgress, pieces: [], piecesBytes: 0 })
      this.#socket.cork()
      for (const part of parts) this.#socket.write(part)
      this.#socket.uncork()
    })
    if (!signal) return answer
    const cancel = () => this.#cancel(id)
    signal.addEventListener('abort', cancel)
    return answer.finally(() => signal.removeEventListener('abort', cancel))
  }

  #cancel(id: number): void {
    for (const part of encodeFrame({ cancel: id })) this.#socket.write(part)
  }

  #receive(bytes: Buffer): void {
    try {
      for (const frame of this.#reader.push(bytes)) this.#take(frame)
    } catch (error) {
      this.#fail(fail('DAEMON_UNREACHABLE', 'what answers at the control socket is no daemon of this version; stop it and start it again', error))
      this.#socket.destroy()
    }
  }

  #take({ header, payload }: Frame): void {
    const id = header.id as number
    const waiting = this.#waiting.get(id)
    if (!waiting) return // cancelled
    if (header.progress) return this.#progress(id, waiting, header.progress as Progress)
    if (header.more || header.json) {
      waiting.pieces.push(payload)
      waiting.piecesBytes += payload.length
      if (waiting.piecesBytes > MAX_VALUE_BYTES) return this.#settle(id, () => waiting.reject(fail('E2BIG', 'the answer of the daemon is too large')))
      if (header.more) return
      const value: unknown = JSON.parse(Buffer.concat(waiting.pieces).toString())
      return this.#settle(id, () => waiting.resolve({ value, payload: Buffer.alloc(0) }))
    }
    this.#settle(id, () => {
      if (typeof header.code === 'string') waiting.reject(unpackError(header.code, String(header.message)))
      else waiting.resolve({ value: header.value, payload })
    })
  }

  #progress(id: number, waiting: Waiting, progress: Progress): void {
    try {
      waiting.onProgress?.(progress)
    } catch (error) {
      this.#cancel(id)
      this.#settle(id, () => waiting.reject(error as Error))
    }
  }

  #settle(id: number, settle: () => void): void {
    this.#waiting.delete(id)
    settle()
    this.#queue.shift()?.()
  }

  #fail(error: DfsError): void {
    this.#end ??= error
    const waiting = [...this.#waiting.values()]
    this.#waiting.clear()
    for (const w of waiting) w.reject(this.#end)
    for (const go of this.#queue.splice(0)) go()
  }
}
