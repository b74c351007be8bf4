import { Option, type Command } from 'commander'
import type { DeviceStatus, DriveApi } from '../../lib/api.js'
import { fail } from '../../lib/errors.js'
import { run, usage, type GlobalOptions } from '../context.js'
import { writeJson } from '../output.js'
import { formatAge, writeTable } from '../table.js'

interface Options extends GlobalOptions { json?: boolean; role?: 'read-only' | 'storage'; name?: string }

/** Of an id: as much as tells devices apart, and fits a line. */
const SHOWN_CHARS = 12
const MIN_PREFIX_CHARS = 4

export function define(command: Command): void {
  command
    .description(`Lists the devices of the drive: those that are enrolled, with their role, and guests, which are
connected with a read-only or storage key and which no full device has enrolled. A device with
the full key enrols itself. \`add\` enrols a guest, so that it counts and has a name; DEVICE is its
id, or the beginning of it. A device that is silent for 60 days is set aside: the others wait for
it no more; when it comes back it takes their metadata, and does again what it has written.`)
    .addOption(new Option('--role <role>', 'what an added device is').choices(['read-only', 'storage']))
    .option('--name <name>', 'what an added device is called (default: the name that it gives itself)')
    .option('--json', 'print one JSON object')
    .addHelpText('after', `
Examples:
  dfs devices
  dfs devices add 8ykqj5zb --role read-only --name tv`)
    .action((action: string | undefined, device: string | undefined, options: Options) => run(command, async (context) => {
      if (action === undefined) {
        if (options.role !== undefined || options.name !== undefined) throw usage('--role and --name are for dfs devices add DEVICE')
        const devices = await (await context.drive()).devices()
        return options.json ? writeJson({ devices: devices.map(fields) }) : list(devices)
      }
      if (action !== 'add') throw usage(`there is no 'dfs devices ${action}'; there is dfs devices, and dfs devices add DEVICE --role ROLE`)
      if (device === undefined || options.role === undefined) throw usage('dfs devices add wants a device and a role: dfs devices add DEVICE --role read-only|storage')
      const drive = await context.drive()
      const { id, name } = await find(drive, device)
      await drive.addDevice(id, options.role, options.name ?? name)
      if (options.json) return writeJson({ device: id, role: options.role, name: options.name ?? name })
      context.say(`Enrolled ${options.name ?? name} (${id}) as a ${options.role} device.`)
    }))
}

/** A whole id may be of a device that is not connected. */
async function find(drive: DriveApi, given: string): Promise<{ id: string; name: string }> {
  const matching = given.length < MIN_PREFIX_CHARS ? [] : (await drive.devices()).filter((d) => d.device.startsWith(given))
  if (matching.length === 1) return { id: matching[0]!.device, name: matching[0]!.name }
  if (matching.length > 1) throw usage(`several devices begin with ${given}; give more of the id`)
  if (given.length >= 52) return { id: given, name: given.slice(0, SHOWN_CHARS) }
  throw fail('ENOENT', `no device begins with ${given}; dfs devices lists them, or give its whole id`)
}

function fields({ lastSeenMs, ...rest }: DeviceStatus) {
  return { ...rest, lastSeenMs, lastSeen: lastSeenMs === null ? null : new Date(lastSeenMs).toISOString() }
}

async function list(devices: DeviceStatus[]): Promise<void> {
  await writeTable([
    ['ID', 'NAME', 'ROLE', 'SEEN'],
    ...devices.map((d) => [
      d.device.slice(0, SHOWN_CHARS), d.name, d.role,
      `${d.isThisDevice ? 'this device' : d.isConnected ? 'connected' : d.lastSeenMs === null ? 'never' : formatAge(d.lastSeenMs)}${d.isAway ? ', set aside' : ''}`,
    ]),
  ])
}
