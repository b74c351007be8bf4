/**
 * A drive made by user 1000 elsewhere, mounted here by user 1001: what was 1000's is shown as 1001's, and the other way
 * round, in both directions and in all places where an id can stand; all other ids are as they are.
 */
import test, { type Assert } from 'brittle'
import { chmodSync, chownSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { Drive } from '../../lib/drive.js'
import { ACL_ACCESS, ACL_DEFAULT, mapAclIds, parseAcl } from '../../lib/tree/acl.js'
import { withIdMap } from '../../mount/idmap.js'
import { MemFs } from '../helpers/memfs.js'
import { inUserland } from '../helpers/memmount.js'
import { compile, must, need } from '../helpers/run.js'
import { scratchDir } from '../helpers/scratch.js'
import { ServedMount, type DriverName } from '../helpers/served-mount.js'

const THERE = 1000, HERE = 1001, GROUP = 2000, STRANGER = 3000
const LONG = { timeout: 120_000 }

interface Setting {
  dir: string
  /** What a shell script prints that runs on the mount as the mounting user, who is in GROUP too. */
  sh(script: string): Promise<string>
  /** The same as somebody else. */
  shAs(who: number | 'root', script: string): Promise<string>
  /** Unmounts; gives the drive itself. */
  raw(): Promise<Drive>
}

async function setUp(t: Assert, { driver = 'kernel', options = 'allow_other', prepare }: { driver?: DriverName; options?: string; prepare?: (drive: Drive) => Promise<void> } = {}): Promise<Setting> {
  need(['fusermount3', 'fuse3'], ['setpriv', 'util-linux'], ['setfacl', 'acl'], ['setfattr', 'attr'])
  const scratch = scratchDir(t)
  chmodSync(scratch, 0o755)
  const store = join(scratch, 'store')
  const dir = join(scratch, 'mnt')
  mkdirSync(dir)
  chownSync(dir, HERE, HERE)
  const drive = await Drive.create(store, { uid: THERE, gid: THERE })
  try {
    await prepare?.(drive)
  } finally {
    await drive.close()
  }
  await must('chown', ['-R', `${HERE}:${HERE}`, store])
  const land = await inUserland(t)
  const user = land.as(HERE, [GROUP])
  const mount = await ServedMount.start(t, { store, dir, driver, options, prefix: user })
  const runs = ([command, ...args]: string[], script: string) =>
    must(command!, [...args, 'env', 'LC_ALL=C', 'sh', '-euc', `cd ${dir}; umask 022; ${script}`], { cwd: '/' })
  return {
    dir,
    sh: (script) => runs(user, script),
    shAs: (who, script) => runs(who === 'root' ? land.root : land.as(who), script),
    async raw() {
      await mount.stop()
      const opened = await Drive.open(store)
      t.teardown(() => opened.close(), { force: true })
      return opened
    },
  }
}

const ids = async (drive: Drive, path: string): Promise<string> => {
  const { uid, gid } = await drive.lstat(path)
  return `${uid}:${gid}`
}

async function make(drive: Drive, path: string): Promise<void> {
  const file = await drive.open(path, 'w')
  await file.write(0, Buffer.from(`${path}\n`))
  await file.close()
}

/** Files of some owners, as the drive has them. */
async function files(drive: Drive): Promise<void> {
  for (const [name, uid, gid] of [['theirs', THERE, THERE], ['ours', HERE, HERE], ['mixed', HERE, GROUP], ['other', STRANGER, 0]] as const) {
    await make(drive, `/${name}`)
    await drive.chown(`/${name}`, uid, gid)
  }
}

for (const driver of ['kernel', 'fuse-native'] as const) {
  test(`owners are shown and set as those of here (${driver})`, LONG, async (t) => {
    const { sh, raw } = await setUp(t, { driver, prepare: files })
    t.is(await sh('stat -c "%n %u:%g" . theirs ours mixed other'), `. 1001:1001\ntheirs 1001:1001\nours 1000:1000\nmixed 1000:2000\nother 3000:0\n`)
    t.is(await sh('ls -ln | awk \'NR > 1 {print $9, $3, $4}\''), 'mixed 1000 2000\nother 3000 0\nours 1000 1000\ntheirs 1001 1001\n', 'with the names of a directory, too')
    await sh('echo more >> theirs; mkdir made; echo x > made/file; ln -s x made/link; mkfifo made/fifo; chgrp 2000 theirs')
    t.is(await sh('stat -c "%n %u:%g" theirs made made/file made/link made/fifo'), 'theirs 1001:2000\nmade 1001:1001\nmade/file 1001:1001\nmade/link 1001:1001\nmade/fifo 1001:1001\n')
    t.absent(await sh('(echo x >> ours) 2>/dev/null && echo written || true'), 'what is shown as another\'s cannot be written')
    const drive = await raw()
    t.is(await ids(drive, '/theirs'), '1000:2000')
    for (const name of ['made', 'made/file', 'made/link', 'made/fifo']) t.is(await ids(drive, `/${name}`), '1000:1000', name)
    t.is(await ids(drive, '/ours'), '1001:1001')
  })
}

test('chown by root of here, both ways; an id that is not given stays', LONG, async (t) => {
  const { shAs, raw } = await setUp(t, { prepare: files })
  await shAs('root', 'chown 1000 theirs; chown 1001:1001 ours; chgrp 1000 other; chown -h 3000 mixed')
  t.is(await shAs('root', 'stat -c "%n %u:%g" theirs ours other mixed'), 'theirs 1000:1001\nours 1001:1001\nother 3000:1000\nmixed 3000:2000\n')
  const drive = await raw()
  t.alike(await Promise.all(['/theirs', '/ours', '/other', '/mixed'].map((p) => ids(drive, p))), ['1001:1000', '1000:1000', '3000:1001', '3000:2000'])
})

test('ACLs name those of here, and are obeyed', LONG, async (t) => {
  const { sh, shAs, raw } = await setUp(t, {
    prepare: async (drive) => {
      await files(drive)
      await drive.chmod('/mixed', 0o600)
      // u::rw- u:1000:rw- g::--- g:1000:r-- m::rw- o::---, as the device of the creator wrote it
      await drive.setXattr('/mixed', ACL_ACCESS, acl([1, 6], [2, 6, THERE], [4, 0], [8, 4, THERE], [16, 6], [32, 0]))
    },
  })
  t.is(await sh('getfacl -nc mixed'), 'user::rw-\nuser:1001:rw-\ngroup::---\ngroup:1001:r--\nmask::rw-\nother::---\n\n')
  await sh('echo by the ACL >> mixed')
  t.absent(await shAs(STRANGER, '(cat mixed) 2>/dev/null || true'), 'others stay out')
  await sh('setfacl -m u:1000:r,u:3000:rw,g:2000:r theirs; mkdir d; setfacl -m d:u:1001:rwx,d:u:1000:rx d; echo x > d/inherits; mkdir d/e')
  t.is(await sh('getfacl -nc theirs'), 'user::rw-\nuser:1000:r--\nuser:3000:rw-\ngroup::r--\ngroup:2000:r--\nmask::rw-\nother::r--\n\n')
  t.ok((await sh('getfacl -nc d/inherits')).includes('user:1001:rwx'))
  t.is(await shAs(STRANGER, 'echo more >> theirs; tail -n 1 theirs'), 'more\n')
  // What a program reads and writes back is the same to the bit.
  t.is(await sh('a=$(getfattr --only-values -e hex -n system.posix_acl_access theirs | base64 -w0); getfacl theirs | setfacl --set-file=- theirs; [ "$a" = "$(getfattr --only-values -n system.posix_acl_access theirs | base64 -w0)" ] && echo same'), 'same\n')
  const drive = await raw()
  const users = async (path: string, name = ACL_ACCESS) => parseAcl(await drive.getXattr(path, name))!.filter((e) => e.tag === 2 || e.tag === 8).map((e) => `${e.tag}:${e.id}:${e.perm}`).sort()
  t.alike(await users('/theirs'), ['2:1001:4', '2:3000:6', '8:2000:4'])
  t.alike(await users('/d', ACL_DEFAULT), ['2:1000:7', '2:1001:5'])
  t.alike(await users('/d/inherits'), ['2:1000:7', '2:1001:5'])
  t.alike(await users('/d/e', ACL_DEFAULT), ['2:1000:7', '2:1001:5'])
  t.alike(await users('/mixed'), ['2:1000:6', '8:1000:4'])
})

test('setgid directories, suid and sgid bits, and who may keep them', LONG, async (t) => {
  const { sh, shAs, raw } = await setUp(t, {
    prepare: async (drive) => {
      await files(drive)
      // Shown as group 1000's, which the mounting user is not in; and as his own.
      for (const [name, gid] of [['of-ours', HERE], ['of-theirs', THERE], ['of-group', GROUP]] as const) {
        await drive.mkdir(`/${name}`)
        await drive.chown(`/${name}`, THERE, gid)
        await drive.chmod(`/${name}`, 0o2775)
      }
    },
  })
  await sh('for d in of-ours of-theirs of-group; do echo x > $d/f; mkdir $d/d; done')
  t.is(await sh('stat -c "%n %u:%g %a" of-ours/f of-theirs/f of-group/f of-ours/d of-theirs/d'),
    'of-ours/f 1001:1000 644\nof-theirs/f 1001:1001 644\nof-group/f 1001:2000 644\nof-ours/d 1001:1000 2755\nof-theirs/d 1001:1001 2755\n')
  // sgid without group execution stays where the caller is in the group (by the number of here), and goes elsewhere.
  await sh('echo x > keeps; chmod 2644 keeps; echo more >> keeps; truncate -s 1 keeps; echo x > group; chgrp 2000 group; chmod 2644 group; echo more >> group')
  t.is(await sh('stat -c %a keeps group'), '2644\n2644\n')
  await shAs('root', 'echo x > loses; chown 1001:1000 loses; chmod 2646 loses')
  await sh('echo more >> loses')
  t.is(await sh('stat -c %a loses'), '646\n')
  await shAs('root', 'echo x > suid; chown 1001 suid; chmod 6757 suid; echo more >> suid; stat -c %a suid')
  await shAs(STRANGER, 'echo more >> suid')
  t.is(await sh('stat -c %a suid'), '757\n')
  const drive = await raw()
  t.is(await ids(drive, '/of-ours/f'), '1000:1001')
  t.is(await ids(drive, '/of-theirs/d'), '1000:1000')
})

test('O_TMPFILE, a link to it, and statx through the open file', LONG, async (t) => {
  const { sh, raw } = await setUp(t)
  await sh(`${compile('test/posix/probe.c')} tmpfile_owner . ${HERE} ${HERE} ${GROUP}`)
  t.is(await sh('stat -c "%u:%g" named'), '1001:2000\n')
  const drive = await raw()
  t.is(await ids(drive, '/named'), '1000:2000')
})

test('root made the drive: its user here is no root', LONG, async (t) => {
  const { sh, raw } = await setUp(t, {
    prepare: async (drive) => {
      drive.db.setMeta('creator_uid', 0)
      drive.db.setMeta('creator_gid', 0)
      await drive.chown('/', 0, 0)
      await make(drive, '/f')
      await drive.chown('/f', 0, 0)
      await drive.chmod('/f', 0o6777)
      await drive.setXattr('/f', Buffer.from('trusted.secret'), Buffer.from('x'))
      await drive.setXattr('/f', Buffer.from('user.known'), Buffer.from('x'))
    },
  })
  t.is(await sh('stat -c %u:%g f; getfattr -m - f | grep -v "^#" | xargs echo'), '1001:1001\nuser.known\n')
  await sh('echo more >> f')
  t.is(await sh('stat -c %a f'), '777\n', 'suid and sgid are cleared as for any user')
  const drive = await raw()
  t.is(await ids(drive, '/f'), '0:0')
})

test('-o idmap=off shows ids as they are', LONG, async (t) => {
  const { sh, shAs } = await setUp(t, { options: 'allow_other,idmap=off', prepare: files })
  t.is(await sh('stat -c "%n %u:%g" theirs ours'), 'theirs 1000:1000\nours 1001:1001\n')
  t.is(await shAs(THERE, 'echo x > made; stat -c %u:%g made'), '1000:1000\n')
})

test('mounts of root and of the creator are not touched at all', (t) => {
  const operations = new MemFs()
  t.is(withIdMap(operations, { uid: THERE, gid: THERE }, { uid: 0, gid: 0 }), operations)
  t.is(withIdMap(operations, { uid: THERE, gid: THERE }, { uid: THERE, gid: THERE }), operations)
  t.not(withIdMap(operations, { uid: THERE, gid: THERE }, { uid: THERE, gid: HERE }), operations)
})

test('what is no ACL is left to the file system to judge', (t) => {
  const odd = Buffer.from('no acl')
  t.is(mapAclIds(odd, { uid: () => 7, gid: () => 7 }), odd)
})

/** As the kernel hands it over: tag, permissions, id. */
function acl(...entries: [tag: number, perm: number, id?: number][]): Buffer {
  const out = Buffer.alloc(4 + entries.length * 8)
  out.writeUInt32LE(2, 0)
  entries.forEach(([tag, perm, id = 0xffffffff], i) => {
    out.writeUInt16LE(tag, 4 + i * 8)
    out.writeUInt16LE(perm, 6 + i * 8)
    out.writeUInt32LE(id, 8 + i * 8)
  })
  return out
}
