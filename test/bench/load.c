/*
 * The hot loops of `npm run bench`: what a program costs the file system, with as
 * little of its own as possible. One phase a call; prints the seconds or rates
 * that were measured as one line of JSON.
 *
 *   load PHASE DIR COUNT BYTES SEED
 *
 * COUNT is a number of operations or files, BYTES the size of the big file.
 * Random data comes from SEED and is made before the clock starts, so that no
 * two runs write what a deduplicating store has seen before. Every phase that
 * writes ends, inside the timing, with an fsync of its directory and sync(2).
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define PAGE 4096

static const char *dir;
static long count;
static size_t bytes;
static uint64_t rng[2];

static void die(const char *what) {
  fprintf(stderr, "load: %s in %s: %s\n", what, dir, strerror(errno));
  exit(1);
}

/* xorshift128+: about 8 bytes a nanosecond. */
static inline uint64_t next(void) {
  uint64_t a = rng[0], b = rng[1];
  rng[0] = b;
  a ^= a << 23;
  rng[1] = a ^ b ^ (a >> 17) ^ (b >> 26);
  return rng[1] + b;
}

static void fill(void *to, size_t length) {
  uint64_t *p = to;
  for (size_t i = 0; i < length / 8; i++) p[i] = next();
}

static void *random_bytes(size_t length) {
  void *p = aligned_alloc(PAGE, length);
  if (!p) die("memory");
  fill(p, length);
  return p;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static int open_in(const char *name, int flags) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  int fd = open(path, flags, 0644);
  if (fd < 0) die(name);
  return fd;
}

static void write_all(int fd, const char *from, size_t length) {
  while (length) {
    ssize_t n = write(fd, from, length);
    if (n <= 0) die("write");
    from += n;
    length -= n;
  }
}

/* The end of each writing phase. */
static void settle(void) {
  int fd = open(dir, O_RDONLY | O_DIRECTORY);
  if (fd < 0 || fsync(fd)) die("fsync of the directory");
  close(fd);
  sync();
}

static void print_rate(double rate) { printf("{\"rate\":%.3f}\n", rate); }

static void write_big(int fd, const char *data) {
  for (size_t at = 0; at < bytes; at += MIB) write_all(fd, data + at, bytes - at < MIB ? bytes - at : MIB);
  if (fsync(fd)) die("fsync");
}

/* MiB/s */
static void big_write(void) {
  char *data = random_bytes(bytes);
  double start = now();
  int fd = open_in("big", O_WRONLY | O_CREAT | O_TRUNC);
  write_big(fd, data);
  if (close(fd)) die("close");
  settle();
  print_rate(bytes / (now() - start) / MIB);
}

/* MiB/s; COUNT times, and the last counts: cold with 1, warm with more. */
static void big_read(void) {
  char *buffer = random_bytes(MIB);
  double rate = 0;
  for (long pass = 0; pass < count; pass++) {
    double start = now();
    int fd = open_in("big", O_RDONLY);
    size_t total = 0;
    for (ssize_t n; (n = read(fd, buffer, MIB)) != 0; total += n) if (n < 0) die("read");
    close(fd);
    rate = total / (now() - start) / MIB;
    if (total != bytes) { errno = EIO; die("the big file is short"); }
  }
  print_rate(rate);
}

static void random_read(void) {
  char buffer[PAGE];
  double start = now();
  int fd = open_in("big", O_RDONLY);
  for (long i = 0; i < count; i++) if (pread(fd, buffer, PAGE, next() % (bytes / PAGE) * PAGE) != PAGE) die("pread");
  close(fd);
  print_rate(count / (now() - start));
}

static void random_overwrite(void) {
  char *data = random_bytes(MIB * 16);
  double start = now();
  int fd = open_in("big", O_WRONLY);
  for (long i = 0; i < count; i++) {
    uint64_t *block = (uint64_t *)(data + (i % 4096) * PAGE);
    *block = next(); /* no two blocks are equal */
    if (pwrite(fd, block, PAGE, next() % (bytes / PAGE) * PAGE) != PAGE) die("pwrite");
  }
  if (fsync(fd) || close(fd)) die("fsync");
  settle();
  print_rate(count / (now() - start));
}

static void append_fsync(void) {
  char *data = random_bytes(count * PAGE);
  double start = now();
  int fd = open_in("journal", O_WRONLY | O_CREAT | O_TRUNC | O_APPEND);
  for (long i = 0; i < count; i++) {
    write_all(fd, data + i * PAGE, PAGE);
    if (fsync(fd)) die("fsync");
  }
  close(fd);
  settle();
  print_rate(count / (now() - start));
}

static int by_value(const void *a, const void *b) { return (*(double *)a > *(double *)b) - (*(double *)a < *(double *)b); }

