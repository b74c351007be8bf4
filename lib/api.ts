/**
 * The public API of a drive, shaped like node:fs/promises. lib/drive.ts
 * implements it on an open store, lib/client.ts against a running daemon, so
 * that a program (and the command line) need not know which it holds.
 *
 * Paths are absolute within the drive ('/' is its root, a leading '/' may be
 * left out); a Buffer where a name is not valid UTF-8. Symlinks in the middle of
 * a path are followed within the drive, the last component as the call's
 * node:fs namesake does. Errors are DfsError with the code that the namesake
 * would have (ENOENT, EEXIST, ...), and a message naming the path.
 */

export type Path = string | Buffer
export type FileType = 'file' | 'directory' | 'symlink' | 'fifo' | 'socket' | 'chardev' | 'blockdev'

export interface Stats {
  ino: number
  type: FileType
  /** As st_mode. */
  mode: number
  nlink: number
  uid: number
  gid: number
  rdev: number
  /** Bytes. */
  size: number
  /** Milliseconds since 1970, with fractions. */
  atimeMs: number
  mtimeMs: number
  ctimeMs: number
  /** False: there are no extended attributes. */
  hasXattrs?: boolean
}

export interface Dirent {
  name: Buffer
  ino: number
  type: FileType
  stats: Stats
}

export interface SyncOptions {
  /** So many other devices are to have made it durable too, up to 16; 'mounts': as many as the mounts of the drive ask for. Default 0. */
  acks?: number | 'mounts'
  /** EIO when for so long none of it came to them; default 30,000. */
  timeoutMs?: number
  /** Gives up waiting for others: EINTR. */
  signal?: AbortSignal
}

export interface FileHandle {
  stat(): Promise<Stats>
  /** At most `length` bytes from `offset`; fewer only at the end of the file. */
  read(offset: number, length: number): Promise<Buffer>
  write(offset: number, data: Buffer): Promise<void>
  truncate(size: number): Promise<void>
  /** Resolves when what was written survives power loss; EIO if other devices that are to have it do not say so in time. */
  sync(options?: SyncOptions): Promise<void>
  /** May be called twice. */
  close(): Promise<void>
}

export interface DriveStatus {
  pid: number
  /** The drive's id (z-base-32 of its authority's public key) and name. */
  drive: string
  name: string
  /** This device's id and name. */
  device: string
  deviceName: string
  store: string
  order: string
  keyKind: 'full' | 'read-only' | 'storage'
  mountpoints: { dir: string; driver: string }[]
  /** Connected now. */
  peers: PeerStatus[]
  /** Addresses that were given for devices of the drive, and are remembered. */
  knownPeers: string[]
  /** Null where no daemon runs, and for a moment after its network had to start again. */
  network: NetworkStatus | null
  files: number
  /** Sum of the files' sizes. */
  logicalBytes: number
  /** `owed`: known and not here; others have them. */
  chunks: { here: number; hereBytes: number; owed: number; owedBytes: number; inline: number; inlineBytes: number }
  /** What this device keeps: everything (null), or as much as fits. */
  cache: { limitBytes: number | null; usedBytes: number; pins: number }
  /** Chunks here that were found damaged and are not mended yet; how what is here is verified in the background. */
  damaged: number
  scrub: ScrubStatus
  /** Bytes in segment files, the index and its write-ahead log. */
  disk: { segments: number; index: number; wal: number; freeBytes: number }
  /** Bytes written by programs that have not reached the disk yet. */
  dirtyBytes: number
  /**
   * How far the replication factor is met; null: everything is on every device. Chunks of which a holder lacks its copy; copies and
   * bytes that are owed, and how long they take at the present speed (null: not known); bytes of content for which there is room.
   * Of this device: chunks that it is to hold and lacks, bytes that it holds. `silent`: devices that have not said what they have.
   */
  placement?: {
    wanted: number; possible: number; chunksUnder: number; copiesOwed: number; bytesOwed: number; secondsLeft: number | null; usableBytes: number
    isFull: boolean; lacking: number; heldBytes: number; silent: string[]
  } | null
  log: { entries: number; bytes: number; seq: number }
  /** On a device that keeps the drive for others: the snapshot that a device which joins begins with, and who made it when (milliseconds since 1970, by its clock). */
  snapshot?: { device: string; name: string; madeMs: number; bytes: number } | null
  rssBytes: number
}

