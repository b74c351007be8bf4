/*
 * Two processes that write one file through shared mappings, page by page in
 * turn, while the other half of each page belongs to the other process; checked
 * through the mapping, through read(2), and by `mmap check` in a later mount.
 *
 *   mmap write FILE PAGES SEED     mmap check FILE PAGES SEED
 *
 * And one that watches a byte of a mapping, printing it each time it is another:
 *
 *   mmap watch FILE OFFSET
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096
static unsigned seed;
static long pages;

static unsigned char byte_at(long at) { return (unsigned char)((at * 2654435761u + seed) >> 13); }
static void die(const char *what) { perror(what); exit(1); }

static void write_half(const char *path, int half) {
  int fd = open(path, O_RDWR);
  if (fd < 0) die(path);
  unsigned char *map = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED) die("mmap");
  for (long i = 0; i < pages; i++) {
    long page = (i * 7919) % pages; /* not in order */
    for (long at = page * PAGE + half * PAGE / 2; at < page * PAGE + (half + 1) * PAGE / 2; at++) map[at] = byte_at(at);
    if (i % 100 == 50 && msync(map + page * PAGE, PAGE, MS_SYNC)) die("msync");
  }
  if (msync(map, pages * PAGE, MS_SYNC)) die("msync");
  munmap(map, pages * PAGE);
  close(fd);
}

static int check(const char *path, int mapped) {
  int fd = open(path, O_RDONLY);
  if (fd < 0) die(path);
  unsigned char page[PAGE], *map = mapped ? mmap(0, pages * PAGE, PROT_READ, MAP_PRIVATE, fd, 0) : 0;
  if (map == MAP_FAILED) die("mmap");
  for (long i = 0; i < pages; i++) {
    if (!mapped && pread(fd, page, PAGE, i * PAGE) != PAGE) die("read");
    for (long k = 0; k < PAGE; k++) {
      if ((mapped ? map[i * PAGE + k] : page[k]) != byte_at(i * PAGE + k)) { fprintf(stderr, "%s: byte %ld is wrong when %s\n", path, i * PAGE + k, mapped ? "mapped" : "read"); return 1; }
    }
  }
  close(fd);
  return 0;
}

static int watch(const char *path, long offset) {
  int fd = open(path, O_RDONLY);
  if (fd < 0) die(path);
  volatile const char *map = mmap(0, offset + 1, PROT_READ, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED) die("mmap");
  for (char last = 0;; usleep(10000)) {
    char now = map[offset];
    if (now != last && write(1, &now, 1) != 1) return 1;
    last = now;
  }
}

int main(int argc, char **argv) {
  if (argc == 4 && strcmp(argv[1], "watch") == 0) return watch(argv[2], atol(argv[3]));
  if (argc != 5) return 2;
  pages = atol(argv[3]);
  seed = atoi(argv[4]);
  if (strcmp(argv[1], "check") == 0) return check(argv[2], 0) | check(argv[2], 1);
  if (pages % 7919 == 0) return 2;
  int fd = open(argv[2], O_RDWR | O_CREAT | O_TRUNC, 0644);
  if (fd < 0 || ftruncate(fd, pages * PAGE)) die(argv[2]);
  close(fd);
  pid_t other = fork();
  if (other < 0) die("fork");
  write_half(argv[2], other == 0);
  if (other == 0) return 0;
  int status;
  if (waitpid(other, &status, 0) != other || status != 0) return 1;
  return check(argv[2], 1) | check(argv[2], 0);
}
