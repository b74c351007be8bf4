/*
 * A FUSE session on the event loop: reads requests from /dev/fuse, hands each
 * to JavaScript, writes the answers.
 *
 * Why it is built so (measured, see docs): the cost of a small operation is the
 * wake-up of a sleeping thread, not JavaScript. So after a request the session
 * stays *hot* for a few tens of microseconds: an idle handle keeps the loop from
 * sleeping, and a check handle tries the fd again on every turn of the loop.
 * Timers, completions of the thread pool and sockets get their turn in between,
 * so an operation that went asynchronous is answered promptly also under load.
 * A spin that finds nothing makes the next ones shorter; an idle mount sleeps.
 *
 * Memory: one request area and one reply area, ArrayBuffers made by JavaScript.
 * A request is decoded, and its operation called, before the next one is read.
 */
#include "dfs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/* How long the loop may be kept from its other work while requests keep coming. */
#define BUSY_NS 200000ull
/* The same while the fd is empty: then a turn of the loop costs us nothing. */
#define EMPTY_NS 4000ull
/* Requests that come within this of each other are a run of them. */
#define CLOSE_NS 300000ull
/* Offset of a WRITE's data: fuse_in_header (40) + fuse_write_in (40). */
#define WRITE_HEADER 80
#define PAGE 4096
/* FUSE_READ; its opcode is at 4, the caller's thread at 32, the size at 56 (fuse_in_header, fuse_read_in). */
#define READ 15
#define IOV_LIMIT 1024

typedef struct session {
  napi_env env;
  napi_async_context context;
  napi_ref request_ref, reply_ref, on_request, on_end, receiver;
  uv_poll_t poll;
  uv_idle_t idle;
  uv_check_t check;
  int open_handles;
  int fd;
  bool hot, ended;
  uint8_t *request, *reply;
  size_t request_size, reply_size;
  uint64_t last_ns;                 /* when the last request was taken */
  uint64_t spin_ns, spin_limit_ns;  /* adaptive; 0 = never spin */
  notifier *notifier;
  warmer *warmer;                   /* NULL: not wanted, or of no use */
} session;

static void end(session *s, int error);

static void cool(session *s) {
  if (!s->hot) return;
  s->hot = false;
  uv_idle_stop(&s->idle);
  uv_check_stop(&s->check);
}

/* Calls onRequest(argument); gives its result, or -1 when it threw. */
static int call(session *s, napi_ref function, int argument) {
  napi_env env = s->env;
  napi_handle_scope scope;
  napi_value receiver, callee, arg, result;
  int32_t value = -1;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return -1;
  napi_get_reference_value(env, s->receiver, &receiver);
  napi_get_reference_value(env, function, &callee);
  napi_create_int32(env, argument, &arg);
  /* runs microtasks and process.nextTick after the call */
  napi_status status = napi_make_callback(env, s->context, receiver, callee, 1, &arg, &result);
  if (status == napi_ok) {
    if (napi_get_value_int32(env, result, &value) != napi_ok) value = 0;
  } else {
    bool pending = false;
    napi_is_exception_pending(env, &pending);
    if (pending && napi_get_and_clear_last_exception(env, &result) == napi_ok) napi_fatal_exception(env, result);
  }
  napi_close_handle_scope(env, scope);
  return value;
}

/* The 32-bit word at `offset` of the request. */
static uint32_t word(const session *s, size_t offset) {
  uint32_t value;
  memcpy(&value, s->request + offset, sizeof value);
  return value;
}

/* One turn: takes requests until there are none, or others need the loop. */
static void turn(session *s) {
  uint64_t start = uv_hrtime(), now = start;
  while (!s->ended) {
    ssize_t n = read(s->fd, s->request, s->request_size);
    if (n > 0) {
      /* Before the call: the area is written to by whoever works in it. */
      uint32_t thread = word(s, 32);
      size_t bytes = word(s, 4) == READ ? word(s, 56) : (size_t)n;
      int length = call(s, s->on_request, (int)n);
      if (s->ended) return;
      if (length > 0) {
        ssize_t written = write(s->fd, s->reply, (size_t)length);
        /* ENOENT: the request was aborted. JavaScript takes back what the reply gave. */
        if (written < 0) call(s, s->on_request, -errno);
      }
      now = uv_hrtime();
      if (s->warmer != NULL) warmer_request(s->warmer, thread, bytes, now - s->last_ns < CLOSE_NS, now);
      s->last_ns = now;
      s->spin_ns = s->spin_limit_ns;
      if (now - start > BUSY_NS) return;
      continue;
    }
    int error = n < 0 ? errno : ENODEV;
    if (error == EINTR || error == ENOENT) continue; /* ENOENT: aborted before it was read */
    if (error != EAGAIN) {
      end(s, error);
      return;
    }
    now = uv_hrtime();
    if (s->warmer != NULL && warmer_is_beside(s->warmer)) {
      cool(s);
      return;
    }
    if (now - s->last_ns >= s->spin_ns) {
      s->spin_ns /= 2; /* this spin was for nothing */
      cool(s);
      return;
    }
    if (now - start > EMPTY_NS) return;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
  }
}

