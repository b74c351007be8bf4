/** All commands, in the order in which help shows them. A command's module is loaded only when it is asked for. */
import type { Command } from 'commander'

export interface CommandEntry {
  name: string
  /** As commander writes arguments. */
  arguments: string
  summary: string
  group: keyof typeof GROUPS
  load(): Promise<{ define(command: Command): void }>
}

export const GROUPS = {
  drive: 'The drive:',
  devices: 'Its devices:',
  files: 'Files, mounted or not:',
  care: 'Care:',
  service: 'Service:',
} as const

export const COMMANDS: readonly CommandEntry[] = [
  { name: 'create', arguments: '', group: 'drive', summary: 'make a new drive', load: () => import('./create.js') },
  { name: 'join', arguments: '<key>', group: 'drive', summary: 'take part in a drive that other devices have', load: () => import('./join.js') },
  { name: 'mount', arguments: '<dir>', group: 'drive', summary: 'mount the drive on a folder', load: () => import('./mount.js') },
  { name: 'unmount', arguments: '<dir>', group: 'drive', summary: 'unmount; waits until all is flushed', load: () => import('./unmount.js') },
  { name: 'status', arguments: '[path]', group: 'drive', summary: 'the drive and its mounts, or one file', load: () => import('./status.js') },
  { name: 'key', arguments: '', group: 'drive', summary: 'show the key of the drive', load: () => import('./key.js') },
  { name: 'peers', arguments: '', group: 'devices', summary: 'who is connected, and how', load: () => import('./peers.js') },
  { name: 'devices', arguments: '[action] [device]', group: 'devices', summary: 'the devices of the drive; add, set, drain one', load: () => import('./devices.js') },
  { name: 'config', arguments: '[action] [name] [value]', group: 'devices', summary: 'settings that all devices agree on', load: () => import('./config.js') },
  { name: 'conflicts', arguments: '[action] [path]', group: 'devices', summary: 'what was changed on two devices at once; choose', load: () => import('./conflicts.js') },
  { name: 'ls', arguments: '[paths...]', group: 'files', summary: 'list files', load: () => import('./ls.js') },
  { name: 'cat', arguments: '<paths...>', group: 'files', summary: 'write files to standard output', load: () => import('./cat.js') },
  { name: 'put', arguments: '<sources...>', group: 'files', summary: 'copy files into the drive', load: () => import('./put.js') },
  { name: 'get', arguments: '<sources...>', group: 'files', summary: 'copy files out of the drive', load: () => import('./get.js') },
  { name: 'rm', arguments: '<paths...>', group: 'files', summary: 'remove files', load: () => import('./rm.js') },
  { name: 'mv', arguments: '<sources...>', group: 'files', summary: 'move or rename files', load: () => import('./mv.js') },
  { name: 'mkdir', arguments: '<paths...>', group: 'files', summary: 'make folders', load: () => import('./mkdir.js') },
  { name: 'log', arguments: '<path>', group: 'files', summary: 'what happened to a file, deleted or not', load: () => import('./log.js') },
  { name: 'restore', arguments: '<path>', group: 'files', summary: 'bring files back as they were', load: () => import('./restore.js') },
  { name: 'pin', arguments: '<paths...>', group: 'files', summary: 'keep files on this device, whatever its cache', load: () => import('./pin.js') },
  { name: 'unpin', arguments: '<paths...>', group: 'files', summary: 'take a pin back', load: () => import('./unpin.js') },
  { name: 'evict', arguments: '<paths...>', group: 'files', summary: 'take content off this device that others have', load: () => import('./evict.js') },
  { name: 'sync', arguments: '', group: 'care', summary: 'make sure that everything survives a power cut', load: () => import('./sync.js') },
  { name: 'fsck', arguments: '', group: 'care', summary: 'check the drive', load: () => import('./fsck.js') },
  { name: 'scrub', arguments: '', group: 'care', summary: 'verify all that this device holds, and mend it', load: () => import('./scrub.js') },
  { name: 'repair', arguments: '', group: 'care', summary: 'bring back what is damaged or missing here', load: () => import('./repair.js') },
  { name: 'gc', arguments: '', group: 'care', summary: 'give the space of deleted data back now', load: () => import('./gc.js') },
  { name: 'serve', arguments: '', group: 'service', summary: 'run the daemon in the foreground, for service managers', load: () => import('./serve.js') },
  { name: 'service', arguments: '', group: 'service', summary: 'have systemd run the daemon: install, status, logs, ...', load: () => import('./service.js') },
  { name: 'stop', arguments: '', group: 'service', summary: 'unmount everything and end the daemon', load: () => import('./stop.js') },
  { name: 'bootstrap', arguments: '', group: 'service', summary: 'run a private DHT, for networks of their own', load: () => import('./bootstrap.js') },
  { name: 'completion', arguments: '<shell>', group: 'service', summary: 'print the completion script for bash, zsh or fish', load: () => import('./completion.js') },
]
