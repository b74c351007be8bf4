/* What the parts of the addon share. Plain C against Node-API and libuv, both exported by node itself. */
#ifndef DFS_H
#define DFS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define NAPI_VERSION 8
#include <node_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

napi_value number(napi_env env, double value);
/* Throws an Error; gives NULL. */
napi_value fail(napi_env env, const char *message);

napi_value session_start(napi_env env, napi_callback_info info);
void system_init(napi_env env, napi_value exports);

/* warm.c: short trips between a program and the session on a virtual machine. All from the session's thread. */
typedef struct warmer warmer;
warmer *warmer_open(void);
/* A request of that thread (0: nobody's) was answered, or is under way. `bytes`: what it moves; `close`: soon after the one before. */
void warmer_request(warmer *w, uint32_t thread, size_t bytes, bool close, uint64_t now_ns);
/* The session shares the program's processor: to spin would keep the program from running. */
bool warmer_is_beside(const warmer *w);
void warmer_close(warmer *w);

/* notify.c: threads that write notifications to the fd, never the loop's own (it would deadlock). */
typedef struct notifier notifier;
notifier *notifier_open(int fd);
/* Messages of one key are written in order. Gives the bytes queued, or -1 when full (nothing was taken). */
int64_t notifier_push(notifier *n, uint32_t key, const void *message, size_t length);
int64_t notifier_pending(notifier *n);
/* Drops what is queued; the threads end by themselves (one may be held in a write for long) and free the notifier. */
void notifier_stop(notifier *n);

#endif