/** One connected device of the drive. */
export interface PeerStatus {
  /** Its id, z-base-32 of its public key. */
  device: string
  name: string
  /** 'guest': it holds a key of the drive, and no full device has enrolled it. */
  role: 'full' | 'read-only' | 'storage' | 'guest'
  via: 'lan' | 'tcp' | 'holepunched' | 'relayed'
  /** 'HOST:PORT' of its end. */
  address: string
  rttMs: number
  bytesIn: number
  bytesOut: number
  /** Log entries that the one has and the other lacks. */
  owedToPeer: number
  owedFromPeer: number
  /** Chunks that it was asked for and has not sent; its own wants that wait here. */
  chunksAsked: number
  chunksWaiting: number
  /** Given to the link, and not sent yet. */
  queuedBytes: number
}

/** A device of the drive, or one that is connected and not enrolled ('guest'). */
export interface DeviceStatus {
  /** z-base-32 of its public key. */
  device: string
  name: string
  role: PeerStatus['role']
  isThisDevice: boolean
  isConnected: boolean
  /** When it was connected last, or wrote last, as far as is known here; milliseconds since 1970. */
  lastSeenMs: number | null
  /** It was silent for so long that nobody waits for it; when it comes back it begins anew. */
  isAway: boolean
  /** What it offers (null: it has not said), where it stands, what part of everything it is to hold (null: without a plan), and what it has said of that. */
  placement?: {
    capacityBytes: number | null; zone: string; isLeaving: boolean; isLost: boolean; isDoubted: boolean; isFull: boolean
    share: number | null; heldBytes: number | null; usedBytes: number | null; lacksChunks: number | null; lacksBytes: number | null
  }
}

/** A setting of the drive; `value` null: nobody has set it. */
/** Of the drive; or of the directory `path` and all below it. */
export interface SettingStatus { name: string; path?: string; value: string | null; default: string; about: string }

/** What is not given stays. `isAside`: it is gone, or away for long, and is waited for no more. `capacity`: a size such as '500G', null: what its disk offers. `zone` '': none. `isTrusted`: it is counted on again, after it could not show what it holds. */
export interface DeviceChange { capacity?: string | null; zone?: string; isDrained?: boolean; isTrusted?: true; isAside?: true }

export interface ConflictSide {
  path: Buffer
  type: FileType
  /** Bytes. */
  size: number
  mtimeMs: number
  /** Who wrote it: id and name; null, '': not known. */
  device: string | null
  deviceName: string
  isThisDevice: boolean
}

/** `aside` was put beside `plain`, which kept the name; null: that is gone. */
export interface Conflict { aside: ConflictSide; plain: ConflictSide | null }
export type Keep = 'mine' | 'theirs' | 'both'

export interface NetworkStatus {
  /** Where this device listens for TCP, and the addresses it tells others. */
  port: number
  addresses: string[]
  /** `bootstrap`: the nodes of a private DHT; null: the public one. */
  dht: { isOn: boolean; isOnline: boolean; nodes: number; port: number; bootstrap: string[] | null }
  lan: { isOn: boolean }
  /** Addresses that are tried: given ones, told by peers, found on the local network. */
  dials: { address: string; from: 'given' | 'kept' | 'peer' | 'lan'; state: 'waiting' | 'dialling' | 'connected' | 'resting'; failures: number; lastError: string | null }[]
  /** Connections refused since the start, by reason. */
  refused: Record<string, number>
  /** Chunks that are wanted now, and by whom: programs that wait, read-ahead, pins, the background; those that nobody who is connected has; bytes asked for, and not taken over yet. */
  wanted: { readers: number; ahead: number; pins: number; background: number; nowhere: number; askedBytes: number; heldBytes: number }
}

/** What long work reports; `total` is 0 while unknown. */
export interface Progress { phase: string; done: number; total: number; unit: 'bytes' | 'files' | 'chunks' | 'rows' }
export type OnProgress = (p: Progress) => void

