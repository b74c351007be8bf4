/**
 * What a client may call, each with its arguments checked: they come from
 * another program. One Session a connection: it owns the files and directories
 * that its client opened, and closes them when the client goes away.
 */
import { fail } from '../errors.js'
import type { ConflictSide, DeviceChange, Dirent, DriveApi, FileHandle, OnProgress, Path, SyncOptions } from '../api.js'
import { MAX_BATCH_ENTRIES, MAX_HANDLES, MAX_PAYLOAD_BYTES, unpackPath } from './protocol.js'

/** What the daemon itself offers beside its drive. */
export interface ServiceApi {
  readonly drive: DriveApi
  /** While that is being replaced: resolves when it has been. */
  ready?(): Promise<void> | undefined
  mount(request: MountRequest): Promise<{ dir: string; already: boolean }>
  /** `ended`: this was the last mount, and the daemon stops now. */
  unmount(dir: string, options: { lazy: boolean }): Promise<{ ended: boolean }>
  /** Resolves when nothing is mounted at `dir` any more. NOT_MOUNTED if nothing is. */
  unmounted(dir: string): Promise<void>
  mountpoints(): { dir: string; driver: string }[]
  stop(options: { lazy: boolean }): Promise<void>
}

/** HOST:PORT, of any length that a name can have. */
const MAX_ADDRESS_CHARS = 300

export interface MountRequest {
  /** Absolute, without symlinks. */
  dir: string
  /** A name that the mounter knows. */
  driver: string
  /** As after -o, split at commas. */
  options: string[]
}

export interface CallContext {
  payload: Buffer
  onProgress: OnProgress
  /** Aborted when the client cancels the call or goes away. */
  signal: AbortSignal
}

/** A plain value goes into the header; `bytes` into the payload; `json` wherever it fits. */
export type Result = { value: unknown } | { bytes: Buffer } | { json: unknown }

type Args = Record<string, unknown>
/** `mayWrite`: opened to be written. */
type Handle = { file: FileHandle; mayWrite: boolean } | { entries: AsyncIterator<Dirent> }

export class Session {
  #service: ServiceApi
  #handles = new Map<number, Handle>()
  /** Names under which its client is building something. */
  #temporaries = new Map<string, Path>()
  #opening = 0
  #nextHandle = 1
  #isClosed = false
  #hasState = false

  constructor(service: ServiceApi) {
    this.#service = service
  }

  async call(name: string, args: Args, context: CallContext): Promise<Result> {
    const call = Object.hasOwn(CALLS, name) ? CALLS[name] : undefined
    await this.#service.ready?.()
    if (!ABOUT_MOUNTS.has(name)) this.#hasState = true
    if (!call) throw fail('EINVAL', `the daemon knows no call '${name.slice(0, 40)}'; it may be older than this command: restart it with \`dfs stop\``)
    const result = await call(this, args, context)
    if (CHANGING.has(name)) await this.drive.told?.()
    return result
  }

  /** Whether its client may take what it was told for what the drive is. */
  get hasState(): boolean {
    return this.#hasState
  }

  get service(): ServiceApi {
    return this.#service
  }

  get drive(): DriveApi {
    return this.#service.drive
  }

