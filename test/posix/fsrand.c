/*
 * Random file system operations, the same for the same seed, with everything
 * that a program can see of their results, one line each. Run on two file
 * systems and compared line by line (fsrand.ts): a difference is a difference of
 * the file systems.
 *
 *   fsrand DIR SEED OPS [DUMP_EVERY]
 *
 * As root; works in a chroot of DIR/fsrand, so that no symlink leads out of it.
 * Each operation runs as root or one of two users (effective ids; both are in
 * one supplementary group). Where times are asked for, only this is printed:
 * whether mtime and ctime changed, and values that utimensat set.
 *
 * Not printed, because file systems may differ in them: inode and device
 * numbers, atime unless just set, blocks, size of directories, order of
 * directories, where exactly holes begin (but that holes read as zeros is
 * checked).
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 8
#define MAX_IO (128 * 1024)
/* Values below are explicit ones of utimensat (see op_utimens), above are clocks'. */
#define CLOCK_FROM 1600000000

static uint64_t rng;
static long op_number;
static int fds[SLOTS];
static int drop_fd = -1;
static int tick_wait; /* the file system's clock ticks more slowly than we work */
static int user;      /* 0 = root */
static const struct { uid_t uid; gid_t gid; } users[] = {{0, 0}, {20001, 20001}, {20002, 20002}};
#define SHARED_GID 20010

static uint32_t rnd(uint32_t below) { /* splitmix64 */
  uint64_t z = (rng += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (uint32_t)((z ^ (z >> 31)) >> 16) % below;
}
static int chance(uint32_t percent) { return rnd(100) < percent; }

static void die(const char *what) { fprintf(stderr, "fsrand: %s: %s\n", what, strerror(errno)); exit(1); }

static void become(int who) {
  if (geteuid() != 0 && seteuid(0)) die("seteuid");
  gid_t shared = SHARED_GID;
  if (setgroups(who ? 1 : 0, &shared) || setegid(users[who].gid) || seteuid(users[who].uid)) die("seteuid");
}

static uint64_t hash(uint64_t h, const void *data, size_t n) { /* FNV-1a */
  const unsigned char *p = data;
  for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
  return h;
}
#define HASH0 0xcbf29ce484222325u

/* ---- what is seen of a file before and after ---- */

struct seen { int err; struct stat st; };
#define WATCHED 6
static struct { char path[PATH_MAX]; int fd; struct seen before; } watch[WATCHED];
static int watched;
static int compare_times;

static void see(int i, struct seen *s) {
  s->err = (watch[i].fd >= 0 ? fstat(watch[i].fd, &s->st) : lstat(watch[i].path, &s->st)) ? errno : 0;
}

static void watch_path(const char *path) {
  char parent[PATH_MAX];
  if (watched + 2 > WATCHED || strlen(path) >= PATH_MAX) return;
  strcpy(parent, path);
  char *slash = strrchr(parent, '/');
  if (slash) *slash = 0; else strcpy(parent, ".");
  if (!*parent) strcpy(parent, "/");
  strcpy(watch[watched].path, path); watch[watched++].fd = -1;
  strcpy(watch[watched].path, parent); watch[watched++].fd = -1;
}
static void watch_fd(int fd) { if (fd >= 0 && watched < WATCHED) watch[watched++].fd = fd; }

static struct timespec newest;
static void note_time(const struct timespec *t) {
  if (t->tv_sec > newest.tv_sec || (t->tv_sec == newest.tv_sec && t->tv_nsec > newest.tv_nsec)) newest = *t;
}

/* Half of the time nothing is looked at first, so that uncached paths are tried too. */
static void before(void) {
  become(0);
  compare_times = chance(50);
  if (compare_times) {
    newest.tv_sec = 0;
    for (int i = 0; i < watched; i++) {
      see(i, &watch[i].before);
      if (watch[i].before.err) continue;
      note_time(&watch[i].before.st.st_mtim);
      note_time(&watch[i].before.st.st_ctim);
    }
    struct timespec now;
    while (tick_wait && (clock_gettime(CLOCK_REALTIME_COARSE, &now), now.tv_sec < newest.tv_sec || (now.tv_sec == newest.tv_sec && now.tv_nsec <= newest.tv_nsec))) usleep(500);
  }
  become(user);
}

static int same(struct timespec a, struct timespec b) { return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec; }

static void print_time(const char *name, struct timespec t) {
  if (t.tv_sec < CLOCK_FROM) printf(" %s=%lld.%09ld", name, (long long)t.tv_sec, t.tv_nsec);
}

static void print_stat(const struct stat *st) {
  printf(" %o n%lu %u:%u", st->st_mode, (unsigned long)st->st_nlink, st->st_uid, st->st_gid);
  if (!S_ISDIR(st->st_mode)) printf(" s%lld", (long long)st->st_size);
  if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode)) printf(" r%u:%u", major(st->st_rdev), minor(st->st_rdev));
  print_time("m", st->st_mtim);
}

