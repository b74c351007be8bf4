/**
 * What a soak writes and reads: each file is named by the SHA-256 of its content, so that every device can tell by itself
 * whether what it reads is right. Base files are written once, writers make and remove theirs all the time.
 */
import { createHash, randomBytes } from 'node:crypto'
import { promises as fs } from 'node:fs'
import { basename, join } from 'node:path'
import { shaOf, type Member } from '../helpers/member.js'
import { sleep } from '../helpers/run.js'

const KEPT_BY_WRITER = 200
const READERS = 4
const WRITE_MS = 200
/** What one device has written another knows within this. */
const KNOWN_MS = 60_000

export class SoakFiles {
  /** Paths within the drive, and the device that wrote them. */
  readonly expected = new Map<string, string>()
  readonly #random: () => number

  constructor(random: () => number) {
    this.#random = random
  }

  /** Random content by the mix of small, medium and large: most files are small, most bytes are not. */
  #size(): number {
    const [kind, part] = [this.#random(), this.#random()]
    if (kind < 0.7) return 1 + Math.floor(part * 16_384)
    if (kind < 0.97) return Math.floor(65_536 + part * 2_000_000)
    return Math.floor(8_000_000 + part * 56_000_000)
  }

  /** About so many bytes, half of the devices' turns each. */
  async writeBase(devices: readonly Member[], bytes: number, dir: string): Promise<void> {
    let left = bytes
    await Promise.all(devices.map(async (device) => {
      const folder = join('base', dir, device.name)
      await fs.mkdir(device.at(folder), { recursive: true })
      while (left > 0) {
        const size = Math.min(this.#size(), Math.max(1, left))
        left -= size
        await this.#write(device, folder, size)
      }
    }))
  }

  async #write(device: Member, folder: string, size: number): Promise<string> {
    const content = randomBytes(size)
    const path = join(folder, createHash('sha256').update(content).digest('hex'))
    const temporary = join(folder, `.part-${basename(path).slice(0, 8)}`)
    await fs.writeFile(device.at(temporary), content)
    await fs.rename(device.at(temporary), device.at(path))
    this.expected.set(path, device.name)
    return path
  }

  /** A part of the base goes. */
  async removeBase(device: Member, part: number): Promise<void> {
    for (const path of [...this.expected.keys()].filter((p) => p.startsWith('base/') && this.#random() < part)) {
      this.expected.delete(path)
      await fs.rm(device.at(path))
    }
  }

  writer(device: Member): SoakWriter {
    return new SoakWriter(device, this, (folder) => this.#write(device, folder, Math.min(this.#size(), 1_000_000)))
  }

  of(device: string): Set<string> {
    return new Set([...this.expected].filter(([, by]) => by === device).map(([path]) => path))
  }

  /** Reads everything on a device. Throws at the first that is not as it was written; gives files and bytes. */
  async verify(device: Member): Promise<{ files: number; bytes: number }> {
    const paths = [...this.expected.keys()]
    let at = 0
    let files = 0
    let bytes = 0
    const read = async () => {
      for (let path = paths[at++]; path !== undefined; path = paths[at++]) {
        const size = await this.#read(device, path)
        if (size === undefined) continue
        files++
        bytes += size
      }
    }
    await Promise.all(Array.from({ length: READERS }, read))
    return { files, bytes }
  }

  /** undefined: it has been removed meanwhile. */
  async #read(device: Member, path: string): Promise<number | undefined> {
    for (const untilMs = performance.now() + KNOWN_MS; ;) {
      try {
        const { size } = await fs.stat(device.at(path))
        const sha = await shaOf(device.at(path))
        if (sha !== basename(path)) throw new Error(`${device.name}: ${path} has other content`)
        return size
      } catch (e) {
        if (!this.expected.has(path)) return undefined
        if ((e as NodeJS.ErrnoException).code !== 'ENOENT' || performance.now() > untilMs) throw new Error(`${device.name}: ${path} (of ${this.expected.get(path)}): ${(e as Error).message}`)
        await sleep(100)
      }
    }
  }
}

export class SoakWriter {
  readonly #mine: string[] = []
  #state: 'running' | 'paused' | 'ended' = 'running'
  #isBusy = false
  #error: Error | undefined
  written = 0

  constructor(readonly device: Member, readonly files: SoakFiles, readonly make: (folder: string) => Promise<string>) {
    void this.#run()
  }

  async #run(): Promise<void> {
    const folder = join('live', this.device.name)
    while (this.#state !== 'ended') {
      if (this.#state === 'paused') {
        await sleep(20)
        continue
      }
      this.#isBusy = true
      try {
        if (this.written === 0) await fs.mkdir(this.device.at(folder), { recursive: true })
        this.#mine.push(await this.make(folder))
        this.written++
        if (this.#mine.length > KEPT_BY_WRITER) {
          const oldest = this.#mine.shift()!
          this.files.expected.delete(oldest)
          await fs.rm(this.device.at(oldest))
        }
      } catch (e) {
        // Its device was killed: `end` came before, or is about to come.
        this.#error = e as Error
        this.#state = 'ended'
      }
      this.#isBusy = false
      await sleep(WRITE_MS)
    }
  }

  /** Nothing is being written. */
  async pause(): Promise<void> {
    if (this.#state === 'running') this.#state = 'paused'
    while (this.#isBusy) await sleep(10)
    if (this.#error) throw new Error(`the writer on ${this.device.name}: ${this.#error.message}`)
  }

  resume(): void {
    if (this.#state === 'paused') this.#state = 'running'
  }

  /** Whatever it was about to fail with. */
  async end(): Promise<void> {
    this.#state = 'ended'
    while (this.#isBusy) await sleep(10)
  }
}
