/** A tree with one of everything that a backup must bring back: for rsync and tar. */
import { linkSync, lutimesSync, mkdirSync, symlinkSync, truncateSync, utimesSync, writeFileSync } from 'node:fs'
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { shell } from '../helpers/run.js'

export const TREE_SCRIPT_NEEDS = [['setfattr', 'attr'], ['setfacl', 'acl'], ['mkfifo', 'coreutils'], ['mknod', 'coreutils']] as const

/** As root. */
export async function plantTree(dir: string): Promise<void> {
  mkdirSync(join(dir, 'folder/deep/er'), { recursive: true })
  const file = (name: string, data: string | Buffer) => writeFileSync(join(dir, name), data)
  file('empty', '')
  file('small', 'a few bytes\n')
  file('folder/inline-limit', randomBytes(8192))
  file('folder/large', randomBytes(3_000_001))
  file('folder/deep/er/setuid', '#!/bin/sh\n')
  file('sparse', 'begin')
  truncateSync(join(dir, 'sparse'), 10_000_000)
  file(`${'n'.repeat(255)}`, 'longest name')
  file('spaces and \n newline', 'x')
  file('ünïcödé', 'x')
  writeFileSync(Buffer.concat([Buffer.from(`${dir}/`), Buffer.from([0xff, 0xfe, 0x80])]), 'no UTF-8')
  for (let i = 0; i < 300; i++) file(`folder/deep/${i}`, `${i}\n`.repeat(i))
  linkSync(join(dir, 'folder/large'), join(dir, 'folder/deep/hard link'))
  linkSync(join(dir, 'small'), join(dir, 'second name'))
  symlinkSync('folder/large', join(dir, 'symlink'))
  symlinkSync('../nowhere/at all', join(dir, 'folder/dangling'))
  symlinkSync('t'.repeat(4000), join(dir, 'long target'))
  await shell(`
    mkfifo fifo
    mknod null c 1 3
    mknod block b 7 200
    setfattr -n user.note -v 'a value' small
    setfattr -n user.binary -v 0x00ff00ff small
    setfattr -n user.note -v 'of a folder' folder
    setfattr -n trusted.note -v 'for root' folder/large
    setfattr -n security.note -v 'of a module' folder/large
    setfacl -m u:20001:rw-,g:20002:r-- small
    setfacl -d -m u:20001:rwx,g::r-x folder
    chown 20001:20002 small folder/deep
    chown -h 20001:20002 symlink
    chmod 4755 folder/deep/er/setuid
    chmod 2770 folder/deep
    chmod 1777 folder/deep/er
    chmod 0 empty
    touch -d @-86400.5 sparse
  `, { cwd: dir })
  lutimesSync(join(dir, 'symlink'), 1_111_111_111.25, 1_222_222_222.5)
  // Deepest first: what is made in a folder changes its time.
  for (const name of ['empty', 'small', 'folder/large', 'fifo', 'folder/deep/er', 'folder/deep', 'folder']) utimesSync(join(dir, name), 1_000_000_000.125, 1_234_567_890.000976)
}