static void after(int show_atime) {
  become(0);
  for (int i = 0; i < watched; i++) {
    struct seen s;
    see(i, &s);
    printf(" |");
    if (s.err) { printf(" E%d", s.err); continue; }
    print_stat(&s.st);
    if (show_atime && i == 0) print_time("a", s.st.st_atim);
    if (!compare_times) continue;
    /* The inode may have had another of the watched names before. */
    int was = -1;
    for (int k = 0; k < watched; k++) if (!watch[k].before.err && watch[k].before.st.st_ino == s.st.st_ino) { was = k; break; }
    if (was < 0) printf(" new");
    else printf("%s%s", same(watch[was].before.st.st_mtim, s.st.st_mtim) ? "" : " m+", same(watch[was].before.st.st_ctim, s.st.st_ctim) ? "" : " c+");
  }
  putchar('\n');
  watched = 0;
}

/* ---- arguments ---- */

static const char *const names[] = {"a", "b", "c", "d", "e", "f", "\xc3\xbc", "\xff\xfe"};

/* Mostly short paths of few names, so that they meet. */
static char *path(char *to) {
  int depth = 1 + (chance(40) ? 0 : chance(65) ? 1 : 2);
  char *p = to;
  for (int i = 0; i < depth; i++) p += sprintf(p, "%s%s", i ? "/" : "", names[rnd(chance(85) ? 4 : 8)]);
  if (chance(3)) {
    switch (rnd(8)) {
      case 0: strcpy(p, "/"); break;
      case 1: strcpy(p, "/."); break;
      case 2: strcpy(p, "/.."); break;
      case 3: strcpy(to, "."); break;
      case 4: strcpy(to, ".."); break;
      case 5: memset(to, 'x', 255); to[255] = 0; break;
      case 6: memset(to, 'x', 256); to[256] = 0; break;
      case 7: if (chance(20)) *to = 0; break;
    }
  }
  return to;
}

static void say(const char *format, ...) {
  va_list args;
  va_start(args, format);
  printf("%ld u%d ", op_number, user);
  vprintf(format, args);
  va_end(args);
}
static char *shown(const char *p) { /* as one word */
  static char out[4][PATH_MAX * 2];
  static int turn;
  char *to = out[turn = (turn + 1) % 4], *q = to;
  if (strlen(p) > 60) { sprintf(to, "<%zu bytes>", strlen(p)); return to; }
  *q++ = '\'';
  for (; *p; p++) q += (unsigned char)*p < 127 ? sprintf(q, "%c", *p) : sprintf(q, "\\x%02x", (unsigned char)*p);
  *q++ = '\''; *q = 0;
  return to;
}
static void result(long r) { if (r < 0) printf(" = E%d", errno); else printf(" = %ld", r); }

