/** Joins the two halves that know nothing of each other: a drive, and the drivers that mount it. */
import type { Drive } from '../lib/drive.js'
import { fail } from '../lib/errors.js'
import type { Mounted, Mounter } from '../lib/service/daemon.js'
import type { MountRequest } from '../lib/service/calls.js'
import { Filesystem } from '../mount/filesystem.js'
import { parseMountOptions } from '../mount/options.js'
import { whoHolds } from '../mount/holders.js'

export const DRIVERS = ['kernel', 'fuse-native'] as const

export function mounterOf(drive: Drive): Mounter {
  return {
    async mount(request: MountRequest): Promise<Mounted> {
      const options = parseMountOptions(request.options)
      const mounted = await mountWith(request, new Filesystem(drive), options)
      // The drive's own status names its mounts too.
      const place = { dir: request.dir, driver: request.driver }
      drive.mountpoints.push(place)
      const forget = () => void drive.mountpoints.splice(drive.mountpoints.indexOf(place), 1)
      void mounted.closed.then(forget, forget)
      return mounted
    },
    holders: whoHolds,
  }
}

async function mountWith({ dir, driver }: MountRequest, operations: Filesystem, options: ReturnType<typeof parseMountOptions>): Promise<Mounted> {
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
