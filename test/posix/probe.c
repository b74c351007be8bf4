/*
 * What node:fs cannot ask for. `probe SCENARIO ARGUMENTS...` ends with 0 when all
 * is as POSIX and Linux have it, else says the line, the condition and errno.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#define OK(condition)                                                                       \
  do {                                                                                      \
    errno = 0;                                                                              \
    if (!(condition)) {                                                                     \
      printf("line %d: %s (%s)\n", __LINE__, #condition, errno ? strerror(errno) : "no errno"); \
      exit(1);                                                                              \
    }                                                                                       \
  } while (0)
#define FAILS(call, error) OK((call) == -1 && errno == (error))

static char path_buffers[8][4200];
static char *in(const char *dir, const char *name) {
  static int next;
  char *path = path_buffers[next++ % 8];
  snprintf(path, sizeof path_buffers[0], "%s/%s", dir, name);
  return path;
}

static int file(const char *path, const char *text) {
  int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
  if (fd >= 0 && write(fd, text, strlen(text)) != (ssize_t)strlen(text)) return -1;
  return fd;
}

static int holds(const char *path, const char *text) {
  char buffer[256];
  int fd = open(path, O_RDONLY);
  ssize_t n = read(fd, buffer, sizeof buffer);
  close(fd);
  return n == (ssize_t)strlen(text) && memcmp(buffer, text, n) == 0;
}

static int renameat2_(const char *from, const char *to, unsigned flags) { return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, flags); }

static void noreplace(char **a) {
  char *x = in(a[0], "x"), *y = in(a[0], "y"), *z = in(a[0], "z");
  OK(file(x, "x") >= 0 && file(y, "y") >= 0);
  FAILS(renameat2_(x, y, 1), EEXIST);
  OK(holds(y, "y"));
  OK(renameat2_(x, z, 1) == 0 && holds(z, "x"));
}

static void exchange(char **a) {
  char *x = in(a[0], "x"), *d = in(a[0], "d"), *none = in(a[0], "none");
  OK(file(x, "x") >= 0 && mkdir(d, 0755) == 0 && file(in(d, "in"), "in") >= 0);
  FAILS(renameat2_(x, none, 2), ENOENT);
  OK(renameat2_(x, d, 2) == 0);
  OK(holds(d, "x") && holds(in(x, "in"), "in"));
}

static void tmpfile_(char **a) {
  int fd = open(a[0], O_TMPFILE | O_RDWR, 0640);
  OK(fd >= 0);
  struct stat st;
  OK(write(fd, "text", 4) == 4 && fstat(fd, &st) == 0 && st.st_nlink == 0 && st.st_size == 4);
  char proc[64];
  snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
  OK(linkat(AT_FDCWD, proc, AT_FDCWD, in(a[0], "linked"), AT_SYMLINK_FOLLOW) == 0);
  OK(holds(in(a[0], "linked"), "text"));
  OK(fstat(fd, &st) == 0 && st.st_nlink == 1);
}

/* directory, uid, gid, another group of the caller's */
static void tmpfile_owner(char **a) {
  int fd = open(a[0], O_TMPFILE | O_RDWR, 0600);
  uid_t uid = atoi(a[1]);
  gid_t gid = atoi(a[2]), other = atoi(a[3]);
  OK(fd >= 0);
  struct stat st;
  OK(fstat(fd, &st) == 0 && st.st_uid == uid && st.st_gid == gid);
  struct statx stx;
  OK(statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &stx) == 0 && stx.stx_uid == uid && stx.stx_gid == gid);
  OK(write(fd, "text", 4) == 4 && fchown(fd, -1, other) == 0);
  char proc[64];
  snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
  OK(linkat(AT_FDCWD, proc, AT_FDCWD, in(a[0], "named"), AT_SYMLINK_FOLLOW) == 0);
  OK(fstat(fd, &st) == 0 && st.st_uid == uid && st.st_gid == other);
}