static long long position(void) {
  switch (rnd(6)) {
    case 0: return 0;
    case 1: return rnd(16) * 4096;
    case 2: return rnd(300000);
    case 3: return rnd(70000);
    case 4: return 65536 * (long long)rnd(8);
    default: return chance(4) ? 5000000000ll + rnd(10000) : rnd(9000);
  }
}
static size_t length(void) {
  switch (rnd(5)) {
    case 0: return rnd(10);
    case 1: return 4096 * (1 + rnd(8));
    case 2: return rnd(MAX_IO);
    default: return rnd(9000);
  }
}
static char io[MAX_IO], other[MAX_IO];
static void fill_io(size_t n) {
  uint64_t x = rng * 2654435761u + op_number;
  int plain = chance(20); /* compressible, and equal to others of its kind */
  for (size_t i = 0; i < n; i++) io[i] = plain ? 'p' : (char)((x = x * 6364136223846793005u + 1442695040888963407u) >> 56);
}
static mode_t mode(void) {
  static const mode_t some[] = {0644, 0755, 0600, 0666, 0777, 0, 0444, 0111, 04755, 02755, 02775, 01777, 06777, 02644, 0070, 0007};
  return chance(50) ? 0777 : chance(80) ? some[rnd(16)] : rnd(010000);
}
static uid_t some_id(void) { static const uid_t ids[] = {(uid_t)-1, 0, 20001, 20002, SHARED_GID, 12345}; return ids[rnd(6)]; }
/* A slot that is open, mostly; fd in *fd, -1 if the slot is empty. */
static int slot(int *fd) {
  int s = rnd(SLOTS);
  for (int i = 0; i < SLOTS && fds[s] < 0 && i < 6; i++) s = rnd(SLOTS);
  *fd = fds[s];
  return s;
}

/* ---- operations ---- */

