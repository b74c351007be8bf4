/*
 * Notifications to the kernel's caches, written by threads of their own.
 *
 * The kernel takes the inode's lock, or waits for locks of its pages, while it
 * handles one; a request that waits for our answer may hold them. From the loop's
 * thread this deadlocks. Several threads, because one such write may wait for a
 * READ that waits for a peer. Messages of one key (an inode) keep their order:
 * what comes for a key that a thread is busy with is left to that thread.
 */
#include "dfs.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREADS 8
#define LIMIT_BYTES (4 << 20)

typedef struct message {
  struct message *next;
  uint32_t key;
  size_t length;
  uint8_t bytes[];
} message;

typedef struct list {
  message *head, **tail;
} list;

typedef struct worker {
  struct notifier *owner;
  bool busy;
  uint32_t key; /* of the message being written, while busy */
  list own;     /* later messages of that key */
} worker;

/* Invariant: a message of key k is in `shared` only if it came after all of k in any `own` list. */
struct notifier {
  uv_mutex_t lock;
  uv_cond_t wake;
  list shared;
  worker workers[THREADS];
  int started, idle;
  int64_t queued_bytes;
  int users; /* the session and each thread */
  bool stopping;
  int fd;
};

static void append(list *l, message *m) {
  m->next = NULL;
  *l->tail = m;
  l->tail = &m->next;
}

static message *take(list *l) {
  message *m = l->head;
  if (m == NULL) return NULL;
  l->head = m->next;
  if (l->head == NULL) l->tail = &l->head;
  return m;
}

static worker *busy_with(notifier *n, uint32_t key) {
  for (int i = 0; i < n->started; i++) {
    if (n->workers[i].busy && n->workers[i].key == key) return &n->workers[i];
  }
  return NULL;
}

/* The next message this worker may write; NULL = none now. With the lock held. */
static message *next(worker *w) {
  notifier *n = w->owner;
  message *m = take(&w->own);
  if (m != NULL) return m;
  w->busy = false;
  while ((m = take(&n->shared)) != NULL) {
    worker *other = busy_with(n, m->key);
    if (other == NULL) {
      w->busy = true;
      w->key = m->key;
      return m;
    }
    append(&other->own, m);
  }
  return NULL;
}

/* With the lock held; gives it up. */
static void leave(notifier *n) {
  bool last = --n->users == 0;
  uv_mutex_unlock(&n->lock);
  if (!last) return;
  uv_cond_destroy(&n->wake);
  uv_mutex_destroy(&n->lock);
  close(n->fd);
  free(n);
}

static void run(void *data) {
  worker *w = data;
  notifier *n = w->owner;
  uv_mutex_lock(&n->lock);
  for (;;) {
    message *m = next(w);
    if (m == NULL) {
      if (n->stopping) break;
      n->idle++;
      uv_cond_wait(&n->wake, &n->lock);
      n->idle--;
      continue;
    }
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
  n->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0); /* ours: the session may close before a write returns */
  if (n->fd < 0 || uv_mutex_init(&n->lock) != 0) {
    if (n->fd >= 0) close(n->fd);
    free(n);
    return NULL;
  }
  uv_cond_init(&n->wake);
  n->users = 1;
  n->shared.tail = &n->shared.head;
  for (int i = 0; i < THREADS; i++) {
    n->workers[i].owner = n;
    n->workers[i].own.tail = &n->workers[i].own.head;
  }
  return n;
}

/* A thread for each message that finds no idle one, up to the limit. With the lock held. */
static void start_worker(notifier *n) {
  uv_thread_t thread;
  uv_thread_options_t options = { .flags = UV_THREAD_HAS_STACK_SIZE, .stack_size = 64 << 10 };
  n->users++;
  if (uv_thread_create_ex(&thread, &options, run, &n->workers[n->started]) == 0) n->started++;
  else n->users--;
}

int64_t notifier_push(notifier *n, uint32_t key, const void *bytes, size_t length) {
  message *m = malloc(sizeof *m + length);
  if (m == NULL) return -1;
  m->key = key;
  m->length = length;
  memcpy(m->bytes, bytes, length);
  uv_mutex_lock(&n->lock);
  worker *busy = busy_with(n, key);
  if (busy == NULL && n->idle == 0 && n->started < THREADS) start_worker(n);
  if (n->started == 0 || n->queued_bytes + (int64_t)length > LIMIT_BYTES) {
    uv_mutex_unlock(&n->lock);
    free(m);
    return -1;
  }
  append(&n->shared, m); /* who takes it gives it to the busy one: an earlier one of this key may be in `shared` too */
  n->queued_bytes += (int64_t)length;
  int64_t queued = n->queued_bytes;
  uv_cond_signal(&n->wake);
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
  uv_cond_broadcast(&n->wake);
  leave(n);
}
