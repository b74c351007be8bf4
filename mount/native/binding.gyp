{
  "targets": [{
    "target_name": "dfs",
    "sources": ["session.c", "notify.c", "system.c", "warm.c"],
    "cflags": ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-fvisibility=hidden"]
  }]
}
