/** Joins the two halves that know nothing of each other: a drive, and the drivers that mount it. */
import { Drive } from '../lib/drive.js'
import { fail } from '../lib/errors.js'
import type { Mounted, Mounter } from '../lib/service/daemon.js'
import type { MountRequest } from '../lib/service/calls.js'
import type { StoragePeer } from '../lib/storage-peer.js'
import { unreadable } from '../lib/unreadable.js'
import { Filesystem } from '../mount/filesystem.js'
import { whoHolds } from '../mount/holders.js'
import { withIdMap } from '../mount/idmap.js'
import type { Operations } from '../mount/operations.js'
import { parseMountOptions } from '../mount/options.js'

export const DRIVERS = ['kernel', 'fuse-native'] as const

export function mounterOf(drive: Drive | StoragePeer): Mounter {
  if (!(drive instanceof Drive)) return { mount: () => Promise.reject(unreadable()), holders: whoHolds }
  return {
    async mount(request: MountRequest): Promise<Mounted> {
      const options = parseMountOptions(request.options)
      const filesystem = new Filesystem(drive, options)
      const mounted = await mountWith(request, options.idMap ? withIdMap(filesystem, drive.creator) : filesystem, options)
      // The drive's own status names its mounts too.
      const place = { dir: request.dir, driver: request.driver }
      drive.mountpoints.push(place)
      const forget = () => void drive.mountpoints.splice(drive.mountpoints.indexOf(place), 1)
      void mounted.closed.then(forget, forget)
      return {
        closed: mounted.closed,
        unmount: (how) => mounted.unmount(how),
        abandon: () => abandon(filesystem),
        abort: () => {
          abandon(filesystem)
          mounted.abort()
        },
      }
    },
    holders: whoHolds,
  }
}

/** A session cannot be ended while the kernel has users for it; what it is asked can be refused. */
function abandon(operations: Operations): void {
  for (const name of REFUSED) Object.defineProperty(operations, name, { value: () => ENOTCONN })
}

const REFUSED: readonly (keyof Operations)[] = [
  'setattr', 'mknod', 'mkdir', 'symlink', 'link', 'unlink', 'rmdir', 'rename', 'open', 'create', 'tmpfile', 'read', 'write', 'flush', 'fsync', 'fsyncdir',
  'fallocate', 'copyFileRange', 'setxattr', 'removexattr',
]
/** What a program gets from a mount whose daemon is gone (errno(3)). */
const ENOTCONN = 107

async function mountWith({ dir, driver }: MountRequest, operations: Operations, options: ReturnType<typeof parseMountOptions>): Promise<Omit<Mounted, 'abandon'>> {
  // Loaded when used: fuse-native does not install everywhere.
  switch (driver) {
    case 'kernel': {
      const { mountKernel } = await import('../mount/kernel/mount.js')
      return mountKernel({ dir, operations, options })
    }
    case 'fuse-native': {
      const { mountFuseNative } = await import('../mount/fuse-native.js')
      return mountFuseNative({ dir, operations, options })
    }
    default:
      throw fail('USAGE', `there is no mount driver '${driver}'; choose one of ${DRIVERS.join(', ')}`)
  }
}
