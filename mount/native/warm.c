/*
 * Keeps a virtual processor from halting while requests follow each other closely.
 *
 * A program that waits for a reply sleeps, its processor halts, and on a virtual
 * machine the way out of the halt goes through the hypervisor: tens of
 * microseconds for each reply, more than most operations cost. (Kernels have
 * cpuidle-haltpoll for guests, where it is enabled.) A thread of the class
 * SCHED_IDLE that spins meanwhile is preempted at once by whatever wakes up, and
 * gets nothing while anything else wants to run. It sleeps when requests cease.
 */
#define _GNU_SOURCE
#include "dfs.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

/* How long after a request the next is expected. */
#define WARM_NS 150000ull

struct warmer {
  uv_thread_t thread;
  uv_sem_t wake;
  _Atomic uint64_t until_ns;
  atomic_bool asleep, stopping;
};

static bool is_virtual(void) {
#if defined(__x86_64__)
  unsigned a, b, c = 0, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 31)) != 0;
#else
  return false;
#endif
}

static void spin(void *data) {
  warmer *w = data;
  struct sched_param param = { 0 };
  /* Of the calling thread. Without it, it would take time from others: better none. */
  if (sched_setscheduler(0, SCHED_IDLE, &param) != 0) atomic_store(&w->stopping, true);
  while (!atomic_load(&w->stopping)) {
    if (uv_hrtime() < atomic_load(&w->until_ns)) {
#if defined(__x86_64__)
      for (int i = 0; i < 32; i++) __builtin_ia32_pause();
#endif
      continue;
    }
    atomic_store(&w->asleep, true);
    uv_sem_wait(&w->wake);
  }
}

/* NULL where it is of no use: a real machine, or a single processor. */
warmer *warmer_open(void) {
  if (!is_virtual() || sysconf(_SC_NPROCESSORS_ONLN) < 2) return NULL;
  warmer *w = calloc(1, sizeof *w);
  if (w == NULL) return NULL;
  if (uv_sem_init(&w->wake, 0) != 0) {
    free(w);
    return NULL;
  }
  if (uv_thread_create(&w->thread, spin, w) != 0) {
    uv_sem_destroy(&w->wake);
    free(w);
    return NULL;
  }
  return w;
}

/* Requests follow each other: stay awake a little longer. */
void warmer_touch(warmer *w, uint64_t now_ns) {
  atomic_store_explicit(&w->until_ns, now_ns + WARM_NS, memory_order_relaxed);
  if (atomic_load_explicit(&w->asleep, memory_order_relaxed) && atomic_exchange(&w->asleep, false)) uv_sem_post(&w->wake);
}

void warmer_close(warmer *w) {
  atomic_store(&w->stopping, true);
  uv_sem_post(&w->wake);
  uv_thread_join(&w->thread);
  uv_sem_destroy(&w->wake);
  free(w);
}
