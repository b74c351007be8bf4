/**
 * Bounds on everything, each with its reason. A bound that is part of a format
 * (it changes what others accept) is marked so: changing it needs a new version.
 */

// --- chunks ---

/** Format. Plaintext bytes of one piece: a 4 KiB read opens one or two and costs two or three pages of the disk; tags cost 0.4 %. */
export const PIECE_BYTES = 4 * 1024
/** Format. Plaintext bytes of a chunk: bounds what a peer can make us hold to verify an id. */
export const MAX_CHUNK_BYTES = 1024 * 1024
/** Suggested FastCDC average: dedup of small edits against 100 B of metadata a chunk. */
export const CHUNK_AVERAGE_BYTES = 128 * 1024
/** Below this a cut costs more in records than it can save. */
export const MIN_CHUNK_AVERAGE_BYTES = 4 * 1024

/** How long a read waits for its content before it fails with EIO: a peer that wakes from sleep, not one that is gone. Milliseconds. */
export const READ_DEADLINE_MS = 30_000

// --- devices ---

/** A device that is silent for so long is set aside: what all need not be kept for longer than anybody is on a journey. */
export const ASIDE_AFTER_MS = 60 * 86_400_000
/** Before a device judges others silent it was up itself for so long: whoever is there has come by then. */
export const ASIDE_UP_MS = 3_600_000

// --- names and values (format: every device must refuse alike) ---

/** NAME_MAX of Linux. */
export const MAX_NAME_BYTES = 255
/** PATH_MAX - 1, as Linux. */
export const MAX_SYMLINK_BYTES = 4095
/** XATTR_NAME_MAX of Linux. */
export const MAX_XATTR_NAME_BYTES = 255
/** XATTR_SIZE_MAX of Linux. */
export const MAX_XATTR_VALUE_BYTES = 64 * 1024
/** A create op brings the attributes that are inherited, two at most, and as many of a file that was made without a name; others follow. */
export const MAX_CREATE_XATTRS = 16
/** 2^47: well inside what a double counts exactly, and what an extent row holds in six bytes. */
export const MAX_FILE_BYTES = 2 ** 47
/** HOST_NAME_MAX of Linux. */
export const MAX_DEVICE_NAME_BYTES = 64
/** A global inode id: 16 bytes of incarnation, up to 8 of counter. */
export const MAX_GLOBAL_ID_BYTES = 24
/** Sealed ops of one log entry: one must fit the memory of the smallest peer many times over. */
export const MAX_ENTRY_OPS_BYTES = 4 * 1024 * 1024

// --- the redo file ---

/** Each half holds some 256 small fsyncs: their commit takes milliseconds of the loop, and the sync of it is over before the other half is full. */
export const REDO_HALF_BYTES = 2 * 1024 * 1024
/** A larger batch is committed at once: then the pages of the index are no longer what costs. */
export const MAX_REDO_RECORD_BYTES = 128 * 1024

// --- keys ---

/** Twice the longest key string with dashes and spaces between all characters; more is not a key. */
export const MAX_KEY_TEXT_CHARS = 512
/** Far above what a key file holds; a planted one must not fill memory. */
export const MAX_KEY_FILE_BYTES = 16 * 1024
/** Longer input is a file given by mistake. */
export const MAX_PASSPHRASE_BYTES = 1024
/** About 0.7 s and 256 MiB: libsodium's MODERATE. */
export const ARGON2_PASSES = 3
export const ARGON2_MEMORY_BYTES = 256 * 1024 * 1024
/** Ceilings on what a stored key file may ask for: a planted file must not exhaust memory or time. */
export const MAX_ARGON2_PASSES = 16
export const MAX_ARGON2_MEMORY_BYTES = 1024 * 1024 * 1024

// --- segments ---

/** Small enough that compaction rewrites little, large enough that 1 TB is 16,000 files. */
export const SEGMENT_BYTES = 64 * 1024 * 1024
/** Smaller batches go through the page cache: filling up their last page would waste more than copying costs. */
export const BULK_BATCH_BYTES = 512 * 1024
/** Largest batch written past the page cache: what becomes of 4 MiB of plaintext in chunks of 1 KiB. */
export const MAX_BATCH_BYTES = 4.5 * 1024 * 1024
/** A worker reads this much of a segment past the page cache rather than through it; less, and reading ahead by the kernel is worth having. */
export const DIRECT_READ_BYTES = 256 * 1024
/** Most of a segment that a worker reads in one go: a chunk, or several beside each other, sealed, with what lies between them. */
export const READ_RUN_BYTES = 2 * 1024 * 1024
/** IOV_MAX of Linux is 1024. */
export const MAX_WRITEV_BUFFERS = 1024
/** Bulk appends start writeback after so many bytes, so that the disk works from the start and the sync at the end is short. */
export const WRITEBACK_BYTES = 8 * 1024 * 1024
/** Segments kept open for reading; each is one descriptor, and a deleted one holds its space while open. */
export const OPEN_SEGMENTS = 32

// --- the sealing pool ---

/** Jobs that wait: each is small (the data stays in the caller's arena), but a queue without end hides a stall. */
export const MAX_POOL_JOBS = 4096
/** Given to a worker before it has answered: hides the message's latency, keeps readers' jobs near the front. */
export const POOL_JOBS_PER_WORKER = 2
/** Bytes of one job's arena: 32-bit offsets. */
export const MAX_ARENA_BYTES = 1024 * 1024 * 1024
/** Blocks of MAX_BATCH_BYTES for sealed bytes, used again: fresh memory costs page faults and zeroing. */
export const POOL_BLOCKS = 6
/** Crashes in a row without a finished job after which the pool gives up. */
export const MAX_WORKER_CRASHES = 5

