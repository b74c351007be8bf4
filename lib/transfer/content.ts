import type { DriveApi, Path } from '../api.js'

const BLOCK_BYTES = 1024 * 1024

/** The bytes of a file in order, one block read ahead. Throws as open and read do. */
export async function* contentOf(drive: Pick<DriveApi, 'open'>, path: Path): AsyncGenerator<Buffer> {
  const file = await drive.open(path, 'r')
  try {
    let next = file.read(0, BLOCK_BYTES)
    for (let offset = BLOCK_BYTES; ; offset += BLOCK_BYTES) {
      const block = await next
      if (block.length < BLOCK_BYTES) {
        if (block.length > 0) yield block
        return
      }
      next = file.read(offset, BLOCK_BYTES)
      next.catch(() => {}) // the reader may stop first
      yield block
    }
  } finally {
    await file.close()
  }
}
