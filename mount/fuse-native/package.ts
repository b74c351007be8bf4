/** The fuse-native package as this driver uses it: loaded when asked for, for it does not install everywhere. */
import { isMainThread } from 'node:worker_threads'
import { fail } from '../../lib/errors.js'

/** Answers one request: a result or a negated errno, then what that operation's C half expects. */
export type Signal = (result: number, ...rest: unknown[]) => void

/**
 * An instance of the package's class. `_handlers` are what its C half calls, by opcode, with the memory that belongs to
 * the calling thread; each calls `_op_NAME(signal, ...)`. The underscored members are ours to replace: what the public
 * ones do in between is where most of its defects are.
 */
export interface FuseNative {
  mount(callback: (error: Error | null) => void): void
  _fuseOptions: () => string
  _handlers: (((thread: Buffer, opcode: number, ...args: unknown[]) => unknown) | undefined)[]
  [operation: `_op_${string}`]: (signal: Signal, ...args: never[]) => void
}

export interface FuseNativeClass {
  new (dir: string, operations: Record<string, true>, options: { timeout: number | false }): FuseNative
}

let loaded: Promise<FuseNativeClass> | undefined

/** Throws FUSE_MISSING. */
export function loadFuseNative(): Promise<FuseNativeClass> {
  if (!isMainThread) throw fail('MOUNT_FAILED', 'fuse-native works on the main thread only')
  return (loaded ??= load())
}

async function load(): Promise<FuseNativeClass> {
  try {
    const name: string = 'fuse-native' // in a variable, for it has no types and need not be there
    return ((await import(name)) as { default: FuseNativeClass }).default
  } catch (error) {
    loaded = undefined
    throw fail('FUSE_MISSING', missing(error as NodeJS.ErrnoException), error)
  }
}

function missing(error: NodeJS.ErrnoException): string {
  if (error.code === 'ERR_MODULE_NOT_FOUND') return 'the package fuse-native is not installed; run "npm install fuse-native", or use --driver kernel'
  if (process.platform === 'darwin') return 'fuse-native does not load; install macFUSE'
  if (/libfuse/.test(error.message)) return 'fuse-native needs libfuse 2; install the Debian package libfuse2, or use --driver kernel'
  return `fuse-native does not load on ${process.platform}-${process.arch}; use --driver kernel`
}