static void op_open(void) {
  static const int kinds[] = {O_RDONLY, O_WRONLY, O_RDWR, O_RDWR, O_RDWR, O_WRONLY | O_APPEND, O_RDWR | O_APPEND};
  char p[PATH_MAX];
  int s = rnd(SLOTS), flags = kinds[rnd(7)] | O_NONBLOCK;
  if (chance(65)) flags |= O_CREAT;
  if (chance(15)) flags |= O_EXCL;
  if (chance(15)) flags |= O_TRUNC;
  if (chance(5)) flags |= O_NOFOLLOW;
  if (chance(4)) flags |= O_DIRECTORY;
  if (chance(5)) flags |= O_SYNC;
  if ((flags & (O_CREAT | O_DIRECTORY)) == (O_CREAT | O_DIRECTORY)) flags &= ~O_CREAT;
  if (!(flags & O_CREAT)) flags &= ~O_EXCL;
  int tmp = chance(5);
  if (tmp) flags = (flags & ~(O_CREAT | O_TRUNC | O_DIRECTORY | O_NOFOLLOW)) | O_TMPFILE;
  mode_t m = mode() & 07777;
  path(p);
  if (fds[s] >= 0) close(fds[s]);
  fds[s] = -1;
  watch_path(p);
  before();
  fds[s] = open(p, flags, m);
  int err = errno;
  struct stat st;
  become(0);
  /* Devices and pipes do not belong to the file system. */
  if (fds[s] >= 0 && !fstat(fds[s], &st) && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)) { close(fds[s]); fds[s] = -1; err = 0; }
  errno = err;
  say("open%s %s %o %o -> [%d]", tmp ? "-tmpfile" : "", shown(p), flags, m, s);
  /* A mount may refuse to open devices (nodev). */
  if (fds[s] < 0 && !stat(p, &st) && (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode))) printf(" = device");
  else { errno = err; result(fds[s] < 0 ? -1 : 0); }
  watch_fd(fds[s]);
  if (fds[s] >= 0 && compare_times) see(watched - 1, &watch[watched - 1].before);
  after(0);
}
static void op_close(void) {
  int fd, s = slot(&fd);
  if (fd < 0) { say("close [%d] empty\n", s); return; }
  watch_fd(-1);
  before();
  say("close [%d]", s);
  result(close(fd));
  fds[s] = -1;
  after(0);
}
static void op_read(void) {
  int fd, s = slot(&fd);
  long long at = position();
  size_t n = length();
  if (chance(50)) {
    before();
    ssize_t r = pread(fd, io, n, at);
    say("pread [%d] %lld+%zu", s, at, n);
    result(r);
    if (r > 0) printf(" #%016llx", (unsigned long long)hash(HASH0, io, r));
  } else {
    before();
    ssize_t r = read(fd, io, n);
    say("read [%d] %zu", s, n);
    result(r);
    if (r > 0) printf(" #%016llx", (unsigned long long)hash(HASH0, io, r));
    printf(" @%lld", (long long)lseek(fd, 0, SEEK_CUR));
  }
  watch_fd(fd);
  compare_times = 0;
  after(0);
}
static void op_write(void) {
  int fd, s = slot(&fd), positional = chance(70);
  long long at = position();
  size_t n = length();
  fill_io(n);
  watch_fd(fd);
  before();
  ssize_t r = positional ? pwrite(fd, io, n, at) : write(fd, io, n);
  say("%s [%d] %lld+%zu", positional ? "pwrite" : "write", s, positional ? at : -1, n);
  result(r);
  after(0);
}
static void op_truncate(void) {
  char p[PATH_MAX];
  int fd = -1, s = 0, by_fd = chance(50);
  long long size = position();
  if (by_fd) { s = slot(&fd); watch_fd(fd); } else watch_path(path(p));
  before();
  int r = by_fd ? ftruncate(fd, size) : truncate(p, size);
  if (by_fd) say("ftruncate [%d] %lld", s, size); else say("truncate %s %lld", shown(p), size);
  result(r);
  after(0);
}
static void op_fallocate(void) {
  static const int modes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
  int fd, s = slot(&fd), m = modes[rnd(7)];
  long long at = position() % 1000000;
  size_t n = length();
  watch_fd(fd);
  before();
  int r = fallocate(fd, m, at, n);
  say("fallocate [%d] mode %d %lld+%zu", s, m, at, n);
  result(r);
  after(0);
}
static int all_zero(int fd, long long from, long long to) {
  if (to > from + 4 * MAX_IO) to = from + 4 * MAX_IO;
  while (from < to) {
    ssize_t n = pread(fd, other, to - from < MAX_IO ? to - from : MAX_IO, from);
    if (n <= 0) return 1;
    for (ssize_t i = 0; i < n; i++) if (other[i]) return 0;
    from += n;
  }
  return 1;
}
static void op_seek(void) {
  int fd, s = slot(&fd), whence = chance(50) ? SEEK_DATA : SEEK_HOLE;
  long long at = position();
  struct stat st;
  before();
  if (chance(20)) {
    int plain = rnd(3);
    long long to = chance(10) ? -5 : position();
    off_t r = lseek(fd, to, plain);
    say("lseek [%d] %lld whence %d", s, to, plain);
    struct stat what;
    /* The end of a directory is a private matter. */
    if (fd >= 0 && !fstat(fd, &what) && S_ISDIR(what.st_mode)) { lseek(fd, 0, SEEK_SET); printf(" directory"); } else result(r);
    watched = 0;
    putchar('\n');
    return;
  }
  off_t keep = lseek(fd, 0, SEEK_CUR), r = lseek(fd, at, whence);
  int err = errno;
  say("lseek [%d] %lld %s", s, at, whence == SEEK_DATA ? "data" : "hole");
  become(0);
  if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode)) { printf(" not a file"); }
  else if (at >= st.st_size) { errno = err; result(r < 0 ? -1 : 0); }
  else if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY) printf(" unreadable");
  else if (whence == SEEK_DATA) printf(r >= at && r < st.st_size && all_zero(fd, at, r) ? " ok" : r < 0 && err == ENXIO && all_zero(fd, at, st.st_size) ? " ok" : " BAD %lld E%d", (long long)r, err);
  else printf(r >= at && r <= st.st_size ? " ok" : " BAD %lld E%d", (long long)r, err);
  if (keep >= 0) lseek(fd, keep, SEEK_SET);
  watched = 0;
  putchar('\n');
}
static void op_copy(void) {
  int in, out, a = slot(&in), b = slot(&out);
  off_t from = position() % 400000, to = position() % 400000;
  size_t n = length();
  long long f = from, t = to;
  watch_fd(out);
  before();
  ssize_t r = copy_file_range(in, &from, out, &to, n, 0);
  say("copy_file_range [%d] %lld -> [%d] %lld +%zu", a, f, b, t, n);
  result(r);
  printf(" %lld %lld", (long long)from - f, (long long)to - t);
  after(0);
}
static void op_mmap(void) {
  int fd, s = slot(&fd), writes = chance(60);
  long long at = rnd(16) * 4096;
  size_t n = 1 + rnd(3 * 4096), skip = rnd(n);
  struct stat st;
  become(0);
  if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode) || at + (long long)n > st.st_size) { say("mmap [%d] does not fit\n", s); return; }
  fill_io(n);
  watch_fd(fd);
  before();
  char *p = mmap(0, n, writes ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, at);
  say("mmap%s [%d] %lld+%zu", writes ? "-write" : "", s, at, n);
  if (p == MAP_FAILED) result(-1);
  else {
    if (writes) memcpy(p + skip, io, n - skip);
    printf(" #%016llx", (unsigned long long)hash(HASH0, p, n));
    result(msync(p, n, MS_SYNC));
    munmap(p, n);
  }
  after(0);
}
static void op_sync(void) {
  int fd, s = slot(&fd), kind = rnd(3);
  before();
  int r = kind == 0 ? fsync(fd) : kind == 1 ? fdatasync(fd) : syncfs(fd);
  say("%s [%d]", kind == 0 ? "fsync" : kind == 1 ? "fdatasync" : "syncfs", s);
  result(r);
  watch_fd(fd);
  compare_times = 0;
  after(0);
}
static void op_name1(void) {
  char p[PATH_MAX];
  int kind = rnd(20);
  mode_t m = mode() & 07777;
  watch_path(path(p));
  before();
  if (kind < 9) { int r = mkdir(p, m); say("mkdir %s %o", shown(p), m); result(r); }
  else if (kind < 11) { int r = rmdir(p); say("rmdir %s", shown(p)); result(r); }
  else if (kind < 14) { int r = unlink(p); say("unlink %s", shown(p)); result(r); }
  else if (kind < 18) {
    static const mode_t types[] = {S_IFIFO, S_IFIFO, S_IFSOCK, S_IFREG, S_IFCHR, S_IFBLK};
    mode_t type = types[rnd(6)];
    int r = mknod(p, type | m, makedev(rnd(4) * 100, rnd(3) * 200));
    say("mknod %s %o", shown(p), type | m);
    result(r);
  } else {
    char target[64];
    ssize_t n = readlink(p, target, sizeof target - 1);
    say("readlink %s", shown(p));
    result(n);
    if (n > 0) { target[n] = 0; printf(" %s", shown(target)); }
  }
  after(0);
}
static void op_name2(void) {
  char p[PATH_MAX], q[PATH_MAX];
  int kind = rnd(20);
  path(p);
  path(q);
  if (kind < 4) {
    static char target[PATH_MAX + 8];
    if (chance(3)) { size_t n = chance(50) ? 4095 : 4096; memset(target, 't', n); target[n] = 0; }
    else sprintf(target, "%s%s", chance(15) ? "/" : chance(30) ? "../" : "", p);
    watch_path(q);
    before();
    int r = symlink(target, q);
    say("symlink %s %s", shown(target), shown(q));
    result(r);
  } else {
    watch_path(p);
    watch_path(q);
    if (kind < 8) {
      int flags = chance(20) ? AT_SYMLINK_FOLLOW : 0;
      before();
      int r = linkat(AT_FDCWD, p, AT_FDCWD, q, flags);
      say("link %s %s %d", shown(p), shown(q), flags);
      result(r);
    } else {
      unsigned flags = kind < 15 ? 0 : kind < 17 ? RENAME_NOREPLACE : kind < 19 ? RENAME_EXCHANGE : (chance(50) ? RENAME_NOREPLACE | RENAME_EXCHANGE : 64);
      before();
      int r = flags ? renameat2(AT_FDCWD, p, AT_FDCWD, q, flags) : rename(p, q);
      say("rename %s %s %u", shown(p), shown(q), flags);
      result(r);
    }
  }
  after(0);
}
/* An open file without a name gets one. */
static void op_link_fd(void) {
  char q[PATH_MAX];
  int fd, s = slot(&fd);
  watch_path(path(q));
  watch_fd(fd);
  before();
  int r = linkat(fd, "", AT_FDCWD, q, AT_EMPTY_PATH);
  say("linkat [%d] %s", s, shown(q));
  result(r);
  after(0);
}
static void op_attributes(void) {
  char p[PATH_MAX];
  int fd = -1, s = 0, kind = rnd(6), by_fd = kind & 1;
  mode_t m = mode() & 07777;
  uid_t u = some_id();
  gid_t g = some_id();
  /* chown(-1, -1) on a suid file by a stranger is EPERM elsewhere; FUSE tells too little of it (docs/posix.md). */
  if (user && u == (uid_t)-1 && g == (gid_t)-1) g = 20010;
  if (by_fd) { s = slot(&fd); watch_fd(fd); sprintf(p, "[%d]", s); } else watch_path(path(p));
  before();
  if (kind < 3) {
    int r = by_fd ? fchmod(fd, m) : chmod(p, m);
    say("chmod %s %o", shown(p), m);
    result(r);
  } else {
    int follow = chance(60), r = by_fd ? fchown(fd, u, g) : follow ? chown(p, u, g) : lchown(p, u, g);
    say("%s %s %d:%d", follow ? "chown" : "lchown", shown(p), (int)u, (int)g);
    result(r);
  }
  after(0);
}
static struct timespec some_time(void) {
  static const long long seconds[] = {0, 1, 1000000000, 1234567890, -1, -100000, 1500000000, 86400};
  switch (rnd(8)) {
    case 0: return (struct timespec){0, UTIME_NOW};
    case 1: return (struct timespec){0, UTIME_OMIT};
    case 2: return (struct timespec){0, 1000000000}; /* EINVAL */
    default: return (struct timespec){seconds[rnd(8)], chance(50) ? rnd(1000000000) : 0};
  }
}
static void op_utimens(void) {
  char p[PATH_MAX];
  int fd = -1, by_fd = chance(30), flags = chance(30) ? AT_SYMLINK_NOFOLLOW : 0, null = chance(10);
  struct timespec t[2] = {some_time(), some_time()};
  if (by_fd) { sprintf(p, "[%d]", slot(&fd)); watch_fd(fd); } else watch_path(path(p));
  before();
  int r = by_fd ? futimens(fd, null ? 0 : t) : utimensat(AT_FDCWD, p, null ? 0 : t, flags);
  int err = errno;
  say("utimens %s", shown(p));
  if (null) printf(" null"); else printf(" %lld.%ld %lld.%ld %d", (long long)t[0].tv_sec, t[0].tv_nsec, (long long)t[1].tv_sec, t[1].tv_nsec, flags);
  errno = err;
  result(r);
  after(r == 0 && !null && t[0].tv_nsec < 1000000000 && (by_fd || flags));
}
static void op_access(void) {
  char p[PATH_MAX];
  int m = rnd(8);
  path(p);
  before();
  int r = faccessat(AT_FDCWD, p, m, AT_EACCESS);
  say("access %s %d", shown(p), m);
  result(r);
  after(0);
}