static void fallocate_(char **a) {
  char *x = in(a[0], "x");
  int fd = file(x, "0123456789");
  struct stat st;
  char buffer[8192];
  OK(fallocate(fd, 0, 0, 8192) == 0 && fstat(fd, &st) == 0 && st.st_size == 8192);
  OK(fallocate(fd, FALLOC_FL_KEEP_SIZE, 8192, 8192) == 0 && fstat(fd, &st) == 0 && st.st_size == 8192);
  OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2, 3) == 0);
  OK(pread(fd, buffer, 10, 0) == 10 && memcmp(buffer, "01\0\0\0" "56789", 10) == 0);
  OK(fallocate(fd, FALLOC_FL_ZERO_RANGE, 8, 9000) == 0 && fstat(fd, &st) == 0 && st.st_size == 9008);
  OK(pread(fd, buffer, 10, 0) == 10 && memcmp(buffer, "01\0\0\0" "567\0\0", 10) == 0);
  FAILS(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 1), EOPNOTSUPP);
}

static void posix_fallocate_(char **a) {
  int fd = file(in(a[0], "x"), "abc");
  struct stat st;
  char buffer[4];
  OK(posix_fallocate(fd, 0, 100000) == 0 && fstat(fd, &st) == 0 && st.st_size == 100000);
  OK(pread(fd, buffer, 4, 0) == 4 && memcmp(buffer, "abc\0", 4) == 0);
}

static void seek_(char **a) {
  int fd = file(in(a[0], "x"), "head");
  char block[4096];
  memset(block, 7, sizeof block);
  OK(pwrite(fd, block, sizeof block, 1 << 20) == sizeof block && ftruncate(fd, 2 << 20) == 0);
  off_t data = lseek(fd, 4096, SEEK_DATA), hole = lseek(fd, 0, SEEK_HOLE);
  OK(data > 4096 && data <= 1 << 20);
  OK(hole >= 4 && hole < 1 << 20);
  hole = lseek(fd, 1 << 20, SEEK_HOLE);
  OK(hole >= (1 << 20) + 4096 && hole < 2 << 20);
  FAILS(lseek(fd, hole, SEEK_DATA), ENXIO);
  FAILS(lseek(fd, 2 << 20, SEEK_DATA), ENXIO);
}

static void copy_range(char **a) {
  size_t size = 3 << 20;
  char *bytes = malloc(size), *back = malloc(size);
  for (size_t i = 0; i < size; i++) bytes[i] = (char)(i * 2654435761u >> 13);
  int from = file(in(a[0], "from"), ""), to = file(in(a[0], "to"), "0123456789");
  OK(write(from, bytes, size) == (ssize_t)size);
  off_t at_in = 1000, at_out = 5;
  while (at_in < (off_t)size) {
    ssize_t n = copy_file_range(from, &at_in, to, &at_out, size - at_in, 0);
    OK(n > 0);
  }
  OK(copy_file_range(from, &at_in, to, &at_out, 10, 0) == 0);
  OK(pread(to, back, size, 0) == (ssize_t)(size - 1000 + 5));
  OK(memcmp(back, "01234", 5) == 0 && memcmp(back + 5, bytes + 1000, size - 1000) == 0);
}

static void mmap_(char **a) {
  char *x = in(a[0], "x");
  int fd = file(x, ""), size = 1 << 20;
  OK(ftruncate(fd, size) == 0);
  char *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  OK(map != MAP_FAILED);
  for (int i = 0; i < size; i += 1000) map[i] = (char)(i / 1000);
  char byte;
  OK(pread(fd, &byte, 1, 5000) == 1 && byte == 5); /* one page cache */
  OK(pwrite(fd, "!", 1, 1) == 1 && map[1] == '!');
  OK(msync(map, size, MS_SYNC) == 0 && munmap(map, size) == 0);
  close(fd);
  fd = open(x, O_RDONLY);
  map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  OK(map != MAP_FAILED && map[1] == '!');
  for (int i = 2000; i < size; i += 1000) OK(map[i] == (char)(i / 1000));
  map[0] = 'p';
  OK(pread(fd, &byte, 1, 0) == 1 && byte == 0);
}

static int in_child(int (*act)(const char *), const char *path) {
  int status;
  pid_t pid = fork();
  if (pid == 0) _exit(act(path));
  waitpid(pid, &status, 0);
  return WEXITSTATUS(status);
}