  /** EINVAL once too many are open. */
  async add(open: () => Promise<Handle>): Promise<number> {
    // Counted before the wait: many opens may be under way at once.
    if (this.#handles.size + this.#opening >= MAX_HANDLES) throw fail('EINVAL', `more than ${MAX_HANDLES} files are open over one connection`)
    this.#opening++
    try {
      const handle = await open()
      if (this.#isClosed) {
        await release(handle)
        throw fail('EBADF', 'the client is gone')
      }
      const id = this.#nextHandle++
      this.#handles.set(id, handle)
      return id
    } finally {
      this.#opening--
    }
  }

  file(args: Args): FileHandle {
    const handle = this.#handles.get(count(args, 'handle'))
    if (!handle || !('file' in handle)) throw fail('EBADF', 'the file is not open')
    return handle.file
  }

  entries(args: Args): AsyncIterator<Dirent> {
    const handle = this.#handles.get(count(args, 'handle'))
    if (!handle || !('entries' in handle)) throw fail('EBADF', 'the directory is not open')
    return handle.entries
  }

  /** Whether something may have been written. */
  async release(args: Args): Promise<boolean> {
    const id = count(args, 'handle')
    const handle = this.#handles.get(id)
    this.#handles.delete(id)
    if (handle) await release(handle)
    return handle !== undefined && 'file' in handle && handle.mayWrite
  }

  /** EINVAL once there are too many. */
  async temporary(path: Path): Promise<string> {
    if (this.#temporaries.size >= MAX_HANDLES) throw fail('EINVAL', `more than ${MAX_HANDLES} things are being built over one connection`)
    const temporary = await this.drive.temporary(path)
    const key = keyOf(temporary)
    this.#temporaries.set(key, temporary)
    return key
  }

  /** It was renamed, or removed. */
  finished(path: Path): void {
    this.#temporaries.delete(keyOf(path))
  }

  async close(): Promise<void> {
    this.#isClosed = true
    const handles = [...this.#handles.values()]
    this.#handles.clear()
    await Promise.allSettled(handles.map(release))
    const temporaries = [...this.#temporaries.values()]
    this.#temporaries.clear()
    await Promise.allSettled(temporaries.map((path) => this.drive.rm(path, { recursive: true, force: true })))
  }
}

function keyOf(path: Path): string {
  return (typeof path === 'string' ? Buffer.from(path) : path).toString('latin1')
}

async function release(handle: Handle): Promise<void> {
  if ('file' in handle) await handle.file.close()
  else await handle.entries.return?.()
}

/** Calls after which nothing about the drive's content is believed. */
const ABOUT_MOUNTS = new Set(['mount', 'unmount', 'unmounted', 'stop', 'status', 'peers', 'addPeers', 'forgetPeer', 'devices', 'addDevice', 'setDevice', 'config', 'setConfig', 'waitPlaced'])
/** Calls after which who made them may look at the drive through its mount. */
const CHANGING = new Set(['mkdir', 'rm', 'rename', 'link', 'symlink', 'chmod', 'chown', 'utimes', 'setXattr', 'resolveConflict', 'restore'])
const nothing: Result = { value: null }

const CALLS: Record<string, (session: Session, args: Args, context: CallContext) => Promise<Result>> = {
  async stat({ drive }, args) {
    return { value: await drive.stat(unpackPath(args.path)) }
  },
  async lstat({ drive }, args) {
    return { value: await drive.lstat(unpackPath(args.path)) }
  },
  async opendir(session, args) {
    const path = unpackPath(args.path)
    return { value: await session.add(async () => ({ entries: session.drive.opendir(path)[Symbol.asyncIterator]() })) }
  },
  async readdir(session, args) {
    const entries = session.entries(args)
    const limit = Math.min(count(args, 'limit'), MAX_BATCH_ENTRIES)
    const batch: unknown[] = []
    while (batch.length < limit) {
      const next = await entries.next()
      if (next.done) return { json: { batch, done: true } }
      const { name, ...rest } = next.value
      batch.push({ name: name.toString('latin1'), ...rest })
    }
    return { json: { batch, done: false } }
  },
  async open(session, args) {
    const path = unpackPath(args.path)
    const flags = args.flags === undefined ? undefined : text(args, 'flags')
    const mode = args.mode === undefined ? undefined : count(args, 'mode')
    return { value: await session.add(async () => ({ file: await session.drive.open(path, flags, mode), mayWrite: flags !== undefined && flags !== 'r' })) }
  },
  async read(session, args) {
    return { bytes: await session.file(args).read(count(args, 'offset'), Math.min(count(args, 'length'), MAX_PAYLOAD_BYTES)) }
  },
  async write(session, args, { payload }) {
    await session.file(args).write(count(args, 'offset'), payload)
    return nothing
  },
  async fstat(session, args) {
    return { value: await session.file(args).stat() }
  },
  async truncate(session, args) {
    await session.file(args).truncate(count(args, 'size'))
    return nothing
  },
  async fsync(session, args, { signal }) {
    await session.file(args).sync({ ...syncOptions(args), signal })
    return nothing
  },
  async close(session, args) {
    if (await session.release(args)) await session.drive.told?.()
    return nothing
  },
  async mkdir({ drive }, args) {
    const mode = args.mode === undefined ? {} : { mode: count(args, 'mode') }
    await drive.mkdir(unpackPath(args.path), { recursive: flag(args, 'recursive'), ...mode })
    return nothing
  },
  async rm(session, args) {
    const path = unpackPath(args.path)
    await session.drive.rm(path, { recursive: flag(args, 'recursive'), force: flag(args, 'force') })
    session.finished(path)
    return nothing
  },
  async rename(session, args) {
    const from = unpackPath(args.from)
    await session.drive.rename(from, unpackPath(args.to))
    session.finished(from)
    return nothing
  },
  async link({ drive }, args) {
    await drive.link(unpackPath(args.existing), unpackPath(args.path))
    return nothing
  },
  async symlink({ drive }, args) {
    await drive.symlink(unpackPath(args.target), unpackPath(args.path))
    return nothing
  },
  async readlink({ drive }, args) {
    return { bytes: await drive.readlink(unpackPath(args.path)) }
  },
  async chmod({ drive }, args) {
    await drive.chmod(unpackPath(args.path), count(args, 'mode'))
    return nothing
  },
  async chown({ drive }, args) {
    await drive.chown(unpackPath(args.path), count(args, 'uid'), count(args, 'gid'))
    return nothing
  },
  async utimes({ drive }, args) {
    await drive.utimes(unpackPath(args.path), number(args, 'atimeMs'), number(args, 'mtimeMs'))
    return nothing
  },
  async listXattrs({ drive }, args) {
    return { json: (await drive.listXattrs(unpackPath(args.path))).map((name) => name.toString('latin1')) }
  },
  async getXattr({ drive }, args) {
    return { bytes: await drive.getXattr(unpackPath(args.path), Buffer.from(unpackPath(args.name))) }
  },
  async setXattr({ drive }, args, { payload }) {
    await drive.setXattr(unpackPath(args.path), Buffer.from(unpackPath(args.name)), payload)
    return nothing
  },
  async temporary(session, args) {
    return { value: await session.temporary(unpackPath(args.path)) }
  },
  async sync({ drive }, args, { signal }) {
    await drive.sync({ ...syncOptions(args), signal })
    return nothing
  },
  async status({ service }) {
    return { value: { ...(await service.drive.status()), mountpoints: service.mountpoints() } }
  },
  async peers({ drive }) {
    return { json: await drive.peers() }
  },
  async devices({ drive }) {
    return { json: await drive.devices() }
  },
  async addDevice({ drive }, args) {
    const role = text(args, 'role')
    if (role !== 'read-only' && role !== 'storage') throw fail('EINVAL', 'no such role')
    await drive.addDevice(text(args, 'device'), role, text(args, 'name'))
    return nothing
  },
  async setDevice({ drive }, args) {
    const change: DeviceChange = {}
    if (args.capacity !== undefined) change.capacity = args.capacity === null ? null : text(args, 'capacity')
    if (args.zone !== undefined) change.zone = text(args, 'zone')
    if (args.isDrained !== undefined) change.isDrained = flag(args, 'isDrained')
    if (flag(args, 'isTrusted')) change.isTrusted = true
    if (flag(args, 'isAside')) change.isAside = true
    await drive.setDevice(text(args, 'device'), change)
    return nothing
  },
  async config({ drive }, args) {
    return { json: await drive.config(args.dir === undefined ? undefined : unpackPath(args.dir)) }
  },
  async setConfig({ drive }, args) {
    await drive.setConfig(text(args, 'name'), args.value === null ? null : text(args, 'value'), args.dir === undefined ? undefined : unpackPath(args.dir))
    return nothing
  },
  async waitPlaced({ drive }, _args, { onProgress, signal }) {
    await drive.waitPlaced((progress) => {
      if (signal.aborted) throw fail('EINTR', 'nobody waits any more')
      onProgress(progress)
    })
    return nothing
  },
  async conflicts({ drive }) {
    const side = (s: ConflictSide | null) => s && { ...s, path: s.path.toString('latin1') }
    return { json: (await drive.conflicts()).map((c) => ({ aside: side(c.aside), plain: side(c.plain) })) }
  },
  async resolveConflict({ drive }, args) {
    const keep = text(args, 'keep')
    if (keep !== 'mine' && keep !== 'theirs' && keep !== 'both') throw fail('EINVAL', 'no such choice')
    return { json: (await drive.resolveConflict(unpackPath(args.path), keep)).map((path) => path.toString('latin1')) }
  },
  async versions({ drive }, args) {
    const { events, ...rest } = await drive.versions(unpackPath(args.path), args.limit === undefined ? {} : { limit: count(args, 'limit') })
    return { json: { ...rest, events: events.map((e) => ({ ...e, path: e.path.toString('latin1'), from: e.from?.toString('latin1') ?? null })) } }
  },
  async restore({ drive }, args, context) {
    const to = args.to === undefined ? {} : { to: unpackPath(args.to) }
    return { value: await drive.restore(unpackPath(args.path), { atMs: number(args, 'atMs'), force: flag(args, 'force'), ...to, signal: context.signal }, context.onProgress) }
  },
  async addPeers({ drive }, args) {
    await drive.addPeers(texts(args, 'addresses', MAX_ADDRESS_CHARS))
    return nothing
  },
  async forgetPeer({ drive }, args) {
    return { value: await drive.forgetPeer(text(args, 'address')) }
  },
  async fsck({ drive }, args, context) {
    const repair = flag(args, 'repair')
    // A repair of the index is seen through.
    return { json: await drive.fsck({ data: flag(args, 'data'), repair }, repair ? context.onProgress : cancellable(context, 'the check')) }
  },
  async pin({ drive }, args) {
    return { value: await drive.pin(unpackPath(args.path)) }
  },
  async unpin({ drive }, args) {
    await drive.unpin(unpackPath(args.path))
    return nothing
  },
  async evict({ drive }, args, { onProgress }) {
    return { value: await drive.evict(unpackPath(args.path), onProgress) }
  },
  async locality({ drive }, args) {
    return { value: await drive.locality(unpackPath(args.path)) }
  },
  async setCache({ drive }, args) {
    await drive.setCache(args.bytes === null ? null : count(args, 'bytes'))
    return nothing
  },
  async scrub({ drive }, args, context) {
    return { json: await drive.scrub({ restart: flag(args, 'restart') }, cancellable(context, 'the scrub')) }
  },
  async setScrubRate({ drive }, args) {
    await drive.setScrubRate(count(args, 'bytesPerS'))
    return nothing
  },
  async mend({ drive }, _args, context) {
    return { json: await drive.mend(cancellable(context, 'the repair')) }
  },
  async gc({ drive }, _args, { onProgress }) {
    return { value: await drive.gc(onProgress) }
  },
  async key({ drive }, args) {
    const kind = text(args, 'kind')
    if (kind !== 'full' && kind !== 'read-only' && kind !== 'storage') throw fail('EINVAL', 'no such kind of key')
    return { value: await drive.key(kind) }
  },
  async mount({ service }, args) {
    return { value: await service.mount({ dir: text(args, 'dir'), driver: text(args, 'driver'), options: texts(args, 'options') }) }
  },
  async unmount({ service }, args) {
    return { value: await service.unmount(text(args, 'dir'), { lazy: flag(args, 'lazy') }) }
  },
  async unmounted({ service }, args) {
    await service.unmounted(text(args, 'dir'))
    return nothing
  },
  async stop({ service }, args) {
    await service.stop({ lazy: flag(args, 'lazy') })
    return nothing
  },
}

/** What may stop anywhere stops by a throw from here. */
function cancellable({ onProgress, signal }: CallContext, what: string): OnProgress {
  return (progress) => {
    if (signal.aborted) throw fail('EINTR', `${what} was cancelled`)
    onProgress(progress)
  }
}

function syncOptions(args: Args): SyncOptions {
  return {
    ...(args.acks !== undefined && { acks: args.acks === 'mounts' ? args.acks : count(args, 'acks') }),
    ...(args.timeoutMs !== undefined && { timeoutMs: count(args, 'timeoutMs') }),
  }
}

function number(args: Args, name: string): number {
  const value = args[name]
  if (typeof value !== 'number' || !Number.isFinite(value)) throw fail('EINVAL', `'${name}' of a call is no number`)
  return value
}

/** A safe integer from 0. */
function count(args: Args, name: string): number {
  const value = args[name]
  if (!Number.isSafeInteger(value) || (value as number) < 0) throw fail('EINVAL', `'${name}' of a call is out of range`)
  return value as number
}

function text(args: Args, name: string): string {
  const value = args[name]
  if (typeof value !== 'string') throw fail('EINVAL', `'${name}' of a call is no text`)
  return value
}

function texts(args: Args, name: string, maxChars = Infinity): string[] {
  const value = args[name]
  if (!Array.isArray(value) || !value.every((v): v is string => typeof v === 'string' && v.length <= maxChars)) throw fail('EINVAL', `'${name}' of a call is no list of texts`)
  return value
}

function flag(args: Args, name: string): boolean {
  const value = args[name]
  if (value !== undefined && typeof value !== 'boolean') throw fail('EINVAL', `'${name}' of a call is neither true nor false`)
  return value ?? false
}

