/** The thread of checkpoint.ts: one PASSIVE checkpoint for each message. */
import Sqlite from 'better-sqlite3'
import { parentPort, workerData } from 'node:worker_threads'

const sql = new Sqlite((workerData as { path: string }).path, { fileMustExist: true })
sql.pragma('synchronous = NORMAL')
sql.pragma('cache_size = -1024')

parentPort!.on('message', () => {
  const [{ log, checkpointed }] = sql.pragma('wal_checkpoint(PASSIVE)') as [{ log: number; checkpointed: number }]
  parentPort!.postMessage({ log, checkpointed })
})