/* Latency in ms of write 4 KiB + fsync while another process copies the big file in. */
static void fsync_latency(void) {
  char *data = random_bytes(bytes), *block = random_bytes(PAGE);
  int fd = open_in("small", O_WRONLY | O_CREAT | O_TRUNC);
  if (fsync(fd)) die("fsync");
  pid_t copier = fork();
  if (copier < 0) die("fork");
  if (copier == 0) {
    int big = open_in("copied", O_WRONLY | O_CREAT | O_TRUNC);
    write_big(big, data);
    close(big);
    _exit(0);
  }
  size_t n = 0, room = 1 << 20;
  double *latency = malloc(room * sizeof *latency);
  int status = -1;
  while (n < room && waitpid(copier, &status, WNOHANG) == 0) {
    fill(block, 64);
    double start = now();
    if (pwrite(fd, block, PAGE, (n % 64) * PAGE) != PAGE || fsync(fd)) die("fsync");
    latency[n++] = (now() - start) * 1e3;
    usleep(2000); /* a program that saves often, not one that only saves */
  }
  if (status != 0) { errno = EIO; die("the copier failed"); }
  close(fd);
  settle();
  qsort(latency, n, sizeof *latency, by_value);
  printf("{\"rate\":%.3f,\"p50\":%.3f,\"max\":%.3f,\"samples\":%zu}\n", latency[(size_t)(n * 0.99)], latency[n / 2], latency[n - 1], n);
}

static void file_path(char *to, const char *prefix, long i) { sprintf(to, "%s/%s%07ld", dir, prefix, i); }

static void create_files(void) {
  char path[PATH_MAX], *data = random_bytes(count * PAGE);
  double start = now();
  for (long i = 0; i < count; i++) {
    file_path(path, "file-", i);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
    if (fd < 0) die(path);
    write_all(fd, data + i * PAGE, PAGE);
    if (close(fd)) die("close");
  }
  settle();
  print_rate(count / (now() - start));
}

/* Of files that are there. */
static void overwrite_files(void) {
  char path[PATH_MAX], *data = random_bytes(count * PAGE);
  double start = now();
  for (long i = 0; i < count; i++) {
    file_path(path, "file-", i);
    int fd = open(path, O_WRONLY | O_TRUNC);
    if (fd < 0) die(path);
    write_all(fd, data + i * PAGE, PAGE);
    if (close(fd)) die("close");
  }
  settle();
  print_rate(count / (now() - start));
}

/* For the cost of metadata alone. */
static void create_empty(void) {
  char path[PATH_MAX];
  double start = now();
  for (long i = 0; i < count; i++) {
    file_path(path, "file-", i);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
    if (fd < 0 || close(fd)) die(path);
  }
  print_rate(count / (now() - start));
}

/* Files/s of one scandir and a stat of each; checks that all are there. */
static void scan_stat(void) {
  struct stat st;
  long found = 0;
  double start = now();
  DIR *d = opendir(dir);
  if (!d) die("opendir");
  for (struct dirent *e; (e = readdir(d));) {
    if (e->d_name[0] == '.') continue;
    if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW)) die(e->d_name);
    found++;
  }
  closedir(d);
  double rate = found / (now() - start);
  if (found != count) { fprintf(stderr, "load: %ld of %ld files found\n", found, count); exit(1); }
  print_rate(rate);
}

static void stat_warm(void) {
  char path[PATH_MAX];
  struct stat st;
  double start = 0;
  const int passes = 10;
  for (int pass = -1; pass < passes; pass++) { /* the first warms */
    if (pass == 0) start = now();
    for (long i = 0; i < count; i++) {
      file_path(path, "file-", i);
      if (lstat(path, &st)) die(path);
    }
  }
  print_rate(passes * count / (now() - start));
}

static void open_read(void) {
  char path[PATH_MAX], buffer[PAGE];
  double start = now();
  for (long i = 0; i < count; i++) {
    file_path(path, "file-", i);
    int fd = open(path, O_RDONLY);
    if (fd < 0) die(path);
    if (read(fd, buffer, PAGE) != PAGE) die("read");
    close(fd);
  }
  print_rate(count / (now() - start));
}

static void rename_files(void) {
  char from[PATH_MAX], to[PATH_MAX];
  double start = now();
  for (long i = 0; i < count; i++) {
    file_path(from, "file-", i);
    file_path(to, "renamed-", i);
    if (rename(from, to)) die(from);
  }
  settle();
  print_rate(count / (now() - start));
}

static void unlink_files(void) {
  char path[PATH_MAX];
  double start = now();
  for (long i = 0; i < count; i++) {
    file_path(path, "renamed-", i);
    if (unlink(path)) die(path);
  }
  settle();
  print_rate(count / (now() - start));
}

static const struct { const char *name; void (*run)(void); } phases[] = {
  {"big-write", big_write}, {"big-read", big_read}, {"random-read", random_read}, {"random-overwrite", random_overwrite},
  {"append-fsync", append_fsync}, {"fsync-latency", fsync_latency}, {"create", create_files}, {"overwrite", overwrite_files}, {"create-empty", create_empty}, {"scan-stat", scan_stat},
  {"stat-warm", stat_warm}, {"open-read", open_read}, {"rename", rename_files}, {"unlink", unlink_files}, {"settle", settle},
};

int main(int argc, char **argv) {
  if (argc != 6) { fprintf(stderr, "usage: load PHASE DIR COUNT BYTES SEED\n"); return 2; }
  dir = argv[2];
  count = atol(argv[3]);
  bytes = strtoull(argv[4], 0, 10);
  rng[0] = strtoull(argv[5], 0, 10) * 0x9e3779b97f4a7c15u + 1;
  rng[1] = ~rng[0];
  for (int i = 0; i < 16; i++) next();
  for (size_t i = 0; i < sizeof phases / sizeof *phases; i++) {
    if (strcmp(argv[1], phases[i].name) == 0) { phases[i].run(); return 0; }
  }
  fprintf(stderr, "load: no phase %s\n", argv[1]);
  return 2;
}
