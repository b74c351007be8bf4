import { Option, type Command } from 'commander'
import type { DeviceStatus, DriveApi } from '../../lib/api.js'
import { fail } from '../../lib/errors.js'
import { run, usage, type Context, type GlobalOptions } from '../context.js'
import { formatBytes, writeJson } from '../output.js'
import { formatAge, writeTable } from '../table.js'

interface Options extends GlobalOptions { json?: boolean; role?: 'read-only' | 'storage'; name?: string; capacity?: string; zone?: string; trust?: boolean; undo?: boolean }

/** Of an id: as much as tells devices apart, and fits a line. */
const SHOWN_CHARS = 12
const MIN_PREFIX_CHARS = 4

export function define(command: Command): void {
  command
    .description(`Lists the devices of the drive: those that are enrolled, with their role, and guests, which are
connected with a read-only or storage key and which no full device has enrolled. A device with
the full key enrols itself. \`add\` enrols a guest, so that it counts and has a name; DEVICE is its
id, or the beginning of it, and once it is enrolled its name. A device that is silent for 60 days is
set aside: the others wait for it no more; when it comes back it takes their metadata, and does
again what it has written.
With a replication factor (dfs config set replication 3) each chunk is on so many devices: \`set\` says how
much one offers and where it stands, for copies never share a zone where there are enough; \`drain\`
moves all that one holds to others, before it leaves. \`aside\` sets one aside now that is gone, or will be
away for long: what was removed meanwhile can only then be given back to the disks. Its key still opens
the drive, and when it comes back it is one of them again.`)
    .addOption(new Option('--role <role>', 'what an added device is').choices(['read-only', 'storage']))
    .option('--name <name>', 'what an added device is called (default: the name that it gives itself)')
    .option('--capacity <size>', 'what a device offers, as 500G; 0: nothing; "disk": what its disk has')
    .option('--zone <zone>', 'what may fail together: a house, a rack; "" for none')
    .option('--trust', 'count on a device again that could not show what it holds')
    .option('--undo', 'of drain: it stays after all')
    .option('--json', 'print one JSON object')
    .addHelpText('after', `
Examples:
  dfs devices
  dfs devices add 8ykqj5zb --role read-only --name tv
  dfs devices set 8ykqj5zb --capacity 500G --zone attic
  dfs devices drain laptop
  dfs devices aside laptop`)
    .action((action: string | undefined, device: string | undefined, options: Options) => run(command, async (context) => {
      if (action === undefined) {
        refuse(options, [])
        const devices = await (await context.drive()).devices()
        return options.json ? writeJson({ devices: devices.map(fields) }) : list(devices)
      }
      if (action === 'set' || action === 'drain') return change(context, action, device, options)
      if (action === 'aside') return setAside(context, device, options)
      if (action !== 'add') throw usage(`there is no 'dfs devices ${action}'; there is add, set, drain and aside, and dfs devices alone lists them`)
      refuse(options, ['role', 'name'])
      if (device === undefined || options.role === undefined) throw usage('dfs devices add wants a device and a role: dfs devices add DEVICE --role read-only|storage')
      const drive = await context.drive()
      const { id, name } = await find(drive, device)
      await drive.addDevice(id, options.role, options.name ?? name)
      if (options.json) return writeJson({ device: id, role: options.role, name: options.name ?? name })
      context.say(`Enrolled ${options.name ?? name} (${id}) as a ${options.role} device.`)
    }))
}

const OF: Record<string, string> = { role: 'add', name: 'add', capacity: 'set', zone: 'set', trust: 'set', undo: 'drain' }

function refuse(options: Options, but: string[]): void {
  for (const [name, action] of Object.entries(OF)) {
    if (!but.includes(name) && options[name as keyof Options] !== undefined) throw usage(`--${name} is for dfs devices ${action} DEVICE`)
  }
}

