/**
 * The daemon: owns one drive, its mounts and the control socket.
 *
 *   running    takes calls and mounts
 *   reopening  the store had to stop (a failed sync, an index that rolled back), or has a new index: calls wait; the sessions are
 *              ended, the store is opened anew with what is durable, and mounted where it was. If it has to stop again soon, the daemon stops
 *   stopping   refuses calls; unmounts, flushes, closes the drive, ends the connections
 *   stopped    `closed` has resolved; the store is free
 *
 * A daemon that was started by `dfs mount` ends with its last mount; one that
 * was started by `dfs serve` stays until it is stopped.
 */
import type { DriveApi } from '../api.js'
import { fail } from '../errors.js'
import type { MountRequest, ServiceApi } from './calls.js'
import { ControlServer } from './control.js'
import type { DaemonLog } from './log.js'

/** lib knows no FUSE: whoever starts the daemon hands it this. */
export interface Mounter {
  mount(request: MountRequest): Promise<Mounted>
  /** Who has files open or its working directory below `dir`. */
  holders(dir: string): Promise<{ pid: number; command: string }[]>
}

export interface Mounted {
  /** Resolves when the session is over and flushed. EBUSY or MOUNTPOINT_BUSY if in use; `lazy` hides it at once and waits for its users. */
  unmount(options?: { lazy?: boolean }): Promise<void>
  /** Resolves (or rejects) when the session is over, also if it was ended from outside. */
  closed: Promise<void>
  /** Whoever still has something open gets errors from now on: what is answered well before this can be flushed. */
  abandon(): void
  /** Ends the session at once: its users get errors, nothing is flushed. The place may be mounted on again when `closed` has settled. */
  abort(): void
}

export interface DaemonOptions {
  drive: DriveApi
  mounter: Mounter
  /** Path of the control socket. */
  socket: string
  log: DaemonLog
  lifetime: 'while-mounted' | 'until-stopped'
  /** Closes the drive that has stopped, and opens its store again. Without it such a store ends the daemon. */
  reopen?: () => Promise<{ drive: DriveApi; mounter: Mounter }>
  /** Something was mounted or unmounted. */
  onMounts?: () => void
  /** It ends from now on. */
  onStopping?: () => void
  /** Milliseconds, monotonic. */
  now?: () => number
}

type Mount =
  | { state: 'mounting'; driver: string; done: Promise<void> }
  | { state: 'mounted'; driver: string; request: MountRequest; mounted: Mounted; over: Promise<void> }

/** How long programs may go on with what they have open after a signal asked the daemon to end. */
const GRACE_MS = 3000
/** A store that has to stop so soon after it was reopened is not opened again: the disk is not well. */
const REOPEN_AGAIN_MS = 60_000

export class Daemon implements ServiceApi {
  #drive: DriveApi
  #mounter: Mounter
  /** Resolves when all is flushed and the store is free; rejects with what went wrong on the way. */
  readonly closed: Promise<void>
  readonly #options: DaemonOptions
  readonly #mounts = new Map<string, Mount>()
  #control: ControlServer | undefined
  #state: 'running' | 'reopening' | 'stopping' | 'stopped' = 'running'
  #reopening: Promise<void> | undefined
  #reopenedAt = -Infinity
  #settleClosed!: { resolve: () => void; reject: (error: unknown) => void }

  private constructor(options: DaemonOptions) {
    this.#options = options
    this.#drive = options.drive
    this.#mounter = options.mounter
    this.closed = new Promise((resolve, reject) => (this.#settleClosed = { resolve, reject }))
    this.closed.catch(() => {})
  }

  /** Takes the drive over: it is closed with the daemon, also when this fails. */
  static async start(options: DaemonOptions): Promise<Daemon> {
    const daemon = new Daemon(options)
    try {
      daemon.#control = await ControlServer.listen({
        path: options.socket, service: daemon, onFault: (call, error) => options.log.fault(`the call ${call}`, error),
      })
    } catch (error) {
      await options.drive.close()
      throw error
    }
    options.log.line('the daemon runs')
    return daemon
  }

  get drive(): DriveApi {
    return this.#drive
  }

  /** While the store is being reopened: resolves when that has ended, well or not. */
  ready(): Promise<void> | undefined {
    return this.#reopening
  }