static void on_check(uv_check_t *check) { turn(check->data); }
static void on_idle(uv_idle_t *idle) { (void)idle; }

static void on_poll(uv_poll_t *poll, int status, int events) {
  session *s = poll->data;
  (void)events;
  (void)status;
  if (s->ended || s->hot) return;
  s->hot = true;
  s->last_ns = uv_hrtime();
  uv_idle_start(&s->idle, on_idle);
  uv_check_start(&s->check, on_check); /* runs later in this very turn of the loop */
}

static void cleanup(void *data);

/* What remains is the struct itself: JavaScript may still hold the functions, which find fd < 0. */
static void on_closed(uv_handle_t *handle) {
  session *s = handle->data;
  if (--s->open_handles > 0) return;
  napi_remove_env_cleanup_hook(s->env, cleanup, s);
  napi_async_destroy(s->env, s->context);
  napi_ref refs[] = { s->request_ref, s->reply_ref, s->on_request, s->on_end, s->receiver };
  for (size_t i = 0; i < sizeof refs / sizeof *refs; i++) napi_delete_reference(s->env, refs[i]);
  s->request = s->reply = NULL;
}

static void shut(session *s) {
  if (s->fd < 0) return;
  s->ended = true;
  cool(s);
  uv_close((uv_handle_t *)&s->poll, on_closed);
  uv_close((uv_handle_t *)&s->idle, on_closed);
  uv_close((uv_handle_t *)&s->check, on_closed);
  close(s->fd); /* the last one: the kernel aborts what waits */
  s->fd = -1;
}

static void end(session *s, int error) {
  if (s->ended) return;
  s->ended = true;
  cool(s);
  uv_poll_stop(&s->poll);
  call(s, s->on_end, error);
}

static session *session_of(napi_env env, napi_callback_info info, size_t *argc, napi_value *argv) {
  void *data = NULL;
  napi_get_cb_info(env, info, argc, argv, NULL, &data);
  return data;
}

/* send(length): the first `length` bytes of the reply area. Gives 0 or an errno. */
static napi_value send_reply(napi_env env, napi_callback_info info) {
  size_t argc = 1;
  napi_value argv[1];
  session *s = session_of(env, info, &argc, argv);
  int32_t length = 0;
  napi_get_value_int32(env, argv[0], &length);
  if (s->fd < 0) return number(env, ENODEV);
  if (length < 16 || (size_t)length > s->reply_size) return number(env, EINVAL);
  return number(env, write(s->fd, s->reply, (size_t)length) < 0 ? errno : 0);
}

static bool view(napi_env env, napi_value value, struct iovec *io) {
  void *data;
  size_t length;
  if (napi_get_typedarray_info(env, value, NULL, &length, &data, NULL, NULL) != napi_ok) return false;
  io->iov_base = data;
  io->iov_len = length;
  return true;
}

/* sendData(length, data): the reply area, then `data`, a Uint8Array or an array of at most 1,000. Gives 0 or an errno. */
static napi_value send_data(napi_env env, napi_callback_info info) {
  size_t argc = 2;
  napi_value argv[2];
  session *s = session_of(env, info, &argc, argv);
  struct iovec io[IOV_LIMIT];
  int32_t length = 0;
  uint32_t count = 0;
  napi_get_value_int32(env, argv[0], &length);
  if (s->fd < 0) return number(env, ENODEV);
  if (length < 0 || (size_t)length > s->reply_size) return number(env, EINVAL);
  int used = 0;
  if (length > 0) {
    io[0].iov_base = s->reply;
    io[0].iov_len = (size_t)length;
    used = 1;
  }
  if (view(env, argv[1], &io[used])) {
    used++;
  } else {
    if (napi_get_array_length(env, argv[1], &count) != napi_ok || count > IOV_LIMIT - 1) return number(env, EINVAL);
    for (uint32_t i = 0; i < count; i++) {
      napi_value element;
      napi_get_element(env, argv[1], i, &element);
      if (!view(env, element, &io[used])) return number(env, EINVAL);
      used++;
    }
  }
  return number(env, writev(s->fd, io, used) < 0 ? errno : 0);
}

/* notify(key, message): see notify.c. Gives the bytes now queued, or -1 when the queue is full. */
static napi_value notify(napi_env env, napi_callback_info info) {
  size_t argc = 2;
  napi_value argv[2];
  session *s = session_of(env, info, &argc, argv);
  uint32_t key = 0;
  struct iovec io;
  napi_get_value_uint32(env, argv[0], &key);
  if (s->fd < 0 || !view(env, argv[1], &io)) return number(env, 0);
  if (s->notifier == NULL) s->notifier = notifier_open(s->fd);
  if (s->notifier == NULL) return number(env, -1);
  return number(env, (double)notifier_push(s->notifier, key, io.iov_base, io.iov_len));
}