/* linux/posix_acl_xattr.h: a version, then tag, perm, id in ascending order. */
struct acl_entry { uint16_t tag, perm; uint32_t id; };
static size_t some_acl(char *to) {
  uint32_t version = 2;
  memcpy(to, &version, 4);
  struct acl_entry *e = (struct acl_entry *)(to + 4);
  int n = 0, named = 0;
  e[n++] = (struct acl_entry){1, rnd(8), -1};
  for (int u = 1; u <= 2; u++) if (chance(40)) { e[n++] = (struct acl_entry){2, rnd(8), users[u].uid}; named = 1; }
  e[n++] = (struct acl_entry){4, rnd(8), -1};
  if (chance(40)) { e[n++] = (struct acl_entry){8, rnd(8), SHARED_GID}; named = 1; }
  if (named || chance(20)) e[n++] = (struct acl_entry){16, rnd(8), -1};
  e[n++] = (struct acl_entry){32, rnd(8), -1};
  if (chance(5)) e[0].tag = 32; /* EINVAL */
  return 4 + n * sizeof *e;
}
static const char *xattr_name(void) {
  static const char *const all[] = {"user.a", "user.b", "user.long-name-of-an-attribute", "user.", "trusted.t", "security.s", "system.posix_acl_access", "system.posix_acl_default", "system.posix_acl_default", "nonsense", "user.\xff"};
  return all[rnd(11)];
}
static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }
static void print_xattr_names(const char *list, ssize_t n) {
  const char *names_[64];
  int k = 0;
  for (ssize_t i = 0; i < n && k < 64; i += strlen(list + i) + 1) names_[k++] = list + i;
  qsort(names_, k, sizeof *names_, by_text);
  for (int i = 0; i < k; i++) printf(" %s", shown(names_[i]));
}
static void op_xattr(void) {
  static char value[70000];
  char p[PATH_MAX];
  const char *name = xattr_name();
  int kind = rnd(10), link = chance(20), flags = chance(20) ? XATTR_CREATE : chance(20) ? XATTR_REPLACE : 0;
  size_t n = chance(2) ? 65537 : rnd(200);
  for (size_t i = 0; i < n; i++) value[i] = (char)(rng >> (i % 8)) ^ i;
  if (strncmp(name, "system.", 7) == 0 && chance(90)) n = some_acl(value);
  watch_path(path(p));
  before();
  if (kind < 5) {
    int r = link ? lsetxattr(p, name, value, n, flags) : setxattr(p, name, value, n, flags);
    say("setxattr %s %s %zu %d", shown(p), shown(name), n, flags);
    result(r);
  } else if (kind < 7) {
    size_t room = chance(10) ? 0 : chance(10) ? 3 : sizeof value;
    ssize_t r = link ? lgetxattr(p, name, value, room) : getxattr(p, name, value, room);
    say("getxattr %s %s %zu", shown(p), shown(name), room);
    result(r);
    if (r > 0 && room) printf(" #%llx", (unsigned long long)hash(HASH0, value, r));
  } else if (kind < 8) {
    ssize_t r = link ? llistxattr(p, value, sizeof value) : listxattr(p, value, sizeof value);
    say("listxattr %s", shown(p));
    result(r);
    if (r > 0) print_xattr_names(value, r);
  } else {
    int r = link ? lremovexattr(p, name) : removexattr(p, name);
    say("removexattr %s %s", shown(p), shown(name));
    result(r);
  }
  after(0);
}