export interface FsckProblem {
  /** Stable word: 'chunk-damaged', 'chunk-missing', 'nlink', 'orphan', 'cycle', 'refs', 'extent', 'history', 'log-chain', 'index', 'snapshot-damaged'. */
  kind: string
  /** The file it concerns, where one is known. */
  path?: string
  detail: string
  /** Whether fsck mended it (with `repair`). */
  mended: boolean
}
export interface FsckReport { inodes: number; dentries: number; extents: number; chunks: number; entries: number; bytesRead: number; problems: FsckProblem[] }
/** A pass of the scrub over all that is here. */
export interface ScrubPass {
  /** Milliseconds since 1970. */
  beganMs: number
  /** Verified, and their bytes. */
  chunks: number
  bytes: number
  /** Found bad since it began, and replaced by good ones since. */
  found: number
  mended: number
}
export interface ScrubStatus {
  /** Bytes a second in the background; 0: off. */
  rate: number
  /** The last that came to its end. */
  last: (ScrubPass & { endedMs: number }) | null
  /** `isHurried`: somebody waits for it. */
  running: (ScrubPass & { totalBytes: number; isHurried: boolean }) | null
}
/** What could not be brought back. */
export interface Danger {
  /** Chunks here that are damaged; those that should be here and are not; bytes of content in both. */
  damaged: number
  missing: number
  bytes: number
  /** Of the files that need them. */
  paths: string[]
  /** Ids of those of which no path is known: the device cannot read, or what needs them has no name. */
  unnamed: string[]
  /** False: there are more than are named. */
  isAll: boolean
}
export interface ScrubReport extends ScrubPass { endedMs: number; left: Danger }
export interface MendReport {
  /** When it began. */
  damaged: number
  missing: number
  /** Of the damaged ones: replaced by good ones, or sound after all. Of the missing ones: here now. */
  mended: number
  fetched: number
  left: Danger
}
export interface GcReport { chunksDropped: number; bytesFreed: number; segmentsDropped: number; segmentsRewritten: number }

/** Where the content of a file lies, or that of all files below a directory. */
export interface Locality {
  files: number
  /** Of content, as extents say: holes count as neither. */
  bytesHere: number
  bytesElsewhere: number
  /** 'below': by way of a directory above it. */
  pinned: 'no' | 'itself' | 'below'
  pinnedBytes?: number
}
export interface EvictReport {
  /** Of content, gone from this device. */
  bytesEvicted: number
  /** Kept since it is pinned; since no other device that keeps everything has shown that it has it. */
  bytesPinned: number
  bytesUnconfirmed: number
}

/** Something that has happened to a file, or in a directory. */
export interface VersionEvent {
  timeMs: number
  /** 'aside': merging has put it beside another. */
  what: 'created' | 'written' | 'renamed' | 'linked' | 'deleted' | 'aside'
  /** After it. */
  path: Buffer
  /** Where it was before, if it was renamed and that is known. */
  from: Buffer | null
  type: FileType
  /** Of a file, after it, bytes; null: not known. */
  size: number | null
  /** Who did it: id and name; null, '': not known. */
  device: string | null
  deviceName: string
  isThisDevice: boolean
}
/** `fromMs`: nothing is known of what was before; null: nothing is kept at all. */
export interface VersionLog { fromMs: number | null; retentionMs: number; events: VersionEvent[] }

/**
 * `to`: another path than where it was. `force`: what stands in the way is removed. `signal` ends it between two files: EINTR, when
 * nothing more changes, with a message that says what had come back.
 */
export interface RestoreOptions { atMs: number; to?: Path; force?: boolean; signal?: AbortSignal }
/** `files`: written or made. `unchanged`: were as they had been. */
export interface RestoreReport { files: number; directories: number; bytes: number; unchanged: number }

