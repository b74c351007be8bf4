/**
 * Where a passphrase comes from: a terminal (not echoed), a file, or stdin.
 * Never argv or the environment's value: both can be seen by others.
 */
import { openSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { ReadStream } from 'node:tty'
import { fail } from '../errors.js'
import { MAX_PASSPHRASE_BYTES } from '../limits.js'

export type PassphraseSource =
  /** Asks on the controlling terminal; `confirm` asks twice and compares. */
  | { from: 'prompt'; prompt?: string; confirm?: boolean }
  /** The file's content without one newline at its end. */
  | { from: 'file'; path: string }
  /** The first line of stdin. */
  | { from: 'stdin' }

/**
 * 1..MAX_PASSPHRASE_BYTES bytes; the caller wipes them. PASSPHRASE_NEEDED if there is none to be had (no terminal,
 * no file, empty), PASSPHRASE_WRONG if the two typed ones differ, EINTR after Ctrl-C.
 */
export async function readPassphrase(source: PassphraseSource): Promise<Buffer> {
  switch (source.from) {
    case 'file': return check(await fromFile(source.path))
    case 'stdin': return check(await firstLine(process.stdin))
    case 'prompt': {
      const first = check(await ask(source.prompt ?? 'Passphrase: '))
      if (!source.confirm) return first
      const second = await ask('Again: ')
      const isSame = first.equals(second)
      second.fill(0)
      if (isSame) return first
      first.fill(0)
      throw fail('PASSPHRASE_WRONG', 'the two passphrases differ')
    }
  }
}

async function fromFile(path: string): Promise<Buffer> {
  const buffer = Buffer.alloc(MAX_PASSPHRASE_BYTES + 3)
  try {
    const handle = await open(path, 'r')
    try {
      let length = 0
      for (;;) {
        const { bytesRead } = await handle.read(buffer, length, buffer.length - length, null)
        length += bytesRead
        if (bytesRead === 0 || length === buffer.length) break
      }
      return withoutNewline(buffer.subarray(0, length))
    } finally {
      await handle.close()
    }
  } catch (e) {
    throw fail('PASSPHRASE_NEEDED', `the passphrase file ${path} cannot be read (${(e as NodeJS.ErrnoException).code ?? String(e)})`, e)
  }
}

async function firstLine(stream: NodeJS.ReadableStream): Promise<Buffer> {
  const chunks: Buffer[] = []
  let length = 0
  for await (const part of stream) {
    const chunk = Buffer.from(part as Buffer | string)
    chunks.push(chunk)
    length += chunk.length
    if (chunk.includes(10) || length > MAX_PASSPHRASE_BYTES + 2) break
  }
  const all = Buffer.concat(chunks)
  const end = all.indexOf(10)
  return withoutNewline(end < 0 ? all : all.subarray(0, end + 1))
}

/** Raw mode: the terminal echoes nothing, and Ctrl-C arrives as a byte. */
async function ask(prompt: string): Promise<Buffer> {
  let input: ReadStream
  try {
    input = new ReadStream(openSync('/dev/tty', 'r+'))
  } catch (e) {
    throw fail('PASSPHRASE_NEEDED', 'there is no terminal to ask for the passphrase; give it in a file or on stdin', e)
  }
  process.stderr.write(prompt)
  input.setRawMode(true)
  const typed: number[] = []
  try {
    // The stream must outlive the loop: a destroyed one cannot leave raw mode.
    for await (const part of input.iterator({ destroyOnReturn: false })) {
      for (const byte of part as Buffer) {
        if (byte === 3) throw fail('EINTR', 'interrupted')
        if (byte === 13 || byte === 10 || byte === 4) return Buffer.from(Uint8Array.from(typed).buffer)
        if (byte === 21) typed.length = 0 // Ctrl-U
        else if (byte === 127 || byte === 8) dropCharacter(typed)
        else if (typed.length <= MAX_PASSPHRASE_BYTES) typed.push(byte)
      }
    }
    throw fail('PASSPHRASE_NEEDED', 'the terminal was closed')
  } finally {
    typed.fill(0)
    input.setRawMode(false)
    input.destroy()
    process.stderr.write('\n')
  }
}

/** The last UTF-8 character: its continuation bytes, and its first. */
function dropCharacter(typed: number[]): void {
  while (typed.length > 0 && (typed.pop()! & 0xc0) === 0x80);
}

function withoutNewline(bytes: Buffer): Buffer {
  let end = bytes.length
  if (end > 0 && bytes[end - 1] === 10) end--
  if (end > 0 && bytes[end - 1] === 13) end--
  return bytes.subarray(0, end)
}

function check(bytes: Buffer): Buffer {
  if (bytes.length === 0) throw fail('PASSPHRASE_NEEDED', 'the passphrase is empty')
  if (bytes.length > MAX_PASSPHRASE_BYTES) throw fail('PASSPHRASE_WRONG', `a passphrase has at most ${MAX_PASSPHRASE_BYTES} bytes`)
  return bytes
}