static int list(const char *p, char lines[][300], int room) {
  DIR *d = opendir(p);
  if (!d) return -1;
  int n = 0;
  for (struct dirent *e; n < room && (e = readdir(d));) {
    int type = e->d_type;
    snprintf(lines[n++], 300, "%s:%d", e->d_name, type);
  }
  closedir(d);
  qsort(lines, n, 300, (int (*)(const void *, const void *))strcmp);
  return n;
}
static void op_readdir(void) {
  static char lines[400][300];
  char p[PATH_MAX];
  path(p);
  if (chance(20)) strcpy(p, ".");
  before();
  int n = list(p, lines, 400);
  say("readdir %s", shown(p));
  result(n);
  for (int i = 0; i < n; i++) printf(" %s", shown(lines[i]));
  after(0);
}
static void op_remove_tree(const char *p) {
  static char lines[8][400][300];
  static int depth;
  struct stat st;
  if (lstat(p, &st)) return;
  if (!S_ISDIR(st.st_mode)) { if (unlink(p)) printf(" E%d", errno); return; }
  if (depth >= 8) return;
  int n = list(p, lines[depth], 400);
  for (int i = 0; i < n; i++) {
    char child[PATH_MAX], *name = lines[depth][i];
    *strrchr(name, ':') = 0;
    if (!strcmp(name, ".") || !strcmp(name, "..")) continue;
    snprintf(child, sizeof child, "%s/%s", p, name);
    depth++;
    op_remove_tree(child);
    depth--;
  }
  if (rmdir(p)) printf(" E%d", errno);
}
/* Keeps the tree from filling up with what the users may not touch. */
static void op_clean(void) {
  char p[PATH_MAX];
  user = 0;
  become(0);
  strcpy(p, names[rnd(6)]);
  say("remove-tree %s", shown(p));
  op_remove_tree(p);
  if (chance(60)) { umask(0); result(mkdir(p, 0777)); }
  putchar('\n');
}
static void op_drop_caches(void) {
  become(0);
  sync();
  if (drop_fd >= 0 && write(drop_fd, "3", 1) != 1) die("drop_caches");
  say("drop-caches\n");
}

