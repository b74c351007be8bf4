/*
 * Short trips between a program and this process, on virtual machines.
 *
 * A program that waits for a reply sleeps, its processor halts, and on a virtual
 * machine the way out of the halt goes through the hypervisor: tens of
 * microseconds for each reply, more than most operations cost. (Kernels have
 * cpuidle-haltpoll for guests, where it is enabled.)
 *
 * Warm: a thread of the class SCHED_IDLE that spins meanwhile is preempted at once by
 * whatever wakes up, and gets nothing while anything else wants to run. It
 * sleeps when requests cease. What is left of the trip is the interrupt from one
 * processor to the other, 15 to 20 us.
 *
 * Beside: even that goes away where program and session share a processor and
 * take turns on it: 4 us. With two processors, when one thread's small requests
 * follow each other, the session moves to the processor of that thread. Linux
 * would wake the thread on the other one, if that was idle; so a spinning thread
 * stays there that counts as busy, but has the least weight (nice 19, 15 of 1024) and
 * the longest slice, so that what wakes preempts it. The session's affinity is
 * left open: threads that it starts inherit it, and the kernel may still move it
 * away when both have work to do.
 */
#define _GNU_SOURCE
#include "dfs.h"

#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

/* How long after a request the next is expected: by a thread that gets nothing, and by one that gets a little. */
#define WARM_NS 150000ull
#define BESIDE_NS 300000ull
/* Requests of one thread in a row, after which the session comes beside it, and looks again whether it still is. */
#define RUN 8
#define LOOK_AGAIN 16
/* Requests that move more are better served while the program goes on. */
#define SMALL_BYTES 65536

/* A thread that spins while it is wanted. */
typedef struct spinner {
  uv_thread_t thread;
  uv_sem_t wake;
  _Atomic uint64_t until_ns;
  atomic_bool asleep, stopping;
  bool light;        /* nice 19, else SCHED_IDLE */
  _Atomic int cpu;   /* where it belongs; -1: anywhere */
} spinner;

struct warmer {
  spinner warm, busy;
  bool can_be_beside, beside;
  cpu_set_t allowed; /* two processors, if can_be_beside */
  uint32_t thread;   /* whose requests follow each other */
  uint32_t run;      /* how many of them */
  int stat_fd;       /* of that thread, -1: not opened yet */
};

static bool is_virtual(void) {
#if defined(__x86_64__)
  unsigned a, b, c = 0, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 31)) != 0;
#else
  return false;
#endif
}

static bool become(const spinner *s) {
  if (!s->light) {
    struct sched_param param = { 0 };
    /* Of the calling thread. */
    return sched_setscheduler(0, SCHED_IDLE, &param) == 0;
  }
  /* struct sched_attr of linux/sched/types.h; its runtime is the slice, from Linux 6.12 on */
  struct { uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t runtime, deadline, period; } attr =
    { .size = 48, .policy = SCHED_OTHER, .nice = 19, .runtime = 100000000 };
  return syscall(SYS_sched_setattr, 0, &attr, 0) == 0;
}

static void spin(void *data) {
  spinner *s = data;
  int cpu = -1;
  /* As it was made it would take time from others: better none. */
  if (!become(s)) atomic_store(&s->stopping, true);
  while (!atomic_load(&s->stopping)) {
    int wanted = atomic_load_explicit(&s->cpu, memory_order_relaxed);
    if (wanted != cpu) {
      cpu_set_t set;
      CPU_ZERO(&set);
      CPU_SET(wanted, &set);
      sched_setaffinity(0, sizeof set, &set);
      cpu = wanted;
    }
    if (uv_hrtime() < atomic_load(&s->until_ns)) {
#if defined(__x86_64__)
      for (int i = 0; i < 32; i++) __builtin_ia32_pause();
#endif
      continue;
    }
    atomic_store(&s->asleep, true);
    uv_sem_wait(&s->wake);
  }
}

static bool spinner_start(spinner *s, bool light) {
  s->light = light;
  atomic_store(&s->cpu, -1);
  if (uv_sem_init(&s->wake, 0) != 0) return false;
  if (uv_thread_create(&s->thread, spin, s) == 0) return true;
  uv_sem_destroy(&s->wake);
  return false;
}

