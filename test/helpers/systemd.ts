/**
 * A systemd of its own for a test: booted as process 1 of namespaces (processes, mounts, cgroups, network, host name), with /run, /dev
 * and /var of its own and an /etc that outlives a reboot. The files of this machine are there as they are: what the test
 * mounts is seen inside only.
 *
 * Needs root that may make namespaces and a group in the cgroup2 hierarchy. Gone when the test is over, also when it fails.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { appendFileSync, cpSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Assert } from 'brittle'
import { LET_GO } from './mount.js'
import { need, run, sleep, type Ran, type RunOptions } from './run.js'
import { scratchDir } from './scratch.js'

const BOOT_MS = 20_000
/** An ordinary user, with a manager of their own: start `manager@1777`. */
export const USER = { id: 1777, name: 'dfs-test' }
/** Of /etc: what programs need to know users, libraries and zones. */
const KEPT = ['passwd', 'group', 'nsswitch.conf', 'ld.so.cache', 'ld.so.conf', 'ld.so.conf.d', 'alternatives', 'pam.d', 'security', 'localtime', 'ssl', 'login.defs']
let made = 0

export class Machine {
  /** Root's alone are its `etc` and `var`; everything else below is for the test. */
  readonly dir: string
  readonly home: string
  readonly #group = `dfs-test-${process.pid}-${made++}`
  #process: ChildProcess | undefined
  #init = 0
  #said = ''

  private constructor(dir: string) {
    this.dir = dir
    this.home = join(dir, 'home')
  }

  /** Boots one. Throws, with what was said, if that is not possible here. */
  static async boot(t: Pick<Assert, 'teardown'>): Promise<Machine> {
    if (process.geteuid!() !== 0) throw new Error('only root can boot a systemd')
    const machine = new Machine(scratchDir(t))
    t.teardown(() => machine.close(), { force: true, order: 10 })
    machine.#prepare()
    await machine.#boot()
    return machine
  }