static int try_flock(const char *path) {
  int fd = open(path, O_RDWR);
  return flock(fd, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
}

static int try_fcntl(const char *path) {
  int fd = open(path, O_RDWR);
  struct flock lock = {.l_type = F_WRLCK, .l_start = 10, .l_len = 5};
  return fcntl(fd, F_SETLK, &lock) == 0 ? 0 : errno;
}

static void locks(char **a) {
  char *x = in(a[0], "x");
  int fd = file(x, "0123456789abcdef");
  OK(flock(fd, LOCK_EX) == 0 && in_child(try_flock, x) == EWOULDBLOCK);
  OK(flock(fd, LOCK_UN) == 0 && in_child(try_flock, x) == 0);
  struct flock lock = {.l_type = F_WRLCK, .l_start = 12, .l_len = 1};
  OK(fcntl(fd, F_SETLK, &lock) == 0);
  int refused = in_child(try_fcntl, x);
  OK(refused == EAGAIN || refused == EACCES);
  lock.l_start = 9;
  OK(fcntl(fd, F_SETLK, &lock) == 0);
  lock.l_start = 12, lock.l_type = F_UNLCK;
  OK(fcntl(fd, F_SETLK, &lock) == 0 && in_child(try_fcntl, x) == 0);
}

static void xattrs(char **a) {
  char *x = in(a[0], "x"), value[3000], back[6000];
  for (int i = 0; i < 3000; i++) value[i] = (char)i;
  OK(file(x, "x") >= 0);
  OK(setxattr(x, "user.one", "1", 1, XATTR_CREATE) == 0);
  FAILS(setxattr(x, "user.one", "2", 1, XATTR_CREATE), EEXIST);
  FAILS(setxattr(x, "user.two", "2", 1, XATTR_REPLACE), ENODATA);
  OK(setxattr(x, "user.two", value, sizeof value, 0) == 0);
  OK(getxattr(x, "user.two", NULL, 0) == 3000);
  OK(getxattr(x, "user.two", back, sizeof back) == 3000 && memcmp(back, value, 3000) == 0);
  FAILS(getxattr(x, "user.two", back, 100), ERANGE);
  FAILS(getxattr(x, "user.three", back, 100), ENODATA);
  FAILS(removexattr(x, "user.three"), ENODATA);
  FAILS(setxattr(x, "nonsense.x", "1", 1, 0), EOPNOTSUPP);
  OK(setxattr(x, "user.empty", "", 0, 0) == 0 && getxattr(x, "user.empty", back, 100) == 0);
  ssize_t n = listxattr(x, NULL, 0);
  OK(n == 9 + 9 + 11 && listxattr(x, back, n) == n);
  OK(memmem(back, n, "user.one", 9) && memmem(back, n, "user.two", 9) && memmem(back, n, "user.empty", 11));
  FAILS(listxattr(x, back, 5), ERANGE);
  OK(removexattr(x, "user.one") == 0);
  FAILS(getxattr(x, "user.one", back, 100), ENODATA);
  OK(setxattr(a[0], "user.dir", "d", 1, 0) == 0 && getxattr(a[0], "user.dir", back, 100) == 1);
  OK(symlink("nowhere", in(a[0], "link")) == 0);
  if (geteuid() == 0) OK(lsetxattr(in(a[0], "link"), "trusted.l", "t", 1, 0) == 0 && lgetxattr(in(a[0], "link"), "trusted.l", back, 9) == 1);
}

static void acl(char **a) {
  /* user::rw-, user:65534:rw-, group::r--, mask::rw-, other::---: linux/posix_acl_xattr.h */
  static const unsigned char access[] = {2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 6, 0, 0xfe, 0xff, 0, 0, 4, 0, 4, 0,
    255, 255, 255, 255, 16, 0, 6, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255};
  char *x = in(a[0], "x"), back[100];
  struct stat st;
  OK(file(x, "x") >= 0 && chmod(x, 0600) == 0);
  OK(setxattr(x, "system.posix_acl_access", access, sizeof access, 0) == 0);
  OK(stat(x, &st) == 0 && (st.st_mode & 0777) == 0660);
  OK(getxattr(x, "system.posix_acl_access", back, sizeof back) == sizeof access);
  OK(setgid(65534) == 0 && setuid(65534) == 0);
  OK(open(x, O_RDWR) >= 0);
}

static void readdir_(char **a) {
  int count = atoi(a[1]);
  char name[32], *seen = calloc(count, 1);
  DIR *dir = opendir(a[0]);
  OK(dir);
  int found = 0;
  for (struct dirent *e; found < count / 2 && (e = readdir(dir));) {
    int n;
    if (sscanf(e->d_name, "stays%d", &n) != 1) continue;
    OK(seen[n]++ == 0);
    found++;
  }
  for (int i = 0; i < 200; i++) {
    snprintf(name, sizeof name, "goes%d", i);
    OK(unlink(in(a[0], name)) == 0);
    snprintf(name, sizeof name, "comes%d", i);
    OK(mknod(in(a[0], name), S_IFREG | 0644, 0) == 0);
    snprintf(name, sizeof name, "moved%d", i);
    char *from = in(a[0], name);
    OK(rename(from, in(a[0], strcat(name, "-to"))) == 0);
  }
  for (struct dirent *e; (e = readdir(dir));) {
    int n;
    struct stat st;
    if (sscanf(e->d_name, "stays%d", &n) != 1) continue;
    OK(seen[n]++ == 0);
    found++;
    if (n % 100 == 0) OK(stat(in(a[0], e->d_name), &st) == 0 && st.st_ino == e->d_ino && e->d_type == DT_REG);
  }
  OK(found == count);
  rewinddir(dir);
  found = 0;
  for (struct dirent *e; (e = readdir(dir));) found += strncmp(e->d_name, "comes", 5) == 0;
  OK(found == 200);
}

static void unlinked(char **a) {
  char *d = in(a[0], "d"), buffer[8];
  struct stat st;
  OK(mkdir(d, 0755) == 0);
  int fd = file(in(d, "x"), "text");
  OK(unlink(in(d, "x")) == 0);
  FAILS(stat(in(d, "x"), &st), ENOENT);
  OK(fstat(fd, &st) == 0 && st.st_nlink == 0 && st.st_size == 4);
  OK(pwrite(fd, "more", 4, 4) == 4 && pread(fd, buffer, 8, 0) == 8 && memcmp(buffer, "textmore", 8) == 0);
  OK(fchmod(fd, 0600) == 0 && fstat(fd, &st) == 0 && (st.st_mode & 0777) == 0600);
  OK(ftruncate(fd, 2) == 0 && fstat(fd, &st) == 0 && st.st_size == 2);
  OK(fsync(fd) == 0);
  int other = file(in(d, "x"), "new one");
  OK(holds(in(d, "x"), "new one") && pread(fd, buffer, 8, 0) == 2);
  OK(close(other) == 0 && unlink(in(d, "x")) == 0);
  DIR *dir = opendir(d);
  int entries = 0;
  while (readdir(dir)) entries++;
  OK(entries == 2);
  closedir(dir);
  OK(rmdir(d) == 0);
  OK(close(fd) == 0);
}

static void unlinked_dir(char **a) {
  char *d = in(a[0], "d"), buffer[8];
  OK(mkdir(d, 0755) == 0);
  int fd = file(in(d, "x"), "text");
  OK(unlink(in(d, "x")) == 0 && rmdir(d) == 0);
  OK(pwrite(fd, "T", 1, 0) == 1 && pread(fd, buffer, 8, 0) == 4 && memcmp(buffer, "Text", 4) == 0);
}

static void replaced(char **a) {
  char *x = in(a[0], "x"), *y = in(a[0], "y"), buffer[8];
  int fd = file(x, "old");
  OK(file(y, "new") >= 0 && rename(y, x) == 0);
  OK(pread(fd, buffer, 8, 0) == 3 && memcmp(buffer, "old", 3) == 0);
  OK(holds(x, "new"));
  struct stat st;
  OK(fstat(fd, &st) == 0 && st.st_nlink == 0);
}

/* A file that is saved by rename while others have it open is never missing, and never short. */
static void saves(char **a) {
  char *x = in(a[0], "x"), *temp = in(a[0], "temp");
  OK(close(file(x, "content")) == 0);
  pid_t pid = fork();
  if (pid == 0) {
    for (int i = 0; i < 300; i++) {
      int fd = open(x, O_RDONLY);
      char buffer[16];
      if (fd < 0) printf("open %d: %s\n", i, strerror(errno)), exit(1);
      if (read(fd, buffer, 16) != 7) printf("short read\n"), exit(2);
      close(fd);
    }
    exit(0);
  }
  int keeps = open(x, O_RDONLY), status;
  for (int i = 0; i < 150; i++) {
    OK(close(file(temp, "content")) == 0 && rename(temp, x) == 0);
    close(keeps);
    keeps = open(x, O_RDONLY);
    OK(keeps >= 0);
  }
  OK(waitpid(pid, &status, 0) == pid && status == 0);
}

static void flags(char **a) {
  char *x = in(a[0], "x"), buffer[32];
  int one = open(x, O_WRONLY | O_CREAT | O_APPEND | O_EXCL, 0644), two = open(x, O_WRONLY | O_APPEND);
  OK(one >= 0 && two >= 0);
  OK(write(one, "aa", 2) == 2 && write(two, "bb", 2) == 2 && write(one, "cc", 2) == 2 && holds(x, "aabbcc"));
  FAILS(open(x, O_WRONLY | O_CREAT | O_EXCL, 0644), EEXIST);
  int reader = open(x, O_RDONLY);
  FAILS(write(reader, "x", 1), EBADF);
  FAILS(read(one, buffer, 1), EBADF);
  OK(open(x, O_WRONLY | O_TRUNC) >= 0 && holds(x, ""));
  FAILS(open(x, O_RDONLY | O_DIRECTORY), ENOTDIR);
  FAILS(open(a[0], O_WRONLY), EISDIR);
  OK(symlink("x", in(a[0], "link")) == 0);
  FAILS(open(in(a[0], "link"), O_RDONLY | O_NOFOLLOW), ELOOP);
  OK(open(x, O_RDWR | O_SYNC) >= 0);
}

static void times(char **a) {
  char *x = in(a[0], "x");
  struct stat st;
  OK(file(x, "x") >= 0);
  struct timespec set[2] = {{1000000000, 123456789}, {1500000000, 987654321}};
  OK(utimensat(AT_FDCWD, x, set, 0) == 0 && stat(x, &st) == 0);
  OK(st.st_atim.tv_sec == 1000000000 && st.st_mtim.tv_sec == 1500000000);
  if (strcmp(a[1], "ms") == 0) OK(st.st_atim.tv_nsec / 1000000 == 123 && st.st_mtim.tv_nsec / 1000000 == 987);
  if (strcmp(a[1], "ns") == 0) OK(st.st_atim.tv_nsec == 123456789 && st.st_mtim.tv_nsec == 987654321);
}

static void one_time(char **a) {
  char *x = in(a[0], "x");
  struct stat before, st;
  OK(file(x, "x") >= 0 && stat(x, &before) == 0);
  struct timespec m[2] = {{0, UTIME_OMIT}, {1500000000, 5000000}};
  OK(utimensat(AT_FDCWD, x, m, 0) == 0 && stat(x, &st) == 0);
  OK(st.st_mtim.tv_sec == 1500000000 && st.st_mtim.tv_nsec == 5000000);
  OK(st.st_atim.tv_sec == before.st_atim.tv_sec && st.st_atim.tv_nsec == before.st_atim.tv_nsec);
  struct timespec t[2] = {{1400000000, 6000000}, {0, UTIME_OMIT}};
  OK(utimensat(AT_FDCWD, x, t, 0) == 0 && stat(x, &st) == 0);
  OK(st.st_atim.tv_sec == 1400000000 && st.st_mtim.tv_sec == 1500000000);
}

static void time_range(char **a) {
  char *x = in(a[0], "x");
  struct stat st;
  long times[] = {-1500000000, -1, 0, 4294967296, 9000000000};
  OK(file(x, "x") >= 0);
  for (int i = atoi(a[1]); i < 5; i++) {
    struct timespec set[2] = {{times[i], 0}, {times[i], 7000000}};
    OK(utimensat(AT_FDCWD, x, set, 0) == 0 && stat(x, &st) == 0);
    OK(st.st_mtim.tv_sec == times[i] && st.st_mtim.tv_nsec == 7000000 && st.st_atim.tv_sec == times[i]);
  }
}

static void nodes(char **a) {
  struct stat st;
  OK(mkfifo(in(a[0], "fifo"), 0640) == 0 && stat(in(a[0], "fifo"), &st) == 0 && S_ISFIFO(st.st_mode));
  OK(mknod(in(a[0], "sock"), S_IFSOCK | 0600, 0) == 0 && stat(in(a[0], "sock"), &st) == 0 && S_ISSOCK(st.st_mode));
  OK(mknod(in(a[0], "plain"), S_IFREG | 0600, 0) == 0 && stat(in(a[0], "plain"), &st) == 0 && S_ISREG(st.st_mode));
  if (geteuid() != 0) return;
  OK(mknod(in(a[0], "dev"), S_IFCHR | 0600, 0x12345) == 0 && stat(in(a[0], "dev"), &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == 0x12345);
  OK(mknod(in(a[0], "blk"), S_IFBLK | 0600, 0x703) == 0 && stat(in(a[0], "blk"), &st) == 0 && S_ISBLK(st.st_mode) && st.st_rdev == 0x703);
}

static void fifo(char **a) {
  char *x = in(a[0], "fifo"), byte;
  OK(mkfifo(x, 0600) == 0);
  if (fork() == 0) _exit(write(open(x, O_WRONLY), "!", 1) != 1);
  OK(read(open(x, O_RDONLY), &byte, 1) == 1 && byte == '!');
  wait(NULL);
}

static void syncs(char **a) {
  char *x = in(a[0], "x");
  int fd = file(x, "text"), dir = open(a[0], O_RDONLY | O_DIRECTORY);
  OK(fsync(fd) == 0 && write(fd, "more", 4) == 4 && fdatasync(fd) == 0 && fsync(dir) == 0);
  OK(sync_file_range(fd, 0, 8, SYNC_FILE_RANGE_WRITE) == 0 && syncfs(dir) == 0);
}

static void names(char **a) {
  char name[300];
  struct stat st;
  memset(name, 'n', sizeof name);
  name[255] = 0;
  OK(close(file(in(a[0], name), "x")) == 0 && stat(in(a[0], name), &st) == 0);
  OK(rename(in(a[0], name), in(a[0], "short")) == 0);
  name[255] = 'n', name[256] = 0;
  FAILS(open(in(a[0], name), O_CREAT | O_RDWR, 0644), ENAMETOOLONG);
  FAILS(stat(in(a[0], name), &st), ENAMETOOLONG);
  FAILS(mkdir(in(a[0], name), 0755), ENAMETOOLONG);
  FAILS(symlink("x", in(a[0], name)), ENAMETOOLONG);
  FAILS(rename(in(a[0], "short"), in(a[0], name)), ENAMETOOLONG);
  FAILS(link(in(a[0], "short"), in(a[0], name)), ENAMETOOLONG);
  for (int i = 0; i < 255; i += 3) memcpy(name + i, "\xe2\x82\xac", 3); /* 85 euro signs are 255 bytes */
  name[255] = 0;
  OK(mkdir(in(a[0], name), 0755) == 0 && rmdir(in(a[0], name)) == 0);
}

static void bytes(char **a) {
  char *x = in(a[0], "latin-\xe4\xff");
  int found = 0;
  OK(close(file(x, "x")) == 0 && holds(x, "x"));
  DIR *dir = opendir(a[0]);
  for (struct dirent *e; (e = readdir(dir));) found += strcmp(e->d_name, "latin-\xe4\xff") == 0;
  OK(found == 1);
  OK(symlink("to-\xfe", in(a[0], "link")) == 0 && readlink(in(a[0], "link"), path_buffers[7], 10) == 4 && memcmp(path_buffers[7], "to-\xfe", 4) == 0);
}

static void errors(char **a) {
  char *x = in(a[0], "x"), *d = in(a[0], "d"), *e = in(a[0], "e");
  struct stat st;
  OK(close(file(x, "x")) == 0 && mkdir(d, 0755) == 0 && mkdir(e, 0755) == 0 && close(file(in(d, "y"), "y")) == 0);
  FAILS(stat(in(x, "below"), &st), ENOTDIR);
  FAILS(stat(in(a[0], "none"), &st), ENOENT);
  FAILS(mkdir(d, 0755), EEXIST);
  FAILS(rmdir(d), ENOTEMPTY);
  FAILS(rmdir(x), ENOTDIR);
  FAILS(unlink(d), EISDIR);
  FAILS(rename(e, d), ENOTEMPTY);
  FAILS(rename(x, d), EISDIR);
  FAILS(rename(d, x), ENOTDIR);
  FAILS(rename(d, in(d, "inside")), EINVAL);
  FAILS(link(d, in(a[0], "dl")), EPERM);
  FAILS(truncate(x, -1), EINVAL);
  FAILS(truncate(d, 0), EISDIR);
  FAILS(readlink(x, path_buffers[6], 10), EINVAL);
  OK(rename(d, e) == 0 && stat(in(e, "y"), &st) == 0);
  OK(symlink("loop", in(a[0], "loop")) == 0);
  FAILS(stat(in(a[0], "loop"), &st), ELOOP);
}

static void too_big(char **a) {
  int fd = file(in(a[0], "x"), "x");
  FAILS(pwrite(fd, "x", 1, 0x7ffffffffffffffe), EFBIG);
}

static void space(char **a) {
  struct statvfs s;
  OK(statvfs(a[0], &s) == 0);
  OK(s.f_bsize >= 512 && s.f_blocks > 1000 && s.f_bfree <= s.f_blocks && s.f_bavail <= s.f_bfree && s.f_bavail > 0);
  OK(s.f_files > 1000 && s.f_ffree > 0 && s.f_namemax == 255);
}

/* --- as another user than root; the directory belongs to root --- */

static void denied(char **a) {
  FAILS(open(in(a[0], "secret"), O_RDONLY), EACCES);
  FAILS(open(in(a[0], "public"), O_RDWR), EACCES);
  OK(open(in(a[0], "public"), O_RDONLY) >= 0);
  FAILS(open(in(a[0], "new"), O_RDWR | O_CREAT, 0644), EACCES);
  FAILS(unlink(in(a[0], "public")), EACCES);
  FAILS(chmod(in(a[0], "public"), 0777), EPERM);
  FAILS(chown(in(a[0], "public"), getuid(), -1), EPERM);
  FAILS(utimensat(AT_FDCWD, in(a[0], "public"), NULL, 0), EACCES);
  FAILS(mkdir(in(a[0], "closed/x"), 0755), EACCES);
}

/* a[0] is 01777 and holds `roots` */
static void sticky(char **a) {
  FAILS(unlink(in(a[0], "roots")), EPERM);
  FAILS(rename(in(a[0], "roots"), in(a[0], "mine")), EPERM);
  FAILS(rmdir(in(a[0], "rootsdir")), EPERM);
}

static void owner(char **a) {
  char *x = in(a[0], "mine");
  struct stat st;
  umask(022);
  OK(close(file(x, "x")) == 0 && stat(x, &st) == 0 && st.st_uid == getuid() && st.st_gid == getgid());
  OK(mkdir(in(a[0], "dir"), 0755) == 0 && stat(in(a[0], "dir"), &st) == 0 && st.st_uid == getuid());
  OK(chmod(x, 0600) == 0 && unlink(x) == 0);
}

/* a[0] is 06777, a file of root's: a write by another clears both bits */
static void kills_suid(char **a) {
  struct stat st;
  OK(stat(a[0], &st) == 0 && (st.st_mode & 06000) == 06000);
  int fd = open(a[0], O_WRONLY);
  OK(fd >= 0 && write(fd, "x", 1) == 1 && fstat(fd, &st) == 0 && (st.st_mode & 07777) == 0777);
}

int main(int argc, char **argv) {
  static const struct { const char *name; void (*run)(char **); } scenarios[] = {
    {"noreplace", noreplace}, {"exchange", exchange}, {"tmpfile", tmpfile_}, {"tmpfile_owner", tmpfile_owner}, {"fallocate", fallocate_}, {"posix_fallocate", posix_fallocate_},
    {"seek", seek_}, {"copy_range", copy_range}, {"mmap", mmap_}, {"locks", locks}, {"xattrs", xattrs}, {"acl", acl}, {"readdir", readdir_},
    {"unlinked", unlinked}, {"unlinked_dir", unlinked_dir}, {"replaced", replaced}, {"saves", saves}, {"flags", flags}, {"times", times}, {"one_time", one_time},
    {"time_range", time_range}, {"nodes", nodes}, {"fifo", fifo}, {"syncs", syncs}, {"names", names}, {"bytes", bytes}, {"errors", errors},
    {"too_big", too_big}, {"space", space}, {"denied", denied}, {"sticky", sticky}, {"owner", owner}, {"kills_suid", kills_suid},
  };
  alarm(20);
  for (size_t i = 0; argc > 2 && i < sizeof scenarios / sizeof *scenarios; i++) {
    if (strcmp(argv[1], scenarios[i].name) == 0) {
      scenarios[i].run(argv + 2);
      return 0;
    }
  }
  printf("no scenario %s\n", argc > 1 ? argv[1] : "");
  return 2;
}