export interface DriveApi {
  /** Until mounts on this device show what was changed by calls so far. */
  told?(): Promise<void>
  stat(path: Path): Promise<Stats>
  lstat(path: Path): Promise<Stats>
  /** Streams: a directory may have millions of entries. Without '.' and '..'. */
  opendir(path: Path): AsyncIterable<Dirent>
  /** flags: 'r', 'r+', 'w', 'wx', 'a' as in node:fs. mode: permission bits when created (default 0o644). */
  open(path: Path, flags?: string, mode?: number): Promise<FileHandle>
  mkdir(path: Path, options?: { recursive?: boolean; mode?: number }): Promise<void>
  rm(path: Path, options?: { recursive?: boolean; force?: boolean }): Promise<void>
  rename(from: Path, to: Path): Promise<void>
  link(existing: Path, path: Path): Promise<void>
  symlink(target: Path, path: Path): Promise<void>
  readlink(path: Path): Promise<Buffer>
  chmod(path: Path, mode: number): Promise<void>
  chown(path: Path, uid: number, gid: number): Promise<void>
  /** Milliseconds since 1970. */
  utimes(path: Path, atimeMs: number, mtimeMs: number): Promise<void>
  /** Names of the extended attributes, POSIX ACLs (system.posix_acl_*) included. Follows symlinks, as the next. */
  listXattrs(path: Path): Promise<Buffer[]>
  /** ENODATA if there is none of that name. */
  getXattr(path: Path, name: Buffer): Promise<Buffer>
  /** Of a symlink itself. EOPNOTSUPP outside of user., trusted., security. and the ACLs. */
  setXattr(path: Path, name: Buffer, value: Buffer): Promise<void>
  /**
   * A path beside `path` that nothing has, for something to be built under and renamed. What is still there under
   * it when this object is closed, or its process ends in whatever way, is removed.
   */
  temporary(path: Path): Promise<Path>
  /** Everything so far survives power loss; EIO as FileHandle.sync. */
  sync(options?: SyncOptions): Promise<void>
  status(): Promise<DriveStatus>
  /** Who is connected now. */
  peers(): Promise<PeerStatus[]>
  /** 'HOST:PORT' of devices of the drive: remembered, and where a daemon runs dialled from now on. USAGE if malformed. */
  addPeers(addresses: string[]): Promise<void>
  /** Not remembered any more. False: it was not. */
  forgetPeer(address: string): Promise<boolean>
  /** Of the drive, and guests that are connected. */
  devices(): Promise<DeviceStatus[]>
  /** Says what a device offers, where it stands, whether it leaves. EROFS, ENOENT, EINVAL, USAGE. */
  setDevice(device: string, change: DeviceChange): Promise<void>
  /** Settings that all devices agree on; those of directories last. `dir`: as they are for what is below that directory. ENOENT, ENOTDIR. */
  config(dir?: Path): Promise<SettingStatus[]>
  /** null: as if it had never been set. `dir`: of this directory and all below it. USAGE for what there is not, EROFS, ENOENT, ENOTDIR. */
  setConfig(name: string, value: string | null, dir?: Path): Promise<void>
  /** As `sync`, and everything so far is on all devices that are to hold it. May take for ever: `onProgress` ends it by a throw. */
  waitPlaced(onProgress?: OnProgress): Promise<void>
  /** Enrols a device that holds a weaker key. KEY_KIND without the full key; EEXIST if it is enrolled; EINVAL for what is no device or name. */
  addDevice(device: string, role: 'read-only' | 'storage', name: string): Promise<void>
  /** What merging has put aside. */
  conflicts(): Promise<Conflict[]>
  /**
   * Chooses between the two sides, of which `path` is one, and gives the paths that are left. 'mine': what this device wrote, or
   * where that does not tell them apart what has the plain name. 'both': what was put aside gets a name like any other.
   * ENOENT, EEXIST (several stand aside: name one), EISDIR, EROFS.
   */
  resolveConflict(path: Path, keep: Keep): Promise<Buffer[]>
  /**
   * What happened to a file, or to the names in a directory, within the drive's retention, the last first; at most
   * `limit`. Also of what is there no more. ENOENT if nothing is known of such a path.
   */
  versions(path: Path, options?: { limit?: number }): Promise<VersionLog>
  /**
   * Brings a file back as it was, or a directory with all that was in it; what is there besides stays. A file that is there gets
   * the content that it had as its next version. ENOENT if there was nothing, or nothing is known of that time; EEXIST if something else
   * stands in the way; EINVAL if nothing is kept; EROFS.
   */
  restore(path: Path, options: RestoreOptions, onProgress?: OnProgress): Promise<RestoreReport>
  /** `data`: read and verify every chunk too, not the index alone. `repair`: mend what can be mended. */
  fsck(options: { data?: boolean; repair?: boolean }, onProgress?: OnProgress): Promise<FsckReport>
  /** Verifies all that is here; goes on with the pass that is under way (`restart`: begins another), then waits for what is damaged to be mended. Ends with what `onProgress` throws. */
  scrub(options: { restart?: boolean }, onProgress?: OnProgress): Promise<ScrubReport>
  /** Bytes a second for the scrub in the background; 0: off. Remembered on this device. */
  setScrubRate(bytesPerS: number): Promise<void>
  /** Brings back from other devices what is damaged here, or missing and should be here, as long as there is any to be had. */
  mend(onProgress?: OnProgress): Promise<MendReport>
  gc(onProgress?: OnProgress): Promise<GcReport>
  /** The content of a file, or of all that is and will be below a directory, is fetched and stays here. */
  pin(path: Path): Promise<Locality>
  /** EINVAL if it is not pinned itself. */
  unpin(path: Path): Promise<void>
  /** Takes content off this device, as far as others have it. USAGE if this device keeps everything. */
  evict(path: Path, onProgress?: OnProgress): Promise<EvictReport>
  locality(path: Path): Promise<Locality>
  /** Bytes that this device keeps at most; null: everything. Remembered. USAGE if it is too small to be of use. */
  setCache(bytes: number | null): Promise<void>
  /** The key to give away, as a dfs1-... string. KEY_KIND if this store does not hold so much. */
  key(kind: 'full' | 'read-only' | 'storage'): Promise<string>
  close(): Promise<void>
}
