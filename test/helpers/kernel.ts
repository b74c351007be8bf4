/** What the kernel can do, and what it has. */
import { release } from 'node:os'
import { must } from './run.js'

/** Whether names expire where INVAL_ENTRY asks for that (protocol 7.38); else they are dropped. */
export function knowsExpiry(): boolean {
  const [major, minor] = release().split('.').map(Number)
  return major! > 6 || major === 6 && minor! >= 2
}

/** Pages of a file that are in the page cache (mincore(2)). */
export async function cachedPages(path: string): Promise<number> {
  return Number(await must('python3', ['-c', `
import ctypes, mmap, os, sys
f = open(sys.argv[1], 'rb')
size = os.fstat(f.fileno()).st_size
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
at = libc.mmap(None, ctypes.c_size_t(size), mmap.PROT_READ, mmap.MAP_SHARED, f.fileno(), ctypes.c_long(0))
pages = (ctypes.c_ubyte * ((size + 4095) // 4096))()
if libc.mincore(ctypes.c_void_p(at), ctypes.c_size_t(size), pages) != 0: raise OSError(ctypes.get_errno())
print(sum(p & 1 for p in pages))`, path]))
}
