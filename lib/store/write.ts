/** Vectored writes that write everything, in as many calls as it takes, and the meaning of their errors. */
import { writev, writevSync } from 'node:fs'
import { fail, type DfsError } from '../errors.js'
import { MAX_WRITEV_BUFFERS } from '../limits.js'

/** pwritev(2) of all buffers. Throws what node:fs throws; a part may be written then. */
export function writeAllSync(fd: number, buffers: Buffer[], position: number): void {
  for (let queue = buffers; queue.length > 0;) {
    const written = writevSync(fd, queue.slice(0, MAX_WRITEV_BUFFERS), position)
    position += written
    queue = dropWritten(queue, written)
  }
}

/** As writeAllSync, in the thread pool. */
export async function writeAll(fd: number, buffers: Buffer[], position: number): Promise<void> {
  for (let queue = buffers; queue.length > 0;) {
    const part = queue.slice(0, MAX_WRITEV_BUFFERS)
    const at = position
    const written = await new Promise<number>((resolve, reject) => writev(fd, part, at, (e, n) => (e ? reject(e) : resolve(n))))
    position += written
    queue = dropWritten(queue, written)
  }
}

function dropWritten(queue: Buffer[], written: number): Buffer[] {
  let i = 0
  while (i < queue.length && written >= queue[i]!.length) written -= queue[i++]!.length
  const rest = queue.slice(i)
  if (written > 0) rest[0] = rest[0]!.subarray(written)
  return rest
}

/** ENOSPC if that is what the error means. */
export function asFull(e: unknown): DfsError | undefined {
  const code = codeOf(e)
  return code === 'ENOSPC' || code === 'EDQUOT' ? fail('ENOSPC', 'the disk that holds the store is full', e) : undefined
}

/** The errno name of a node:fs error, for messages. */
export function codeOf(e: unknown): string {
  return (e as NodeJS.ErrnoException).code ?? String(e)
}