// --- placement ---

/** Format. Placement groups: what 16 bits of a chunk id tell apart. Repair state is kept for each; with 100 devices and 3 copies each device has 2,000. */
export const PLACEMENT_GROUPS = 65_536
/** Format. Copies of a chunk: more than any drive needs, and each group's holders fit into 32 bytes. */
export const MAX_COPIES = 16
/** Format. Different numbers of copies in one drive: the drive's, and those that directories want. */
export const MAX_FACTORS = 4
/** Format. Devices that chunks are placed on: an index of 16 bits, one value of which is kept. */
export const MAX_PLACED_DEVICES = 65_535
/** Format. Value of a setting of the drive. */
export const MAX_SETTING_BYTES = 256
/** Protocol. Chunks of a bucket of those for which directories want other factors: with 256 buckets, eight million chunks. */
export const MAX_BUCKET_CHUNKS = 32_768
/** Protocol. Groups that a device says it lacks: of the rest it says that they are not whole. */
export const MAX_LACKS = 131_072
/** Protocol. What a device says of its groups: as many of them lacked as it says, and as many logs as a peer has. */
export const MAX_REPORT_BYTES = 1_800_000
/** Protocol. A plan for who cannot read the drive: some ten thousand devices. */
export const MAX_PLAN_BYTES = 1 << 20
/** Format. Name of a zone. */
export const MAX_ZONE_BYTES = 64

// --- the network ---

/** Format. One message of a link, reassembled before it is handed on: a whole sealed chunk with room for its frame. */
export const MAX_MESSAGE_BYTES = 2 * 1024 * 1024
/** Format. What the rooms above may say in the handshake. */
export const MAX_HELLO_BYTES = 4 * 1024
/** Format. Addresses that a device tells its peers, and the length of each as text. */
export const MAX_TOLD_ADDRESSES = 8
export const MAX_ADDRESS_CHARS = 64
/** Format. Message bytes of one packet: a 'now' message waits for one packet of bulk at most; larger ones gain little. */
export const PACKET_BYTES = 64 * 1024
/** Format. Bulk bytes that a peer may send before they are taken: a round trip of 100 ms still carries 80 MB/s. */
export const BULK_WINDOW_BYTES = 8 * 1024 * 1024
/** Format. The same for 'now' messages, apart, so that bulk which is slow to be stored does not hold them up. */
export const NOW_WINDOW_BYTES = 4 * 1024 * 1024
/** Format. What a message costs of the window beside its bytes: empty-handed floods are bounded too. */
export const MESSAGE_COST_BYTES = 64
/** Queued on one link: past this the caller does not keep its bounds, and memory is at stake. */
export const MAX_QUEUED_BYTES = 256 * 1024 * 1024
/** Link.onDrain: so much keeps a worker busy while the main thread makes more. */
export const LOW_WATER_BYTES = 1024 * 1024
/** File ranges read ahead of their turn, of one link: the disk works while the network does. */
export const FILE_READ_AHEAD_BYTES = 4 * 1024 * 1024
/** Raw bytes of a connection before its proof is good: two handshakes, and a greeting that came in one piece with the proof. */
export const MAX_UNPROVEN_BYTES = 8 * 1024
/** Connections in handshake, in all and of one address (one /64 of IPv6): each holds some kilobytes. The oldest gives way. */
export const MAX_HALF_OPEN = 64
export const MAX_HALF_OPEN_PER_ADDRESS = 16
/** Accepted connections of one address, proven ones included: a household behind one NAT, or ten devices on one machine. */
export const MAX_ACCEPTED_PER_ADDRESS = 64
/** Links and connections beside them, in all and of one device (a spare beside the one in use, and what replaces either). */
export const MAX_CONNECTIONS = 512
export const MAX_CONNECTIONS_PER_PEER = 4
/** Inbound hyperswarm handshakes of unknown keys a second, and under way (hyperdht issue 294: each holds a socket for 20 s). */
export const MAX_DHT_HANDSHAKES_PER_S = 10
export const MAX_DHT_HANDSHAKES = 64
/** Connections of devices that this one relays for, two for each stream: each can carry what the uplink does. */
export const MAX_RELAYED = 32
/** Addresses that are tried, beside the given ones. */
export const MAX_LEARNED_ADDRESSES = 512
/** Format. Devices of whose addresses one packet tells: 20 KiB at most. */
export const MAX_TOLD_RECORDS = 32
/** Devices of whose addresses a peer may tell at once: a whole large drive; and then each second: they seldom change. */
export const TOLD_RECORDS_AT_ONCE = 256
export const TOLD_RECORDS_PER_S = 0.5
/** Dials to one host (one /64 of IPv6) that only hearsay names, at once and each second: ten devices on one machine, no flood. */
export const HEARSAY_DIALS_AT_ONCE = 16
export const HEARSAY_DIALS_PER_S = 0.1
/** Devices whose addresses are kept for the next start, of each the first so many, for so long. */
export const MAX_KEPT_DEVICES = 64
export const MAX_KEPT_ADDRESSES = 4
export const KEPT_ADDRESSES_MS = 30 * 24 * 3_600_000