static void spinner_touch(spinner *s, uint64_t until_ns) {
  atomic_store_explicit(&s->until_ns, until_ns, memory_order_relaxed);
  if (atomic_load_explicit(&s->asleep, memory_order_relaxed) && atomic_exchange(&s->asleep, false)) uv_sem_post(&s->wake);
}

static void spinner_stop(spinner *s) {
  atomic_store(&s->stopping, true);
  uv_sem_post(&s->wake);
  uv_thread_join(&s->thread);
  uv_sem_destroy(&s->wake);
}

/* NULL where it is of no use: a real machine, or a single processor. */
warmer *warmer_open(void) {
  if (!is_virtual() || sysconf(_SC_NPROCESSORS_ONLN) < 2) return NULL;
  warmer *w = calloc(1, sizeof *w);
  if (w == NULL) return NULL;
  w->stat_fd = -1;
  if (!spinner_start(&w->warm, false)) {
    free(w);
    return NULL;
  }
  /* With more of them there is always an idle one, on which the kernel would wake the program. */
  w->can_be_beside = sysconf(_SC_NPROCESSORS_ONLN) == 2 && sched_getaffinity(0, sizeof w->allowed, &w->allowed) == 0 &&
    CPU_COUNT(&w->allowed) == 2 && spinner_start(&w->busy, true);
  return w;
}

/* The processor on which the followed thread last ran: field 39 of its stat (proc(5)). -1: not known. */
static int processor_of(warmer *w) {
  char text[1024];
  if (w->stat_fd < 0) {
    snprintf(text, sizeof text, "/proc/%u/task/%u/stat", w->thread, w->thread);
    w->stat_fd = open(text, O_RDONLY | O_CLOEXEC);
    if (w->stat_fd < 0) return -1;
  }
  ssize_t n = pread(w->stat_fd, text, sizeof text - 1, 0);
  if (n <= 0) return -1;
  text[n] = 0;
  const char *at = strrchr(text, ')'); /* the end of field 2 */
  for (int field = 2; at != NULL && field < 39; field++) at = strchr(at + 1, ' ');
  return at == NULL ? -1 : atoi(at);
}

static void part(warmer *w) {
  w->beside = false;
  w->run = 0;
  if (w->stat_fd >= 0) close(w->stat_fd);
  w->stat_fd = -1;
}

/* Moves the calling thread to where the followed one is. */
static void come(warmer *w) {
  int cpu = processor_of(w), other = -1;
  if (cpu < 0 || cpu >= CPU_SETSIZE || !CPU_ISSET(cpu, &w->allowed)) {
    part(w);
    return;
  }
  for (int i = 0; i < CPU_SETSIZE; i++) if (i != cpu && CPU_ISSET(i, &w->allowed)) other = i;
  atomic_store_explicit(&w->busy.cpu, other, memory_order_relaxed);
  w->beside = true;
  if (sched_getcpu() == cpu) return;
  cpu_set_t set;
  /* Somebody has bound us meanwhile (taskset): so it stays. */
  if (sched_getaffinity(0, sizeof set, &set) != 0 || !CPU_EQUAL(&set, &w->allowed)) {
    part(w);
    return;
  }
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof set, &set);
  sched_setaffinity(0, sizeof w->allowed, &w->allowed);
}

void warmer_request(warmer *w, uint32_t thread, size_t bytes, bool close, uint64_t now_ns) {
  if (w->can_be_beside && thread != 0) {
    if (thread != w->thread || bytes > SMALL_BYTES) {
      part(w);
      w->thread = thread;
    } else if (++w->run == RUN || w->run % LOOK_AGAIN == 0) come(w);
  }
  if (w->beside) spinner_touch(&w->busy, now_ns + BESIDE_NS);
  else if (close) spinner_touch(&w->warm, now_ns + WARM_NS);
}

bool warmer_is_beside(const warmer *w) {
  return w->beside;
}

void warmer_close(warmer *w) {
  part(w);
  if (w->can_be_beside) spinner_stop(&w->busy);
  spinner_stop(&w->warm);
  free(w);
}
