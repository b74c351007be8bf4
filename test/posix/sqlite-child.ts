/** One of several processes that use one SQLite database: adds COUNT rows in transactions, and moves money between two accounts. */
import Database from 'better-sqlite3'

const [path, journal, id, count] = process.argv.slice(2) as [string, string, string, string]
const db = new Database(path, { timeout: 60_000 })
const mode = db.pragma(`journal_mode = ${journal}`, { simple: true })
if (mode !== journal) throw new Error(`journal_mode is ${String(mode)}`)
db.pragma('synchronous = FULL')
const add = db.prepare('INSERT INTO item (writer, number, data) VALUES (?, ?, ?)')
const give = db.prepare('UPDATE account SET balance = balance + ? WHERE id = ?')
const both = db.transaction((n: number) => {
  add.run(id, n, Buffer.alloc(100 + (n * 37) % 3000, n))
  give.run(-1, 1)
  give.run(1, 2)
})
// Immediate: two readers that both want to become writers would wait for each other.
for (let n = 0; n < Number(count); n++) both.immediate(n)
db.close()