/* ---- everything there is ---- */

static void dump(const char *p, int depth) {
  static char lines[12][400][300];
  static char value[70000];
  struct stat st;
  if (lstat(p, &st)) { printf("  %s E%d\n", shown(p), errno); return; }
  printf("  %s", shown(p));
  print_stat(&st);
  if (S_ISREG(st.st_mode)) {
    int fd = open(p, O_RDONLY | O_NOATIME);
    uint64_t h = HASH0;
    long long at = 0;
    for (ssize_t n; fd >= 0 && at < 4000000 && (n = pread(fd, io, MAX_IO, at)) > 0; at += n) h = hash(h, io, n);
    if (fd >= 0 && st.st_size > 4000000) { ssize_t n = pread(fd, io, MAX_IO, st.st_size - MAX_IO); if (n > 0) h = hash(h, io, n); }
    printf(" #%016llx", (unsigned long long)h);
    if (fd >= 0) close(fd);
  } else if (S_ISLNK(st.st_mode)) {
    ssize_t n = readlink(p, value, sizeof value);
    if (n >= 0) { value[n] = 0; printf(" -> %s", shown(value)); }
  }
  ssize_t n = llistxattr(p, value, sizeof value);
  if (n > 0) {
    const char *names_[64];
    int k = 0;
    for (ssize_t i = 0; i < n && k < 64; i += strlen(value + i) + 1) names_[k++] = value + i;
    qsort(names_, k, sizeof *names_, by_text);
    for (int i = 0; i < k; i++) {
      ssize_t r = lgetxattr(p, names_[i], other, sizeof other);
      printf(" %s=%zd#%llx", shown(names_[i]), r, (unsigned long long)(r > 0 ? hash(HASH0, other, r) : 0));
    }
  }
  putchar('\n');
  if (!S_ISDIR(st.st_mode) || depth >= 12) return;
  int count = list(p, lines[depth], 400);
  for (int i = 0; i < count; i++) {
    char child[PATH_MAX], *name = lines[depth][i];
    *strrchr(name, ':') = 0;
    if (!strcmp(name, ".") || !strcmp(name, "..")) continue;
    snprintf(child, sizeof child, "%s/%s", p, name);
    dump(child, depth + 1);
  }
}

