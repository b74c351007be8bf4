/**
 * What two devices say to each other before messages flow, as bytes. No I/O.
 * docs/protocol.md, "Handshake".
 *
 *   TCP only, before Noise: the gate. Who cannot answer it learns no key and costs no curve operation.
 *     answerer: 32 random bytes
 *     dialler:  32 random bytes, MAC(gate | dialler | drive | both)
 *     answerer: MAC(gate | answerer | drive | both)
 *   After Noise, on every transport: the proof, bound to that very Noise session.
 *     both: version, MAC(proof | role | version | drive | handshake hash)
 *   Then: the greeting.
 *
 * MAC = BLAKE2b-256 keyed with the drive's proof key.
 */
import sodium from 'sodium-native'
import { MAX_ADDRESS_CHARS, MAX_HELLO_BYTES, MAX_TOLD_ADDRESSES } from '../../limits.js'
import { Reader, Writer } from '../../log/codec.js'
import { broken, KIND, PROOF_BYTES } from './packet.js'

export const VERSION = 1
export const GATE_NONCE_BYTES = 32
export const MAC_BYTES = 32
/** Of a link's id: the first bytes of the Noise handshake hash. */
export const LINK_ID_BYTES = 8
export const NO_LINK = Buffer.alloc(LINK_ID_BYTES)

export type Role = 'dialler' | 'answerer'

function mac(key: Uint8Array, ...parts: (string | Uint8Array)[]): Buffer {
  const out = Buffer.alloc(MAC_BYTES)
  sodium.crypto_generichash(out, Buffer.concat(parts.map((part) => (typeof part === 'string' ? Buffer.from(part) : part))), key)
  return out
}

/** What every member of a drive knows, storage peers included: 32 bytes each. */
export interface Membership { driveId: Uint8Array; proofKey: Uint8Array }

export function gateMac({ driveId, proofKey }: Membership, role: Role, answererNonce: Uint8Array, diallerNonce: Uint8Array): Buffer {
  return mac(proofKey, `dfs tcp gate 1\0${role}\0`, driveId, answererNonce, diallerNonce)
}

/** The packet that proves membership in `role` of this Noise session. */
export function proofPacket({ driveId, proofKey }: Membership, role: Role, handshakeHash: Uint8Array, version = VERSION): Buffer {
  return Buffer.concat([Buffer.from([KIND.proof, version]), mac(proofKey, `dfs proof\0${role}\0`, Uint8Array.of(version), driveId, handshakeHash)])
}

/** Compares in constant time. */
export function checkProof(member: Membership, role: Role, handshakeHash: Uint8Array, packet: Uint8Array): 'good' | 'wrong' | 'other version' {
  if (packet.length !== PROOF_BYTES || packet[0] !== KIND.proof) return 'wrong'
  const version = packet[1]!
  if (!sameMac(proofPacket(member, role, handshakeHash, version), packet)) return 'wrong'
  return version === VERSION ? 'good' : 'other version'
}

/** In constant time; lengths are no secret. */
export function sameMac(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && sodium.sodium_memcmp(a, b)
}

export interface Greeting {
  /** 16 random bytes of this run of the device: a restart shows. */
  instance: Buffer
  /** Of the last link with this peer that this side saw end; NO_LINK if none. */
  ended: Buffer
  /** Where this device listens for TCP; 0 for nowhere. */
  port: number
  /** IP addresses of this device, for that port. */
  hosts: string[]
  /** The application's bytes. */
  hello: Buffer
}

export function encodeGreeting({ instance, ended, port, hosts, hello }: Greeting): Buffer {
  const w = new Writer(256 + hello.length)
  w.byte(KIND.hello)
  w.fixed(instance)
  w.fixed(ended)
  w.uint(port)
  w.uint(hosts.length)
  for (const host of hosts) w.bytes(Buffer.from(host))
  w.bytes(hello)
  return w.take()
}

export function decodeGreeting(packet: Buffer): Greeting {
  const r = new Reader(packet)
  if (r.byte() !== KIND.hello) throw broken('no greeting where one is due')
  const instance = r.fixed(16)
  const ended = r.fixed(LINK_ID_BYTES)
  const port = r.uint()
  if (port > 65535) throw broken('a port is out of range')
  const hosts: string[] = []
  for (let n = r.count(MAX_TOLD_ADDRESSES); n > 0; n--) hosts.push(r.bytes(MAX_ADDRESS_CHARS).toString('latin1'))
  const hello = r.bytes(MAX_HELLO_BYTES)
  if (r.left > 0) throw broken('a greeting is too long')
  return { instance, ended, port, hosts, hello }
}
