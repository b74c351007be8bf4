/*
 * System calls that node has no binding for. Each function gives its result
 * (0 or a count or a descriptor) or the negated errno; none throws but for
 * wrong arguments.
 */
#include "dfs.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 8
#endif

napi_value number(napi_env env, double value) {
  napi_value result;
  napi_create_double(env, value, &result);
  return result;
}

napi_value fail(napi_env env, const char *message) {
  napi_throw_error(env, NULL, message);
  return NULL;
}

static napi_value outcome(napi_env env, long result) { return number(env, result < 0 ? -errno : (double)result); }

/* Reads `count` numbers; false (and an exception) when there are fewer. */
static bool numbers(napi_env env, napi_callback_info info, size_t count, double *out) {
  napi_value argv[4];
  size_t argc = 4;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  for (size_t i = 0; i < count; i++) {
    if (i >= argc || napi_get_value_double(env, argv[i], &out[i]) != napi_ok) {
      fail(env, "numbers expected");
      return false;
    }
  }
  return true;
}

static napi_value close_fd(napi_env env, napi_callback_info info) {
  double a[1];
  return numbers(env, info, 1, a) ? outcome(env, close((int)a[0])) : NULL;
}

static napi_value fallocate_fd(napi_env env, napi_callback_info info) {
  double a[4];
  return numbers(env, info, 4, a) ? outcome(env, fallocate((int)a[0], (int)a[1], (off_t)a[2], (off_t)a[3])) : NULL;
}

static napi_value sync_range(napi_env env, napi_callback_info info) {
  double a[4];
  return numbers(env, info, 4, a)
    ? outcome(env, sync_file_range((int)a[0], (off_t)a[1], (off_t)a[2], (unsigned)a[3])) : NULL;
}

/* Exclusive, without waiting; goes with the last descriptor, so a killed process leaves none. */
static napi_value lock_fd(napi_env env, napi_callback_info info) {
  double a[1];
  return numbers(env, info, 1, a) ? outcome(env, flock((int)a[0], LOCK_EX | LOCK_NB)) : NULL;
}

/* preadNoWait(fd, buffer, offset): -EAGAIN when the bytes are not in the page cache. */
static napi_value pread_no_wait(napi_env env, napi_callback_info info) {
  napi_value argv[3];
  size_t argc = 3, length;
  int32_t fd;
  int64_t offset;
  void *data;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  if (argc < 3 || napi_get_value_int32(env, argv[0], &fd) != napi_ok ||
      napi_get_typedarray_info(env, argv[1], NULL, &length, &data, NULL, NULL) != napi_ok ||
      napi_get_value_int64(env, argv[2], &offset) != napi_ok) return fail(env, "preadNoWait(fd, buffer, offset)");
  struct iovec io = { data, length };
  /* by number: the C library's wrapper is younger than the oldest systems we run on */
  return outcome(env, syscall(SYS_preadv2, (long)fd, &io, 1L, (unsigned long)offset, 0UL, (long)RWF_NOWAIT));
}

/* socketPair(): two connected descriptors, [ours, the child's]; for fusermount3. */
static napi_value socket_pair(napi_env env, napi_callback_info info) {
  (void)info;
  int fds[2];
  napi_value pair;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) return number(env, -errno);
  napi_create_array_with_length(env, 2, &pair);
  napi_set_element(env, pair, 0, number(env, fds[0]));
  napi_set_element(env, pair, 1, number(env, fds[1]));
  return pair;
}

