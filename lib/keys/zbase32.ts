/**
 * z-base-32 (Zooko O'Whielacronx, 2002): 32 letters and digits chosen to be read
 * and typed by people; case does not matter. Bits are taken most significant
 * first; the bits that fill the last character must be zero, so that there is
 * one text for each byte string.
 */
import { fail } from '../errors.js'

export const ALPHABET = 'ybndrfg8ejkmcpqxot1uwisza345h769'
const VALUES = new Map([...ALPHABET].map((c, i) => [c, i]))

export function encodeZ32(bytes: Uint8Array): string {
  let text = ''
  let bits = 0
  let acc = 0
  for (const byte of bytes) {
    acc = (acc << 8) | byte
    bits += 8
    while (bits >= 5) {
      bits -= 5
      text += ALPHABET[(acc >>> bits) & 31]
    }
    acc &= (1 << bits) - 1
  }
  return bits > 0 ? text + ALPHABET[(acc << (5 - bits)) & 31] : text
}

/** Throws KEY_INVALID for a character outside the alphabet or a length that no byte string has. */
export function decodeZ32(text: string): Buffer {
  const out = Buffer.alloc(Math.floor((text.length * 5) / 8))
  let bits = 0
  let acc = 0
  let at = 0
  for (const char of text.toLowerCase()) {
    const value = VALUES.get(char)
    if (value === undefined) throw fail('KEY_INVALID', `the character '${char}' is never part of a key`)
    acc = (acc << 5) | value
    bits += 5
    if (bits >= 8) {
      bits -= 8
      out[at++] = acc >>> bits
    }
    acc &= (1 << bits) - 1
  }
  if (bits >= 5 || acc !== 0) throw fail('KEY_INVALID', 'the key is not complete: its last character is missing or wrong')
  return out
}