async function change(context: Context, action: 'set' | 'drain', device: string | undefined, options: Options): Promise<void> {
  refuse(options, action === 'set' ? ['capacity', 'zone', 'trust'] : ['undo'])
  if (device === undefined) throw usage(`dfs devices ${action} wants a device: its name, its id, or the beginning of that`)
  const { capacity, zone, trust, undo } = options
  if (action === 'set' && capacity === undefined && zone === undefined && !trust) throw usage('dfs devices set wants --capacity SIZE, --zone ZONE or --trust')
  const drive = await context.drive()
  const { id, name } = await find(drive, device)
  await drive.setDevice(id, action === 'drain' ? { isDrained: !undo } : { ...(capacity !== undefined && { capacity: capacity === 'disk' ? null : capacity }), ...(zone !== undefined && { zone }), ...(trust && { isTrusted: true as const }) })
  const now = (await drive.devices()).find((d) => d.device === id)
  if (options.json) return writeJson(now ? fields(now) : { device: id })
  if ((await drive.status()).placement === null) context.notice('nothing is placed yet: every device keeps everything until a replication factor is set (dfs config set replication N)')
  if (action === 'drain') context.say(undo ? `${name} stays.` : `${name} is drained: others take what it holds. dfs devices shows how far that is; dfs sync --wait waits for it. When it has left: dfs devices aside ${name}`)
  else context.say(`${name} offers ${now?.placement?.capacityBytes == null ? 'what its disk has, which it has not said yet' : formatBytes(now.placement.capacityBytes)}${now?.placement?.zone ? `, in the zone ${now.placement.zone}` : ''}.`)
}

async function setAside(context: Context, device: string | undefined, options: Options): Promise<void> {
  refuse(options, [])
  if (device === undefined) throw usage('dfs devices aside wants a device: its name, its id, or the beginning of that')
  const drive = await context.drive()
  const { id, name } = await find(drive, device)
  await drive.setDevice(id, { isAside: true })
  if (options.json) return writeJson({ device: id, isAway: true })
  context.say(`${name} is set aside: the others wait for it no more.`)
}

/**
 * By its id, the beginning of it, or, of an enrolled device, its name: a guest calls itself what it likes. A whole id may be of a
 * device that is not connected.
 */
async function find(drive: DriveApi, given: string): Promise<{ id: string; name: string }> {
  const matching = (await drive.devices()).filter((d) => (given.length >= MIN_PREFIX_CHARS && d.device.startsWith(given)) || (d.role !== 'guest' && d.name === given))
  if (matching.length === 1) return { id: matching[0]!.device, name: matching[0]!.name }
  if (matching.length > 1) throw usage(`several devices are called ${given}, or begin with it; give more of the id`)
  if (given.length >= 52) return { id: given, name: given.slice(0, SHOWN_CHARS) }
  throw fail('ENOENT', `no device is called ${given}, or begins with it; dfs devices lists them, or give its whole id`)
}

function fields({ lastSeenMs, ...rest }: DeviceStatus) {
  return { ...rest, lastSeenMs, lastSeen: lastSeenMs === null ? null : new Date(lastSeenMs).toISOString() }
}

async function list(devices: DeviceStatus[]): Promise<void> {
  const isPlaced = devices.some((d) => d.placement?.share != null)
  await writeTable([
    ['ID', 'NAME', 'ROLE', 'SEEN', ...(isPlaced ? ['CAPACITY', 'ZONE', 'SHARE', 'HOLDS', 'LACKS'] : [])],
    ...devices.map((d) => [
      d.device.slice(0, SHOWN_CHARS), d.name, d.role,
      `${d.isThisDevice ? 'this device' : d.isConnected ? 'connected' : d.lastSeenMs === null ? 'never' : formatAge(d.lastSeenMs)}${d.isAway ? ', set aside' : ''}${state(d)}`,
      ...(isPlaced ? placement(d) : []),
    ]),
  ])
}

function state({ placement: p }: DeviceStatus): string {
  return p ? `${p.isLeaving ? ', leaves' : ''}${p.isLost ? ', lost' : ''}${p.isDoubted ? ', doubted' : ''}${p.isFull ? ', full' : ''}` : ''
}

function placement({ placement: p }: DeviceStatus): string[] {
  if (!p) return ['', '', '', '', '']
  const bytes = (n: number | null) => (n === null ? '?' : formatBytes(n))
  return [
    p.capacityBytes === null ? 'not said yet' : formatBytes(p.capacityBytes), p.zone, p.share === null ? '' : `${(100 * p.share).toFixed(0)} %`,
    bytes(p.heldBytes), p.lacksBytes === null ? '?' : p.lacksChunks === 0 ? 'nothing' : bytes(p.lacksBytes),
  ]
}