/* receiveFd(socket): the descriptor sent over it (SCM_RIGHTS), without waiting. */
static napi_value receive_fd(napi_env env, napi_callback_info info) {
  double a[1];
  if (!numbers(env, info, 1, a)) return NULL;
  char byte;
  union { struct cmsghdr header; char bytes[CMSG_SPACE(sizeof(int))]; } control;
  struct iovec io = { &byte, 1 };
  struct msghdr message = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
  ssize_t n = recvmsg((int)a[0], &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (n < 0) return number(env, -errno);
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  if (n == 0 || header == NULL || header->cmsg_type != SCM_RIGHTS) return number(env, -ENOMSG);
  int fd;
  memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return number(env, fd);
}

/* mount and umount run in the thread pool: the kernel may ask one of our own mounts for the path. */
typedef struct work {
  napi_async_work handle;
  napi_deferred deferred;
  char *source, *target, *type, *data;
  unsigned long flags;
  bool unmount;
  int result;
} work;

static void execute(napi_env env, void *data) {
  work *w = data;
  (void)env;
  int result = w->unmount ? umount2(w->target, (int)w->flags) : mount(w->source, w->target, w->type, w->flags, w->data);
  w->result = result < 0 ? -errno : 0;
}

static void complete(napi_env env, napi_status status, void *data) {
  work *w = data;
  if (status != napi_ok) w->result = -ECANCELED;
  napi_resolve_deferred(env, w->deferred, number(env, w->result));
  napi_delete_async_work(env, w->handle);
  free(w->source);
  free(w->target);
  free(w->type);
  free(w->data);
  free(w);
}

static char *text(napi_env env, napi_value value) {
  size_t length;
  if (napi_get_value_string_utf8(env, value, NULL, 0, &length) != napi_ok) return NULL;
  char *result = malloc(length + 1);
  if (result != NULL) napi_get_value_string_utf8(env, value, result, length + 1, &length);
  return result;
}

static napi_value queue(napi_env env, work *w) {
  napi_value promise, name;
  napi_create_promise(env, &w->deferred, &promise);
  napi_create_string_utf8(env, "dfs.mount", NAPI_AUTO_LENGTH, &name);
  napi_create_async_work(env, NULL, name, execute, complete, w, &w->handle);
  napi_queue_async_work(env, w->handle);
  return promise;
}

/* mount(source, target, type, flags, data): a promise of 0 or a negated errno. */
static napi_value mount_call(napi_env env, napi_callback_info info) {
  napi_value argv[5];
  size_t argc = 5;
  double flags = 0;
  work *w = calloc(1, sizeof *w);
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  if (w == NULL || argc < 5) {
    free(w);
    return fail(env, "mount(source, target, type, flags, data)");
  }
  w->source = text(env, argv[0]);
  w->target = text(env, argv[1]);
  w->type = text(env, argv[2]);
  napi_get_value_double(env, argv[3], &flags);
  w->flags = (unsigned long)flags;
  w->data = text(env, argv[4]);
  return queue(env, w);
}

/* unmount(target, flags): a promise of 0 or a negated errno. */
static napi_value unmount_call(napi_env env, napi_callback_info info) {
  napi_value argv[2];
  size_t argc = 2;
  double flags = 0;
  work *w = calloc(1, sizeof *w);
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  if (w == NULL || argc < 2) {
    free(w);
    return fail(env, "unmount(target, flags)");
  }
  w->unmount = true;
  w->target = text(env, argv[0]);
  napi_get_value_double(env, argv[1], &flags);
  w->flags = (unsigned long)flags;
  return queue(env, w);
}

/* Neither a list of names nor a value is longer: XATTR_LIST_MAX and XATTR_SIZE_MAX of limits.h. */
#define XATTR_BYTES 65536

/* `count` Uint8Arrays; the first `texts` of them as C strings, NULL where one holds a NUL. */
static bool byte_arguments(napi_env env, napi_callback_info info, size_t count, size_t texts, char **text, struct iovec *rest) {
  napi_value argv[3];
  size_t argc = 3;
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  for (size_t i = 0; i < texts; i++) text[i] = NULL;
  for (size_t i = 0; i < count; i++) {
    void *data = NULL;
    size_t length = 0;
    if (i >= argc || napi_get_typedarray_info(env, argv[i], NULL, &length, &data, NULL, NULL) != napi_ok) {
      for (size_t j = 0; j < texts; j++) free(text[j]);
      fail(env, "bytes expected");
      return false;
    }
    if (i >= texts) {
      rest->iov_base = data;
      rest->iov_len = length;
    } else if (memchr(data, 0, length) == NULL) {
      text[i] = strndup(data, length);
    }
  }
  return true;
}

/* What a call that fills `bytes` gave: a Buffer of them, or the negated errno. Frees `bytes`. */
static napi_value filled(napi_env env, char *bytes, ssize_t length) {
  napi_value result;
  int error = errno;
  if (length >= 0) napi_create_buffer_copy(env, (size_t)length, bytes, NULL, &result);
  else result = number(env, -error);
  free(bytes);
  return result;
}

/* listXattr(path): the names, each with its NUL; symlinks are followed. */
static napi_value list_xattr(napi_env env, napi_callback_info info) {
  char *text[1];
  if (!byte_arguments(env, info, 1, 1, text, NULL)) return NULL;
  char *bytes = malloc(XATTR_BYTES);
  errno = bytes == NULL ? ENOMEM : EINVAL;
  ssize_t n = bytes == NULL || text[0] == NULL ? -1 : listxattr(text[0], bytes, XATTR_BYTES);
  int error = errno;
  free(text[0]);
  errno = error;
  return filled(env, bytes, n);
}

/* getXattr(path, name): the value; symlinks are followed. */
static napi_value get_xattr(napi_env env, napi_callback_info info) {
  char *text[2];
  if (!byte_arguments(env, info, 2, 2, text, NULL)) return NULL;
  char *bytes = malloc(XATTR_BYTES);
  errno = bytes == NULL ? ENOMEM : EINVAL;
  ssize_t n = bytes == NULL || text[0] == NULL || text[1] == NULL ? -1 : getxattr(text[0], text[1], bytes, XATTR_BYTES);
  int error = errno;
  free(text[0]);
  free(text[1]);
  errno = error;
  return filled(env, bytes, n);
}

/* setXattr(path, name, value): 0 or the negated errno; of a symlink itself. */
static napi_value set_xattr(napi_env env, napi_callback_info info) {
  char *text[2];
  struct iovec value = { NULL, 0 };
  if (!byte_arguments(env, info, 3, 2, text, &value)) return NULL;
  errno = EINVAL;
  int result = text[0] == NULL || text[1] == NULL ? -1 : lsetxattr(text[0], text[1], value.iov_base, value.iov_len, 0);
  int error = errno;
  free(text[0]);
  free(text[1]);
  errno = error;
  return outcome(env, result);
}

void system_init(napi_env env, napi_value exports) {
  const struct { const char *name; napi_callback function; } functions[] = {
    { "start", session_start }, { "mount", mount_call }, { "unmount", unmount_call }, { "socketPair", socket_pair },
    { "receiveFd", receive_fd }, { "close", close_fd }, { "fallocate", fallocate_fd }, { "syncFileRange", sync_range },
    { "lock", lock_fd }, { "preadNoWait", pread_no_wait },
    { "listXattr", list_xattr }, { "getXattr", get_xattr }, { "setXattr", set_xattr },
  };
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
    napi_value function;
    napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].function, NULL, &function);
    napi_set_named_property(env, exports, functions[i].name, function);
  }
}

/*
 * Blocks of 128 KiB and more go straight back to the system when they are freed.
 * glibc otherwise raises that bound with use (mallopt(3), dynamic mmap threshold)
 * and keeps what a burst of reads took in the heaps of its threads.
 */
static void bound_memory(void) {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 128 << 10);
  mallopt(M_TRIM_THRESHOLD, 1 << 20);
  mallopt(M_ARENA_MAX, 2);
#endif
}

NAPI_MODULE_INIT() {
  bound_memory();
  system_init(env, exports);
  return exports;
}
