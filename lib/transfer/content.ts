import type { DriveApi, FileHandle, Path } from '../api.js'

const BLOCK_BYTES = 1024 * 1024
/** Hides the round trip to the daemon, and the disk's; holds 4 MiB. */
const BLOCKS_AHEAD = 4

/** The bytes of an open file in order, from its start to where it ends when that is reached. Throws as read does. */
export async function* blocksOf(file: Pick<FileHandle, 'read'>): AsyncGenerator<Buffer> {
  const ahead: Promise<Buffer>[] = []
  let offset = 0
  const readOn = () => {
    const block = file.read(offset, BLOCK_BYTES)
    block.catch(() => {}) // if the reader stops first, nobody waits for it
    ahead.push(block)
    offset += BLOCK_BYTES
  }
  try {
    readOn()
    for (;;) {
      const block = await ahead.shift()!
      if (block.length > 0) yield block
      if (block.length < BLOCK_BYTES) return
      // A small file costs one read.
      while (ahead.length < BLOCKS_AHEAD) readOn()
    }
  } finally {
    // The file must not be closed under them.
    await Promise.allSettled(ahead)
  }
}

/** The bytes of a file. Throws as open and read do. */
export async function* contentOf(drive: Pick<DriveApi, 'open'>, path: Path): AsyncGenerator<Buffer> {
  const file = await drive.open(path, 'r')
  try {
    yield* blocksOf(file)
  } finally {
    await file.close()
  }
}
