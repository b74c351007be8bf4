/*
 * Notifications to the kernel's caches, written by threads of their own.
 *
 * The kernel takes the inode's lock, or waits for locks of its pages, while it
 * handles one; a request that waits for our answer may hold them. From the loop's
 * thread this deadlocks. Several threads, because one such write may wait for a
 * READ that waits for a peer; messages of one inode keep their order.
 */
#include "dfs.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREADS 4
#define LIMIT_BYTES (4 << 20)

typedef struct message {
  struct message *next;
  size_t length;
  uint8_t bytes[];
} message;

typedef struct lane {
  struct notifier *owner;
  message *head, **tail;
  uv_cond_t wake;
  bool started;
} lane;

struct notifier {
  uv_mutex_t lock;
  lane lanes[THREADS];
  int64_t queued_bytes;
  int users; /* the session and each thread */
  bool stopping;
  int fd;
};

/* With the lock held; gives it up. */
static void leave(notifier *n) {
  bool last = --n->users == 0;
  uv_mutex_unlock(&n->lock);
  if (!last) return;
  for (int i = 0; i < THREADS; i++) uv_cond_destroy(&n->lanes[i].wake);
  uv_mutex_destroy(&n->lock);
  close(n->fd);
  free(n);
}

static void run(void *data) {
  lane *l = data;
  notifier *n = l->owner;
  uv_mutex_lock(&n->lock);
  for (;;) {
    while (l->head == NULL && !n->stopping) uv_cond_wait(&l->wake, &n->lock);
    message *m = l->head;
    if (m == NULL) break;
    l->head = m->next;
    if (l->head == NULL) l->tail = &l->head;
    bool send = !n->stopping;
    uv_mutex_unlock(&n->lock);
    if (send) {
      /* Failures say that the kernel does not know the inode or name, or that the mount is gone: nothing to do. */
      ssize_t ignored = write(n->fd, m->bytes, m->length);
      (void)ignored;
    }
    uv_mutex_lock(&n->lock);
    n->queued_bytes -= (int64_t)m->length;
    free(m);
  }
  leave(n);
}

notifier *notifier_open(int fd) {
  notifier *n = calloc(1, sizeof *n);
  if (n == NULL) return NULL;
  n->fd = dup(fd); /* ours: the session may close before a write returns */
  if (n->fd < 0 || uv_mutex_init(&n->lock) != 0) {
    free(n);
    return NULL;
  }
  n->users = 1;
  for (int i = 0; i < THREADS; i++) {
    n->lanes[i].owner = n;
    n->lanes[i].tail = &n->lanes[i].head;
    uv_cond_init(&n->lanes[i].wake);
  }
  return n;
}

int64_t notifier_push(notifier *n, uint32_t key, const void *bytes, size_t length) {
  message *m = malloc(sizeof *m + length);
  if (m == NULL) return -1;
  m->next = NULL;
  m->length = length;
  memcpy(m->bytes, bytes, length);
  lane *l = &n->lanes[(key * 2654435761u >> 16) % THREADS];
  uv_mutex_lock(&n->lock);
  if (!l->started) {
    uv_thread_t thread;
    uv_thread_options_t options = { .flags = UV_THREAD_HAS_STACK_SIZE, .stack_size = 64 << 10 };
    n->users++;
    if (uv_thread_create_ex(&thread, &options, run, l) == 0) l->started = true;
    else n->users--;
  }
  if (!l->started || n->queued_bytes + (int64_t)length > LIMIT_BYTES) {
    uv_mutex_unlock(&n->lock);
    free(m);
    return -1;
  }
  *l->tail = m;
  l->tail = &m->next;
  n->queued_bytes += (int64_t)length;
  int64_t queued = n->queued_bytes;
  uv_cond_signal(&l->wake);
  uv_mutex_unlock(&n->lock);
  return queued;
}

int64_t notifier_pending(notifier *n) {
  uv_mutex_lock(&n->lock);
  int64_t queued = n->queued_bytes;
  uv_mutex_unlock(&n->lock);
  return queued;
}

void notifier_stop(notifier *n) {
  uv_mutex_lock(&n->lock);
  n->stopping = true;
  for (int i = 0; i < THREADS; i++) uv_cond_signal(&n->lanes[i].wake);
  leave(n);
}
