/** Reaching the daemon at its socket. */
import { createConnection, type Socket } from 'node:net'
import { DfsError, fail } from '../errors.js'
import { FrameReader, PROTOCOL_VERSION } from './protocol.js'
import { socketAddress } from './socket.js'

/** A daemon that is busy with a large commit answers late; one that is stopped (SIGSTOP) never. */
const GREETING_TIMEOUT_MS = 10_000

export interface Connection {
  /** Paused: nothing is lost until it is read. */
  socket: Socket
  /** The daemon's. */
  pid: number
}

/** Undefined if nobody listens at `path`. DAEMON_UNREACHABLE if who does is no daemon of this version, or silent. */
export async function connect(path: string): Promise<Connection | undefined> {
  let socket: Socket
  let release = () => {}
  try {
    const address = socketAddress(path)
    release = address.release
    socket = await open(address.path)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    // Nobody listens on what a killed daemon left behind: ECONNREFUSED.
    if (code === 'ENOENT' || code === 'ECONNREFUSED' || code === 'ENOTDIR') return undefined
    if (error instanceof DfsError) throw error
    const why = code === 'EACCES' || code === 'EPERM' ? 'it belongs to another user' : (code ?? String(error))
    throw fail('DAEMON_UNREACHABLE', `cannot reach the daemon at ${path}: ${why}`, error)
  } finally {
    release()
  }
  return { socket, pid: await greeting(socket) }
}

function open(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(path)
    socket.once('error', reject)
    socket.once('connect', () => {
      socket.off('error', reject)
      resolve(socket)
    })
  })
}

/** The daemon's pid. Bytes after the greeting stay in the socket. */
function greeting(socket: Socket): Promise<number> {
  return new Promise((resolve, reject) => {
    const reader = new FrameReader()
    const finish = (result: number | string) => {
      clearTimeout(timer)
      socket.off('data', receive).off('close', gone).off('error', gone)
      socket.pause()
      if (typeof result === 'number') return resolve(result)
      socket.destroy()
      reject(fail('DAEMON_UNREACHABLE', result))
    }
    const gone = () => finish('the daemon ended the connection; it may be stopping: try again')
    const receive = (bytes: Buffer) => {
      try {
        // The daemon says nothing more until it is asked.
        for (const { header } of reader.push(bytes)) {
          if (header.hello === PROTOCOL_VERSION && typeof header.pid === 'number') return finish(header.pid)
          return finish(`the daemon (process ${String(header.pid)}) is of another version of dfs; unmount its folders and end it with kill ${String(header.pid)}`)
        }
      } catch {
        finish('what answers at the control socket is no daemon of dfs')
      }
    }
    const timer = setTimeout(() => finish(`the daemon does not answer within ${GREETING_TIMEOUT_MS / 1000} s`), GREETING_TIMEOUT_MS)
    socket.on('data', receive).on('close', gone).on('error', gone)
  })
}