  #prepare(): void {
    const etc = join(this.dir, 'etc')
    mkdirSync(etc, { mode: 0o755 })
    for (const name of KEPT) if (existsSync(join('/etc', name))) cpSync(join('/etc', name), join(etc, name), { recursive: true, verbatimSymlinks: true })
    mkdirSync(this.home, { mode: 0o755 })
    appendFileSync(join(etc, 'passwd'), `${USER.name}:x:${USER.id}:${USER.id}::${this.home}:/bin/sh\n`)
    appendFileSync(join(etc, 'group'), `${USER.name}:x:${USER.id}:\n`)
    writeFileSync(join(etc, 'machine-id'), '6466732d746573742d6d616368696e65\n')
    writeFileSync(join(etc, 'fuse.conf'), '')
    symlinkSync('/proc/mounts', join(etc, 'mtab'))
    mkdirSync(join(etc, 'systemd/system'), { recursive: true })
    writeFileSync(join(etc, 'systemd/journald.conf'), '[Journal]\nStorage=volatile\nReadKMsg=no\nRateLimitBurst=0\n')
    writeFileSync(join(etc, 'systemd/system/manager@.service'), [
      '[Service]', 'Type=notify', 'User=%i', 'Delegate=yes', 'KillMode=mixed', `Environment=XDG_RUNTIME_DIR=/run/user/%i`,
      'ExecStartPre=+/usr/bin/install -d -m 700 -o %i -g %i /run/user/%i', `ExecStart=${INIT} --user`, '',
    ].join('\n'))
  }

  async #boot(): Promise<void> {
    this.#said = ''
    const child = spawn('unshare', ['--mount', '--propagation', 'private', '--', 'bash', '-c', BOOT, 'boot', this.dir, this.#group], { stdio: ['ignore', 'pipe', 'pipe'] })
    this.#process = child
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (part: string) => (this.#said += part))
    for (const start = performance.now(); ; await sleep(50)) {
      if (child.exitCode !== null || child.signalCode !== null) throw new Error(`systemd did not boot: ${this.#said.trim() || `exit code ${child.exitCode}, ${child.signalCode}`}`)
      this.#init = initOf(child.pid!)
      if (this.#init > 0 && /^(running|degraded)/.test((await this.run(['systemctl', 'is-system-running'])).stdout)) return
      if (performance.now() - start > BOOT_MS) {
        const { stdout } = this.#init > 0 ? await this.run(['systemctl', 'list-jobs', '--no-pager']) : { stdout: '' }
        throw new Error(`systemd did not boot in ${BOOT_MS / 1000} s: ${this.#said}${stdout}`)
      }
    }
  }

  /** Runs a program in there, as root or as USER. */
  run(command: readonly string[], { as = 0, ...options }: RunOptions & { as?: number } = {}): Promise<Ran> {
    const user = as === 0 ? [] : ['setpriv', `--reuid=${as}`, `--regid=${as}`, '--clear-groups', '--']
    return run('nsenter', [`--target=${this.#init}`, '--mount', '--pid', '--uts', '--ipc', '--net', '--cgroup', '--', ...user, ...command], {
      cwd: '/', timeoutMs: 60_000, ...options,
      env: { PATH: process.env.PATH, HOME: as === 0 ? join(this.dir, 'root') : this.home, ...(as !== 0 && { XDG_RUNTIME_DIR: `/run/user/${as}` }), ...options.env },
    })
  }

  /** What it printed; throws unless it ends with 0. */
  async must(command: readonly string[], options: RunOptions & { as?: number } = {}): Promise<string> {
    const { code, stdout, stderr } = await this.run(command, options)
    if (code !== 0) throw new Error(`${command.join(' ')}: exit code ${code}\n${stdout}${stderr}`)
    return stdout
  }

  /** As by reboot(8): everything is stopped in order, and comes back as it was enabled. */
  async reboot(): Promise<void> {
    const child = this.#process!
    const ended = new Promise((resolve) => child.once('exit', resolve))
    await this.run(['systemctl', 'reboot', '--no-wall'])
    if (child.exitCode === null && child.signalCode === null) await ended
    await this.#boot()
  }

  /** May be called twice. */
  async close(): Promise<void> {
    const child = this.#process
    this.#process = undefined
    if (!child) return
    if (child.exitCode === null && child.signalCode === null) {
      const ended = new Promise((resolve) => child.once('exit', resolve))
      // With it all of its processes end, and with those their mounts.
      child.kill('SIGKILL')
      await ended
    }
    for (let tries = 0; tries < 100; tries++, await sleep(50)) {
      if ((await run('unshare', ['--mount', '--propagation', 'private', '--', 'bash', '-c', TIDY, 'tidy', this.#group])).code === 0) return
    }
    throw new Error(`the cgroup ${this.#group} stays`)
  }
}

/** Why no systemd can be booted here; undefined if one can. Throws if a program for it is missing. */
export async function whyNoMachine(): Promise<string | undefined> {
  need(['systemctl', 'systemd'], ['unshare', 'util-linux'], ['nsenter', 'util-linux'])
  const ends: (() => unknown)[] = []
  try {
    await Machine.boot({ teardown: (end: () => unknown) => void ends.unshift(end) } as Pick<Assert, 'teardown'>)
    return undefined
  } catch (error) {
    return (error as Error).message.replaceAll('\n', ' ')
  } finally {
    for (const end of ends) await end()
  }
}

/** unshare's only child. */
function initOf(pid: number): number {
  try {
    const child = Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ')[0])
    return child > 0 && readFileSync(`/proc/${child}/comm`, 'utf8') === 'systemd\n' ? child : 0
  } catch {
    return 0
  }
}

const INIT = existsSync('/usr/lib/systemd/systemd') ? '/usr/lib/systemd/systemd' : '/lib/systemd/systemd'

/** In mounts of its own: a cgroup, then the namespaces of the machine. $1 its folder, $2 the group. */
const BOOT = `
set -e
${LET_GO}
mount -t cgroup2 none /sys/fs/cgroup
own=$(sed -n 's/^0:://p' /proc/self/cgroup)
mkdir -p "/sys/fs/cgroup$own/$2"
echo $$ > "/sys/fs/cgroup$own/$2/cgroup.procs"
umount /sys/fs/cgroup
exec unshare --pid --fork --kill-child --mount --propagation private --cgroup --uts --ipc --net -- bash -c '
set -e
mount -t proc proc /proc
mount -t cgroup2 none /sys/fs/cgroup
mount --bind "$1/etc" /etc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock
for d in /var/log /var/tmp /var/lib/systemd; do mkdir -p $d; mount -t tmpfs tmpfs $d; done
chmod 1777 /var/tmp
# A /dev in which nothing of this machine can be changed.
mkdir /run/dev
mount -t tmpfs -o mode=755 tmpfs /run/dev
for n in null zero full random urandom tty fuse; do [ -e /dev/$n ] || continue; touch /run/dev/$n; mount --bind /dev/$n /run/dev/$n; done
mkdir /run/dev/pts /run/dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts /run/dev/pts
ln -s pts/ptmx /run/dev/ptmx
mount -t tmpfs -o mode=1777 tmpfs /run/dev/shm
ln -s /proc/self/fd /run/dev/fd; ln -s fd/0 /run/dev/stdin; ln -s fd/1 /run/dev/stdout; ln -s fd/2 /run/dev/stderr
if [ -e /run/dev/fuse ]; then umount /run/dev/fuse; rm /run/dev/fuse; cp -a /dev/fuse /run/dev/fuse; chmod 666 /run/dev/fuse; fi
mount --move /run/dev /dev
# Nothing but what the test asks for: a journal.
units=$(readlink -f /lib/systemd/system)
for d in $units/*.target.wants $units/../system-generators; do mount -t tmpfs tmpfs $d; done
ln -s $units/systemd-journald.service $units/sysinit.target.wants/
mkdir -p $units/sockets.target.wants; ln -s $units/systemd-journald.socket $units/sockets.target.wants/
# As systemd does where it is not in a container: what one service mounts, all see.
mount --make-rshared /
exec env -i container=dfs-test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin ${INIT} --system --unit=multi-user.target --show-status=0
' boot "$@"
`

const TIDY = `
mount -t cgroup2 none /sys/fs/cgroup
own=$(sed -n 's/^0:://p' /proc/self/cgroup)
d="/sys/fs/cgroup$own/$1"
[ -e "$d" ] || exit 0
find "$d" -depth -type d -exec rmdir {} \\;
[ ! -e "$d" ]
`
