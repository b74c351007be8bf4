/** The devices of the drive: their certificates, as this device knows them. */
import { readCertificate, type Certificate } from '../keys/certificate.js'
import type { Database } from '../store/database.js'

export class Members {
  readonly #db: Database
  readonly #driveId: Buffer
  readonly #touched: () => void
  readonly #known = new Map<string, { certificate: Certificate; bytes: Buffer }>()

  /** One became known; within the open transaction. */
  onNew: (certificate: Certificate) => void = () => {}

  /** `touched`: the open transaction has changed. */
  constructor(db: Database, driveId: Buffer, touched: () => void) {
    this.#db = db
    this.#driveId = driveId
    this.#touched = touched
    for (const r of db.sql.prepare('SELECT certificate FROM device').all() as { certificate: Buffer }[]) {
      const certificate = readCertificate(r.certificate, driveId)
      if (certificate) this.#known.set(certificate.device.toString('latin1'), { certificate, bytes: r.certificate })
    }
  }

  get(device: Buffer): Certificate | undefined { return this.#known.get(device.toString('latin1'))?.certificate }

  bytesOf(device: Buffer): Buffer | undefined { return this.#known.get(device.toString('latin1'))?.bytes }

  all(): Certificate[] { return [...this.#known.values()].map((k) => k.certificate) }

  certificates(): Buffer[] { return [...this.#known.values()].map((k) => k.bytes) }

  /** False: not signed by the authority, or known. The first one of a device counts. */
  add(bytes: Buffer): boolean {
    const certificate = readCertificate(bytes, this.#driveId)
    if (!certificate || this.get(certificate.device)) return false
    this.#db.sql.prepare('INSERT OR REPLACE INTO device VALUES (?,?)').run(certificate.device, bytes)
    this.#known.set(certificate.device.toString('latin1'), { certificate, bytes: Buffer.from(bytes) })
    this.onNew(certificate)
    this.#touched()
    return true
  }

  /** Whether the bytes are a certificate of this drive, known or not. */
  isValid(bytes: Buffer): boolean { return readCertificate(bytes, this.#driveId) !== undefined }

  /** The devices that may write. */
  writers(): Certificate[] { return this.all().filter((c) => c.role === 'full') }
}