static const struct { int weight; void (*run)(void); } ops[] = {
  {20, op_open}, {2, op_close}, {8, op_read}, {14, op_write}, {5, op_truncate}, {4, op_fallocate}, {4, op_seek}, {4, op_copy}, {4, op_mmap}, {2, op_sync},
  {14, op_name1}, {16, op_name2}, {2, op_link_fd}, {8, op_attributes}, {5, op_utimens}, {3, op_access}, {8, op_xattr}, {4, op_readdir},
};

/* Whether two changes in a row give two times; if not, we wait for the clock (about 4 ms). */
static void measure_clock(void) {
  int equal = 0;
  for (int i = 0; i < 20; i++) {
    struct stat a, b;
    int fd = open("clock", O_RDWR | O_CREAT, 0600);
    if (fd < 0 || write(fd, "x", 1) != 1 || fstat(fd, &a) || write(fd, "x", 1) != 1 || fstat(fd, &b)) die("clock");
    equal += same(a.st_mtim, b.st_mtim);
    close(fd);
  }
  unlink("clock");
  tick_wait = equal > 0;
  if (tick_wait) fprintf(stderr, "fsrand: %d of 20 changes in a row had equal times: waiting for the clock\n", equal);
}

int main(int argc, char **argv) {
  if (argc < 4) { fprintf(stderr, "usage: fsrand DIR SEED OPS [DUMP_EVERY]\n"); return 2; }
  uint64_t seed = strtoull(argv[2], 0, 10);
  long count = atol(argv[3]), dump_every = argc > 4 ? atol(argv[4]) : 1000;
  rng = seed * 0x2545f4914f6cdd1du + 99;
  drop_fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
  if (chdir(argv[1]) || (mkdir("fsrand", 0777) && errno != EEXIST) || chmod("fsrand", 0777) || chroot("fsrand") || chdir("/")) die(argv[1]);
  measure_clock();
  for (int i = 0; i < SLOTS; i++) fds[i] = -1;
  int total = 0;
  for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) total += ops[i].weight;
  for (op_number = 1; op_number <= count; op_number++) {
    user = chance(60) ? 0 : 1 + rnd(2);
    static const mode_t masks[] = {022, 0, 077, 027};
    umask(masks[rnd(4)]);
    watched = 0;
    int r = rnd(total), i = 0;
    while ((r -= ops[i].weight) >= 0) i++;
    if (rnd(250) == 0) op_clean();
    else if (rnd(3000) == 0) op_drop_caches();
    else ops[i].run();
    if (op_number % dump_every == 0 || op_number == count) {
      become(0);
      printf("%ld tree\n", op_number);
      dump(".", 0);
      fflush(stdout);
    }
  }
  return 0;
}