  mountpoints(): { dir: string; driver: string }[] {
    return [...this.#mounts].flatMap(([dir, mount]) => (mount.state === 'mounted' ? [{ dir, driver: mount.driver }] : []))
  }

  async mount(request: MountRequest): Promise<{ dir: string; already: boolean }> {
    this.#check()
    return this.#mount(request)
  }

  async #mount(request: MountRequest): Promise<{ dir: string; already: boolean }> {
    const { dir, driver } = request
    const known = this.#mounts.get(dir)
    if (known) {
      if (known.state === 'mounting') await known.done
      return { dir, already: true }
    }
    const mounting = this.#mounter.mount(request)
    const done = mounting.then(() => {})
    done.catch(() => {})
    this.#mounts.set(dir, { state: 'mounting', driver, done })
    let mounted: Mounted
    try {
      mounted = await mounting
    } catch (error) {
      this.#mounts.delete(dir)
      throw error
    }
    const over = mounted.closed.catch((error: unknown) => this.#options.log.fault(`the session of ${dir}`, error)).then(() => this.#over(dir, mounted))
    this.#mounts.set(dir, { state: 'mounted', driver, request, mounted, over })
    this.#options.log.line(`mounted at ${dir} (${driver})`)
    this.#options.onMounts?.()
    return { dir, already: false }
  }

  async unmount(dir: string, { lazy }: { lazy: boolean }): Promise<{ ended: boolean }> {
    this.#check()
    const mount = this.#mounts.get(dir)
    if (mount?.state !== 'mounted') throw fail('NOT_MOUNTED', `nothing of this drive is mounted at ${dir}`)
    await this.#end(dir, mount.mounted, lazy)
    if (!lazy) await mount.over
    // What was written is safe when this is answered, whoever else still has the drive mounted.
    await this.drive.sync()
    return { ended: this.#state !== 'running' }
  }

  async unmounted(dir: string): Promise<void> {
    let mount = this.#mounts.get(dir)
    if (mount?.state !== 'mounted') throw fail('NOT_MOUNTED', `nothing of this drive is mounted at ${dir}`)
    while (mount) {
      await (mount.state === 'mounted' ? mount.over : mount.done.catch(() => {}))
      // It may be mounted anew.
      await this.#reopening
      mount = this.#mounts.get(dir)
    }
  }

  /** Answers when all is unmounted; the rest of the end follows (`closed`). MOUNTPOINT_BUSY unless `lazy`. */
  async stop({ lazy }: { lazy: boolean }): Promise<void> {
    this.#check()
    for (const [dir, mount] of this.#mounts) if (mount.state === 'mounted') await this.#end(dir, mount.mounted, lazy)
    // After the answer to this very call, which the end waits for.
    setImmediate(() => void this.shutdown('stopped by command'))
  }

  /**
   * The drive cannot go on: opens its store again and mounts it where it was. Once; when that fails, or was done a
   * moment ago, the daemon ends with `cause`. Never throws.
   */
  async recover(cause: unknown): Promise<void> {
    if (this.#state !== 'running') return
    const { log, reopen, now = () => performance.now() } = this.#options
    if (!reopen || now() - this.#reopenedAt < REOPEN_AGAIN_MS) {
      return this.shutdown(reopen ? 'the store had to stop again so soon after it was reopened; its disk is not well' : 'the store cannot go on', cause)
    }
    log.line('the store had to stop: it is opened again')
    await this.#openAgain(cause)
    this.#reopenedAt = now()
  }

  /** The drive has another index: it is closed, opened again, and mounted where it was. What is open ends with an error. Never throws. */
  async renew(why: string): Promise<void> {
    if (this.#state !== 'running' || !this.#options.reopen) return
    this.#options.log.line(why)
    await this.#openAgain(undefined)
  }

  async #openAgain(cause: unknown): Promise<void> {
    this.#state = 'reopening'
    this.#reopening = this.#reopen(this.#options.reopen!).then(() => {
      this.#reopening = undefined
    }, (error: unknown) => {
      this.#options.log.fault('reopening the store', error)
      this.#reopening = undefined
      this.#state = 'running'
      void this.shutdown('the store cannot be opened again', cause ?? error)
    })
    await this.#reopening
  }

  async #reopen(reopen: NonNullable<DaemonOptions['reopen']>): Promise<void> {
    // Whoever waited for what failed is told first.
    await new Promise((resolve) => setImmediate(resolve))
    // Those that are being made end one way or the other, on a drive that answers with errors.
    await Promise.all([...this.#mounts.values()].map((m) => (m.state === 'mounting' ? m.done.catch(() => {}) : undefined)))
    const wanted = [...this.#mounts.values()].flatMap((m) => (m.state === 'mounted' ? [m] : []))
    for (const { mounted } of wanted) mounted.abort()
    await this.#control?.reset()
    await Promise.all(wanted.map((m) => m.over))
    const { drive, mounter } = await reopen()
    this.#drive = drive
    this.#mounter = mounter
    this.#state = 'running'
    let failure: unknown
    for (const { request } of wanted) {
      try {
        await this.#mount(request)
      } catch (error) {
        this.#options.log.fault(`mounting ${request.dir} again`, error)
        failure ??= error
      }
    }
    if (wanted.length > 0 && this.#mounts.size === 0 && this.#options.lifetime === 'while-mounted') throw failure
    this.#options.log.line('the store was opened again')
  }

  /** Ends whatever is going on: for signals, and for a store that cannot go on. Never throws; see `closed`. */
  async shutdown(why: string, failure?: unknown): Promise<void> {
    if (this.#reopening) await this.#reopening
    if (this.#state !== 'running') return this.closed.catch(() => {})
    this.#state = 'stopping'
    this.#options.log.line(`the daemon stops: ${why}`)
    this.#options.onStopping?.()
    let error = failure
    const step = async (name: string, action: () => Promise<unknown> | undefined) => {
      try {
        await action()
      } catch (e) {
        this.#options.log.fault(name, e)
        error ??= e
      }
    }
    await Promise.all([...this.#mounts.keys()].map((dir) => step(`unmounting ${dir}`, () => this.#force(dir))))
    await step('ending the calls', () => this.#control?.quiesce())
    await step('closing the drive', () => this.drive.close())
    await step('closing the socket', () => this.#control?.close())
    this.#state = 'stopped'
    this.#options.log.line('the daemon has ended')
    if (error) this.#settleClosed.reject(error)
    else this.#settleClosed.resolve()
  }

  #check(): void {
    if (this.#state !== 'running') throw fail('DAEMON_UNREACHABLE', 'the daemon is stopping; try again')
  }

  async #end(dir: string, mounted: Mounted, lazy: boolean): Promise<void> {
    try {
      await mounted.unmount({ lazy })
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code
      if (code !== 'EBUSY' && code !== 'MOUNTPOINT_BUSY') throw error
      throw fail('MOUNTPOINT_BUSY', `${dir} is in use${await this.#heldBy(dir)}`, error)
    }
  }

  async #heldBy(dir: string): Promise<string> {
    const holders = await this.#mounter.holders(dir)
    const named = holders.slice(0, 5).map(({ pid, command }) => `${command} (process ${pid})`).join(', ')
    return holders.length === 0 ? '' : ` by ${named}${holders.length > 5 ? ` and ${holders.length - 5} more` : ''}`
  }

  /** Out of the way of its users: they get errors on what they still have open after GRACE_MS. */
  async #force(dir: string): Promise<void> {
    let mount = this.#mounts.get(dir)
    if (mount?.state === 'mounting') {
      await mount.done.catch(() => {})
      mount = this.#mounts.get(dir)
    }
    if (mount?.state !== 'mounted') return
    try {
      await mount.mounted.unmount()
    } catch {
      await mount.mounted.unmount({ lazy: true }).catch((error: unknown) => this.#options.log.fault(`hiding ${dir}`, error))
    }
    let timer: NodeJS.Timeout | undefined
    const grace = new Promise<void>((resolve) => (timer = setTimeout(resolve, GRACE_MS)))
    await Promise.race([mount.over, grace])
    clearTimeout(timer)
    mount.mounted.abandon()
  }

  #over(dir: string, mounted: Mounted): void {
    const mount = this.#mounts.get(dir)
    if (mount?.state === 'mounted' && mount.mounted === mounted) this.#mounts.delete(dir)
    this.#options.log.line(`unmounted from ${dir}`)
    this.#options.onMounts?.()
    if (this.#mounts.size > 0 || this.#options.lifetime === 'until-stopped' || this.#state !== 'running') return
    // Marked at once, so that a mount that asks now is told to try again and starts a new daemon.
    void this.shutdown('its last mount is gone')
  }
}