static napi_value notify_pending(napi_env env, napi_callback_info info) {
  size_t argc = 0;
  session *s = session_of(env, info, &argc, NULL);
  return number(env, s->notifier == NULL ? 0 : (double)notifier_pending(s->notifier));
}

static napi_value stop(napi_env env, napi_callback_info info) {
  size_t argc = 0;
  session *s = session_of(env, info, &argc, NULL);
  if (s->notifier != NULL) notifier_stop(s->notifier);
  s->notifier = NULL;
  if (s->warmer != NULL) warmer_close(s->warmer);
  s->warmer = NULL;
  shut(s);
  return NULL;
}

/* The environment goes while the session runs: only the kernel must be told, nothing of JavaScript may be touched. */
static void cleanup(void *data) {
  session *s = data;
  if (s->notifier != NULL) notifier_stop(s->notifier);
  s->notifier = NULL;
  if (s->warmer != NULL) warmer_close(s->warmer);
  s->warmer = NULL;
  if (s->fd >= 0) close(s->fd);
  s->fd = -1;
  s->ended = true;
}

static bool area(napi_env env, napi_value value, size_t least, napi_ref *ref, uint8_t **base, size_t *size) {
  void *data;
  if (napi_get_arraybuffer_info(env, value, &data, size) != napi_ok || *size < least) return false;
  *base = data;
  return napi_create_reference(env, value, 1, ref) == napi_ok;
}

/*
 * start(fd, request, reply, spinUs, onRequest, onEnd): takes the fd over.
 * Gives { offset, send, sendData, notify, pending, stop }; `offset` is where
 * requests begin in the request area (so that the data of a WRITE is page aligned).
 */
napi_value session_start(napi_env env, napi_callback_info info) {
  size_t argc = 6;
  napi_value argv[6], result, value, name;
  int32_t fd, spin_us;
  uv_loop_t *loop;
  session *s = calloc(1, sizeof *s);
  if (s == NULL) return fail(env, "out of memory");
  napi_get_cb_info(env, info, &argc, argv, NULL, NULL);
  if (argc != 6 || napi_get_value_int32(env, argv[0], &fd) != napi_ok ||
      !area(env, argv[1], 4 * PAGE, &s->request_ref, &s->request, &s->request_size) ||
      !area(env, argv[2], 4 * PAGE, &s->reply_ref, &s->reply, &s->reply_size) ||
      napi_get_value_int32(env, argv[3], &spin_us) != napi_ok ||
      napi_create_reference(env, argv[4], 1, &s->on_request) != napi_ok ||
      napi_create_reference(env, argv[5], 1, &s->on_end) != napi_ok ||
      napi_get_uv_event_loop(env, &loop) != napi_ok) {
    free(s);
    return fail(env, "start(fd, request, reply, spinUs, onRequest, onEnd)");
  }
  s->env = env;
  s->fd = fd;
  s->spin_limit_ns = s->spin_ns = (uint64_t)spin_us * 1000;
  if (spin_us > 0) s->warmer = warmer_open();
  size_t offset = (PAGE - ((uintptr_t)s->request + WRITE_HEADER) % PAGE) % PAGE;
  s->request += offset;
  s->request_size -= offset;
  napi_create_string_utf8(env, "dfs.fuse", NAPI_AUTO_LENGTH, &name);
  napi_create_object(env, &result);
  napi_create_reference(env, result, 1, &s->receiver);
  napi_async_init(env, result, name, &s->context);

  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  int error = uv_poll_init(loop, &s->poll, fd);
  if (error != 0) return fail(env, uv_strerror(error));
  uv_idle_init(loop, &s->idle);
  uv_check_init(loop, &s->check);
  s->poll.data = s->idle.data = s->check.data = s;
  s->open_handles = 3;
  uv_unref((uv_handle_t *)&s->idle);
  uv_unref((uv_handle_t *)&s->check);
  uv_poll_start(&s->poll, UV_READABLE, on_poll);
  napi_add_env_cleanup_hook(env, cleanup, s);

  napi_create_uint32(env, (uint32_t)offset, &value);
  napi_set_named_property(env, result, "offset", value);
  const struct { const char *name; napi_callback function; } methods[] = {
    { "send", send_reply }, { "sendData", send_data }, { "notify", notify }, { "pending", notify_pending }, { "stop", stop },
  };
  for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
    napi_create_function(env, methods[i].name, NAPI_AUTO_LENGTH, methods[i].function, s, &value);
    napi_set_named_property(env, result, methods[i].name, value);
  }
  return result;
}
