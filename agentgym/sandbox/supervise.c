/* The one process that agentgym keeps in a sandbox. Static, needs nothing from the image, has two faces:
 *
 *   supervise enter …  outside: joins the cgroups, opens a user namespace where it is not root, mounts the quota'd tmpfs with the
 *                      overlay on it, and becomes bwrap;
 *   supervise serve …  inside, as PID 1: runs commands one at a time over a pipe, as the agent's uid, without capabilities.
 *
 * As PID 1 of its namespace it cannot be signalled from inside, it is not dumpable (so neither traced nor read), and when its
 * standard input ends (the gym closed it, or was killed) it exits, and the kernel ends everything else with it.
 *
 * Wire format: little-endian. Requests are one letter and fields; strings are u32 length and bytes. See link.py, the other side.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

enum { TIMED_OUT = 1, OOM = 2, DISK = 4, AS_ROOT = 1, SEPARATE = 2, DEEPEST = 400, CHUNK = 1 << 16 };
#define END UINT64_MAX

static uid_t agent = 10001;
static int nested;            /* 1: the agent's uid is a user namespace of its own, since there is only one uid outside */
static int state_fd = -1;     /* the directory under the overlay, for snapshots; -1 where the engine keeps the layers */
static const char *oom_file;  /* a file with a line "oom_kill N" */
static uint64_t quota_bytes, quota_files; /* watched here only where the file system does not enforce them */
static const char *pids_file; /* a file with a line "max N" */

/* Small things */

static void die(const char *what) {
    dprintf(2, "agentgym-supervise: %s: %s\n", what, strerror(errno));
    _exit(125);
}

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static const char *given; /* what a child reads instead of standard input: the parent has taken it all in before */
static size_t given_left;

static void get(void *to, size_t n) { /* from standard input; its end is the end of the sandbox */
    if (given) {
        if (n > given_left) _exit(1);
        memcpy(to, given, n);
        given += n, given_left -= n;
        return;
    }
    for (char *p = to; n;) {
        ssize_t r = read(0, p, n);
        if (r > 0) p += r, n -= r;
        else if (r == 0 || errno != EINTR) _exit(0);
    }
}

static char out_buffer[CHUNK];
static size_t out_length;

static void flush(void) {
    for (size_t done = 0; done < out_length;) {
        ssize_t w = write(1, out_buffer + done, out_length - done);
        if (w > 0) done += w;
        else if (errno != EINTR) _exit(0);
    }
    out_length = 0;
}

static void put(const void *from, size_t n) {
    for (const char *p = from; n;) {
        size_t m = CHUNK - out_length < n ? CHUNK - out_length : n;
        memcpy(out_buffer + out_length, p, m);
        p += m, n -= m, out_length += m;
        if (out_length == CHUNK) flush();
    }
}

static uint32_t get32(void) { uint32_t v; get(&v, 4); return v; }
static uint64_t get64(void) { uint64_t v; get(&v, 8); return v; }
static void put32(uint32_t v) { put(&v, 4); }
static void put64(uint64_t v) { put(&v, 8); }

static char *get_string(void) {
    uint32_t n = get32();
    char *s = malloc((size_t)n + 1);
    if (!s) die("memory");
    get(s, n);
    s[n] = 0;
    return s;
}

static void put_string(const char *s) { put32(strlen(s)); put(s, strlen(s)); }

static int write_file(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t w = write(fd, text, strlen(text));
    close(fd);
    return w == (ssize_t)strlen(text) ? 0 : -1;
}

static int map_ids(uid_t inside, uid_t uid, gid_t gid) { /* one uid and one gid of the new namespace */
    char line[64];
    write_file("/proc/self/setgroups", "deny");
    snprintf(line, sizeof line, "%u %u 1", inside, uid);
    if (write_file("/proc/self/uid_map", line)) return -1;
    snprintf(line, sizeof line, "%u %u 1", inside, gid);
    return write_file("/proc/self/gid_map", line);
}

/* Becoming the agent */

#define DENY(name) \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##name, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)

static int filter_syscalls(void) { /* a second wall behind the missing capabilities: no namespaces, no kernel side doors */
#if defined(__x86_64__)
    const uint32_t arch = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
    const uint32_t arch = AUDIT_ARCH_AARCH64;
#else
#error "no system call filter for this machine"
#endif
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, arch, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
#if defined(__x86_64__)
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
#endif
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_clone3, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        DENY(unshare), DENY(setns), DENY(mount), DENY(umount2), DENY(pivot_root), DENY(open_by_handle_at), DENY(bpf), DENY(perf_event_open),
        DENY(userfaultfd), DENY(keyctl), DENY(add_key), DENY(request_key), DENY(io_uring_setup), DENY(io_uring_enter),
        DENY(io_uring_register), DENY(kexec_load), DENY(init_module), DENY(finit_module), DENY(delete_module), DENY(reboot), DENY(swapon),
        DENY(fsopen), DENY(fsmount), DENY(move_mount), DENY(open_tree), DENY(syslog), DENY(quotactl), DENY(acct),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_clone, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static void drop_capabilities(uint32_t kept) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct left[2] = {{kept, kept, 0}, {0, 0, 0}};
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    if (syscall(SYS_capset, &header, left)) die("dropping capabilities");
}

static void become(int root) { /* the agent, or root without privileges to gain, for good */
    if (!root)
        for (int c = 0; c < 64; c++) prctl(PR_CAPBSET_DROP, c, 0, 0, 0);
    if (nested && !root) { /* capabilities first: to write its own maps it must be dumpable, so the agent could attach to it */
        drop_capabilities(1U << CAP_SETFCAP); /* without it the kernel maps no root, not even to somebody else */
        prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
        if (unshare(CLONE_NEWUSER) || map_ids(agent, 0, 0)) die("the agent's user namespace");
    } else if (!root) {
        if (setgroups(0, NULL) || setresgid(agent, agent, agent) || setresuid(agent, agent, agent)) die("the agent's uid");
    }
    if (!root) drop_capabilities(0);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) die("no-new-privileges");
}

static void reset_signals(void) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int s = 1; s < 32; s++) signal(s, SIG_DFL);
}

/* Archives: what write, read, collect, snapshot and restore have in common */

struct packing {
    uint64_t bytes, files, most_bytes, most_files; /* so far, and at most */
    char path[1 << 16];
    size_t length;
    int overlay, device_set;
    dev_t device;
    char problem[256];
};

static int refuse(struct packing *p, const char *why) {
    if (!*p->problem) snprintf(p->problem, sizeof p->problem, "%.180s: %s", p->length ? p->path : ".", why);
    return -1;
}

static void put_head(struct packing *p, char type, const struct stat *s, int opaque) {
    put(&type, 1);
    put32(p->length);
    put(p->path, p->length);
    put32(s->st_mode & 07777);
    put32(s->st_uid);
    put64((uint64_t)s->st_mtim.tv_sec * 1000000000 + s->st_mtim.tv_nsec);
    put32(opaque);
}

static int pack_file(struct packing *p, int at, const char *name, const struct stat *s) {
    char buffer[CHUNK];
    int fd = openat(at, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return refuse(p, strerror(errno));
    put_head(p, 'f', s, 0);
    put64(s->st_size);
    for (off_t from = lseek(fd, 0, SEEK_DATA); from >= 0 && from < s->st_size;) { /* holes are not read: a file may claim to be 1 TB */
        off_t to = lseek(fd, from, SEEK_HOLE);
        if (to < 0 || to > s->st_size) to = s->st_size;
        while (from < to && p->bytes < p->most_bytes) {
            ssize_t r = pread(fd, buffer, to - from < CHUNK ? to - from : CHUNK, from);
            if (r <= 0) break;
            put64(from), put64(r), put(buffer, r);
            from += r, p->bytes += r;
        }
        if (from < to) break;
        from = lseek(fd, to, SEEK_DATA);
    }
    put64(END);
    close(fd);
    return p->bytes >= p->most_bytes ? refuse(p, "too many bytes") : 0;
}

static int pack(struct packing *p, int at, const char *name, int depth);

static int pack_directory(struct packing *p, int at, const char *name, const struct stat *s, int depth) {
    char opaque = 0;
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return refuse(p, strerror(errno));
    if (p->overlay && fgetxattr(fd, "user.overlay.opaque", &opaque, 1) != 1) opaque = 0;
    if (p->length) put_head(p, 'd', s, opaque == 'y');
    if (depth > DEEPEST) {
        close(fd);
        return refuse(p, "too deep");
    }
    DIR *dir = fdopendir(fd);
    if (!dir) return close(fd), refuse(p, strerror(errno));
    int bad = 0;
    size_t length = p->length;
    for (struct dirent *e; !bad && (e = readdir(dir));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        size_t n = strlen(e->d_name);
        if (length + n + 2 > sizeof p->path) {
            bad = refuse(p, "a path is too long");
            break;
        }
        p->length = length + sprintf(p->path + length, "%s%s", length ? "/" : "", e->d_name);
        bad = pack(p, fd, e->d_name, depth + 1);
        p->path[p->length = length] = 0;
    }
    closedir(dir);
    return bad;
}

static int pack(struct packing *p, int at, const char *name, int depth) {
    struct stat s;
    if (fstatat(at, name, &s, AT_SYMLINK_NOFOLLOW)) return refuse(p, strerror(errno));
    if (!p->device_set) p->device = s.st_dev, p->device_set = 1;
    if (++p->files > p->most_files) return refuse(p, "too many files");
    if (S_ISDIR(s.st_mode)) return s.st_dev == p->device ? pack_directory(p, at, name, &s, depth) : 0;
    if (S_ISREG(s.st_mode)) return pack_file(p, at, name, &s);
    if (S_ISLNK(s.st_mode)) {
        char target[4096];
        ssize_t n = readlinkat(at, name, target, sizeof target);
        if (n < 0) return refuse(p, strerror(errno));
        put_head(p, 'l', &s, 0);
        put32(n), put(target, n);
    } else if (S_ISCHR(s.st_mode) && s.st_rdev == 0) put_head(p, 'w', &s, 0); /* an overlay's mark of a removed file */
    else put_head(p, S_ISFIFO(s.st_mode) ? 'p' : 'o', &s, 0);
    return 0;
}

static void pack_end(struct packing *p) {
    char end = 0;
    put(&end, 1);
    put_string(p->problem);
}

/* Opens the directory of a path below `at`, making what is missing, following no link; the last name is left in *name. */
static int open_parent(int at, char *path, char **name, uid_t owner) {
    int fd = fcntl(at, F_DUPFD_CLOEXEC, 3);
    for (char *slash; fd >= 0 && (slash = strchr(path, '/')); path = slash + 1) {
        *slash = 0;
        if (!*path || !strcmp(path, ".")) continue;
        if (!strcmp(path, "..")) { close(fd); errno = EINVAL; return -1; }
        if (!mkdirat(fd, path, 0755) && fchownat(fd, path, owner, owner, 0)) { /* a nested agent is its own owner */ }
        int next = openat(fd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        close(fd);
        fd = next;
    }
    *name = path;
    if (!*path || !strcmp(path, "..")) { errno = EINVAL; if (fd >= 0) close(fd); return -1; }
    return fd;
}

static int unpack_file(int fd, const char *name, mode_t mode) { /* the extents must be read whatever happens */
    char buffer[CHUNK];
    uint64_t size = get64();
    int out = fd < 0 ? -1 : openat(fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600), problem = out < 0 ? errno : 0;
    if (out >= 0 && ftruncate(out, size)) problem = errno;
    for (uint64_t from; (from = get64()) != END;)
        for (uint64_t left = get64(); left;) {
            size_t n = left < CHUNK ? left : CHUNK;
            get(buffer, n);
            if (out >= 0 && !problem && pwrite(out, buffer, n, from) != (ssize_t)n) problem = errno ? errno : EIO;
            from += n, left -= n;
        }
    if (out >= 0) {
        if (fchmod(out, mode)) problem = errno;
        close(out);
    }
    return errno = problem, problem ? -1 : 0;
}

/* Writes the records of an archive, read from standard input, below `at`. What is in the way is removed, links are never followed. */
static void unpack(int at, int owner_given, uid_t owner, char *problem, size_t room) {
    for (char type; get(&type, 1), type;) {
        char *path = get_string(), *name = path, shown[200];
        snprintf(shown, sizeof shown, "%s", path);
        mode_t mode = get32();
        uid_t uid = get32();
        struct timespec times[2] = {{0, UTIME_OMIT}, {0, 0}};
        uint64_t mtime = get64();
        uint32_t opaque = get32();
        if (owner_given) uid = owner;
        times[1].tv_sec = mtime / 1000000000, times[1].tv_nsec = mtime % 1000000000;
        int fd = open_parent(at, path, &name, uid), bad = fd < 0;
        if (!bad && unlinkat(fd, name, 0) && errno != ENOENT && (errno == EISDIR || errno == EPERM) && type != 'd') bad = unlinkat(fd, name, AT_REMOVEDIR);
        if (type == 'f') bad |= unpack_file(bad ? -1 : fd, name, mode);
        else if (type == 'l') {
            char *target = get_string();
            if (!bad) bad = symlinkat(target, fd, name);
            free(target);
        } else if (bad) bad = 1;
        else if (type == 'd') {
            if ((bad = mkdirat(fd, name, 0700) && errno != EEXIST) == 0) {
                int dir = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                bad = dir < 0 || fchmod(dir, mode);
                if (opaque && dir >= 0) bad |= fsetxattr(dir, "user.overlay.opaque", "y", 1, 0);
                if (dir >= 0) close(dir);
            }
        } else if (type == 'w') bad = mknodat(fd, name, S_IFCHR, makedev(0, 0));
        else if (type == 'p') bad = mkfifoat(fd, name, mode);
        if (!bad) {
            if (!nested && geteuid() == 0) bad = fchownat(fd, name, uid, uid, AT_SYMLINK_NOFOLLOW);
            utimensat(fd, name, times, AT_SYMLINK_NOFOLLOW);
        }
        if (bad && !*problem) snprintf(problem, room, "%s: %s", shown, strerror(errno));
        if (fd >= 0) close(fd);
        free(path);
    }
}

/* Running a command */

struct stream {
    int fd;
    uint64_t total;
    char *head, *tail;
    uint32_t head_size, tail_size;
};

static void keep(struct stream *s, const char *data, size_t n) { /* the first head_size bytes, and the last tail_size of the rest */
    uint64_t before = s->total;
    s->total += n;
    if (before < s->head_size) {
        size_t m = s->head_size - before < n ? s->head_size - before : n;
        memcpy(s->head + before, data, m);
        data += m, n -= m, before += m;
    }
    if (n > s->tail_size) before += n - s->tail_size, data += n - s->tail_size, n = s->tail_size;
    while (n) {
        size_t at = (before - s->head_size) % s->tail_size, m = s->tail_size - at < n ? s->tail_size - at : n;
        memcpy(s->tail + at, data, m);
        data += m, n -= m, before += m;
    }
}

static int drain(struct stream *s, int most) { /* 0 once it has ended */
    char buffer[CHUNK];
    while (most--) {
        ssize_t r = read(s->fd, buffer, sizeof buffer);
        if (r > 0) keep(s, buffer, r);
        else if (r == 0) return 0;
        else if (errno != EINTR) return 1;
    }
    return 1;
}

static void put_stream(struct stream *s) {
    uint64_t rest = s->total > s->head_size ? s->total - s->head_size : 0;
    uint32_t head = s->total < s->head_size ? s->total : s->head_size, tail = rest < s->tail_size ? rest : s->tail_size;
    uint32_t from = rest > s->tail_size ? rest % s->tail_size : 0;
    put64(s->total), put32(head), put32(tail);
    put(s->head, head);
    put(s->tail + from, tail - from);
    put(s->tail, from);
}

static uint64_t counter(const char *path, const char *key, int column) { /* a number behind a key, as in cgroup and /proc/net files */
    char text[8192], *at = text;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n < 0 ? 0 : n] = 0;
    for (; (at = strstr(at, key)); at += strlen(key))
        if (at == text || at[-1] == '\n') {
            at += strlen(key);
            for (char *end; column--; at = end) {
                while (*at == ' ' || *at == '\t') at++;
                for (end = at; *end > ' '; end++) {}
            }
            return strtoull(at, NULL, 10);
        }
    return 0;
}

static uint64_t refused_so_far(void) { /* lookups of a route that is not there: attempts to reach the network. The header line comes first */
    static int column = -2;
    char text[4096], *at;
    int fd = open("/proc/self/net/snmp", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n < 0 ? 0 : n] = 0;
    if (column == -2) {
        column = -1;
        char *line = strndup(text, strcspn(text, "\n")), *save, *word = strtok_r(line, " ", &save);
        for (int i = 0; word; word = strtok_r(NULL, " ", &save), i++)
            if (!strcmp(word, "OutNoRoutes")) column = i;
        free(line);
    }
    if (column < 0 || !(at = strchr(text, '\n'))) return 0;
    for (int i = 0; at && i < column; i++) at = strchr(at + 1, ' ');
    return (at ? strtoull(at + 1, NULL, 10) : 0) + counter("/proc/self/net/snmp6", "Ip6OutNoRoutes", 0);
}

static uint64_t used_bytes, used_files; /* by the agent, at the last walk */

static void measure(int fd, int depth) {
    DIR *dir = fdopendir(fd);
    if (!dir) return (void)close(fd);
    for (struct dirent *e; (e = readdir(dir));) {
        struct stat s;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || fstatat(fd, e->d_name, &s, AT_SYMLINK_NOFOLLOW)) continue;
        if (s.st_uid == agent) used_bytes += (uint64_t)s.st_blocks * 512 / (s.st_nlink ? s.st_nlink : 1), used_files++;
        if (S_ISDIR(s.st_mode) && depth < DEEPEST) {
            int next = openat(fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (next >= 0) measure(next, depth + 1);
        }
    }
    closedir(dir);
}

static int over_quota(int look) { /* the file system's own numbers tell cheaply whether a walk is worth it */
    static uint64_t blocks, files;
    static const char *const places[] = {"/work", "/tmp", "/home", "/var/tmp"};
    struct statvfs v;
    if (!quota_bytes || statvfs("/work", &v)) return 0;
    uint64_t b = (uint64_t)(v.f_blocks - v.f_bfree) * v.f_frsize, f = v.f_files - v.f_ffree;
    uint64_t room = used_bytes < quota_bytes ? (quota_bytes - used_bytes) / 2 : 0;
    if (!look && b < blocks + room + (1 << 20) && f < files + quota_files / 8 + 64) return 0;
    blocks = b, files = f, used_bytes = used_files = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        int fd = open(places[i], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0) measure(fd, 0);
    }
    return used_bytes > quota_bytes || used_files > quota_files;
}

static uint32_t end_all(void) { /* everything but this process, however it was forked; how many there were */
    uint32_t ended = 0;
    for (;;) {
        kill(-1, SIGKILL);
        pid_t p = waitpid(-1, NULL, WNOHANG);
        if (p > 0) ended++;
        else if (p < 0 && errno == ECHILD) return ended;
        else usleep(200);
    }
}

/* Whether the limit of processes was met since the last look. What met it is ended: left behind it would starve every later command. */
static uint32_t end_bomb(void) {
    static uint64_t met_before;
    uint64_t met = pids_file ? counter(pids_file, "max ", 0) : 0;
    uint32_t ended = met > met_before ? end_all() : 0;
    met_before = met;
    return ended;
}

static void start(char **argv, char **env, const char *cwd, int flags, int out, int err, uint64_t file_size) {
    struct rlimit core = {0, 0}, size = {file_size, file_size}, open_files = {1024, 4096};
    int null = open("/dev/null", O_RDONLY);
    reset_signals();
    setsid();
    write_file("/proc/self/oom_score_adj", "1000");
    setrlimit(RLIMIT_CORE, &core);
    if (file_size) setrlimit(RLIMIT_FSIZE, &size);
    setrlimit(RLIMIT_NOFILE, &open_files);
    dup2(null, 0), dup2(out, 1), dup2(err, 2);
    become(flags & AS_ROOT);
    umask(022);
    if (filter_syscalls()) die("the system call filter");
    syscall(SYS_close_range, 3, ~0U, 0);
    if (chdir(cwd)) {
        dprintf(2, "%s: %s\n", cwd, strerror(errno));
        _exit(126);
    }
    execvpe(argv[0], argv, env);
    dprintf(2, "%s: %s\n", argv[0], strerror(errno));
    _exit(errno == ENOENT ? 127 : 126);
}

static char **get_list(void) {
    uint32_t n = get32();
    char **list = calloc((size_t)n + 1, sizeof *list);
    for (uint32_t i = 0; i < n; i++) list[i] = get_string();
    return list;
}

static void free_list(char **list) {
    for (char **p = list; *p; p++) free(*p);
    free(list);
}

static void run(int signals) {
    static uint64_t oom_before, refused_before;
    uint32_t timeout_ms = get32(), head = get32(), tail = get32(), flags = get32();
    uint64_t file_size = get64();
    char *cwd = get_string(), **argv = get_list(), **env = get_list();
    struct stream streams[2];
    int n = flags & SEPARATE ? 2 : 1, ends[2] = {-1, -1}, status = 0, what = 0;
    for (int i = 0; i < n; i++) {
        int pair[2];
        if (pipe2(pair, O_CLOEXEC)) die("pipe");
        fcntl(pair[0], F_SETFL, O_NONBLOCK);
        streams[i] = (struct stream){pair[0], 0, malloc(head + 1), malloc(tail + 1), head, tail ? tail : 1};
        ends[i] = pair[1];
    }
    if (quota_bytes) over_quota(1);
    uint64_t began = now_us(), until = began + timeout_ms * 1000ULL, used_before = used_bytes, files_before = used_files, checked = began;
    end_bomb();
    pid_t child = fork();
    if (child < 0) end_all(), child = fork();
    if (child == 0) start(argv, env, cwd, flags, ends[0], ends[n - 1], file_size);
    for (int i = 0; i < n; i++) close(ends[i]);
    uint32_t ended = 0;
    for (int running = child > 0; running;) {
        uint64_t t = now_us();
        if (t >= until) what |= TIMED_OUT;
        if (quota_bytes && t - checked > 50000) {
            checked = t;
            if (over_quota(0) && (used_bytes > used_before || used_files > files_before)) what |= DISK;
        }
        if (what) break;
        uint64_t wait = (until - t) / 1000 + 1;
        if (quota_bytes && wait > 50) wait = 50;
        struct pollfd fds[4] = {{0, POLLRDHUP, 0}, {signals, POLLIN, 0}, {streams[0].fd, POLLIN, 0}, {n > 1 ? streams[1].fd : -1, POLLIN, 0}};
        poll(fds, 4, wait);
        if (fds[0].revents & (POLLHUP | POLLERR | POLLRDHUP)) _exit(0); /* the gym has gone */
        for (int i = 0; i < n; i++)
            if (fds[2 + i].revents && !drain(&streams[i], 16)) close(streams[i].fd), streams[i].fd = -1;
        if (fds[1].revents) {
            struct signalfd_siginfo info;
            if (read(signals, &info, sizeof info) < 0) {}
            for (pid_t p; (p = waitpid(-1, &status, WNOHANG)) > 0;)
                if (p == child) {
                    running = 0;
                    break;
                }
        }
    }
    uint64_t took = now_us() - began;
    if (what) ended = end_all(), status = SIGKILL;
    else ended = end_bomb();
    if (child < 0) status = 126 << 8;
    for (int i = 0; i < n; i++)
        if (streams[i].fd >= 0) drain(&streams[i], 64), close(streams[i].fd);
    if (oom_file) {
        uint64_t oom = counter(oom_file, "oom_kill ", 0);
        if (oom > oom_before) what |= OOM;
        oom_before = oom;
    }
    uint64_t refused = refused_so_far();
    put32(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    put32(what), put32(ended), put32(refused - refused_before), put64(took), put32(n);
    refused_before = refused;
    for (int i = 0; i < n; i++) {
        put_stream(&streams[i]);
        free(streams[i].head), free(streams[i].tail);
    }
    free(cwd), free_list(argv), free_list(env);
}

/* Runs `work` in a child whose output comes back in chunks (u32 length, bytes; 0 ends), and then the child's wait status. */
static void relay(void (*work)(void *), void *argument) {
    int pair[2];
    char buffer[CHUNK];
    if (pipe2(pair, O_CLOEXEC)) die("pipe");
    flush();
    pid_t child = fork();
    if (child == 0) {
        reset_signals();
        dup2(pair[1], 1);
        close(pair[1]);
        work(argument);
        flush();
        _exit(0);
    }
    close(pair[1]);
    for (ssize_t n; child > 0 && ((n = read(pair[0], buffer, sizeof buffer)) > 0 || (n < 0 && errno == EINTR));)
        if (n > 0) put32(n), put(buffer, n);
    close(pair[0]);
    int status = -1;
    if (child > 0) waitpid(child, &status, 0);
    put32(0), put32(status);
}

/* File requests run in a child that has become the agent: what the agent may not touch, the gym does not touch for it. */
struct request {
    uint32_t flags;
    char *path, *archive;
    uint64_t most_bytes, most_files, length;
};

static void collect(void *argument) {
    struct request *r = argument;
    struct packing *p = calloc(1, sizeof *p);
    become(r->flags & AS_ROOT);
    p->most_bytes = r->most_bytes, p->most_files = r->most_files;
    pack(p, AT_FDCWD, r->path, 0);
    pack_end(p);
}

static void store(void *argument) {
    struct request *r = argument;
    char problem[256] = "";
    become(r->flags & AS_ROOT);
    umask(0);
    given = r->archive, given_left = r->length;
    int at = open(r->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (at < 0) snprintf(problem, sizeof problem, "%.180s: %s", r->path, strerror(errno));
    unpack(at, 1, r->flags & AS_ROOT ? 0 : agent, problem, sizeof problem);
    put_string(problem);
}

static void layer(void *argument) { /* what differs from the lower layer: work, tmp and home on the tmpfs */
    static const char *const parts[] = {"work", "tmp", "home"};
    struct packing *p = calloc(1, sizeof *p);
    (void)argument;
    p->most_bytes = p->most_files = UINT64_MAX, p->overlay = 1;
    for (int i = 0; i < 3 && !*p->problem; i++) {
        p->length = sprintf(p->path, "%s", parts[i]);
        pack(p, state_fd, parts[i], 0);
    }
    pack_end(p);
}

static void ask(void *argument) { /* a service of the agent's on a Unix socket: what is given goes there, what comes back until its end is the answer */
    struct request *r = argument;
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    char buffer[CHUNK];
    become(0);
    alarm(r->flags); /* seconds */
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(at.sun_path, sizeof at.sun_path, "%s", r->path);
    if (fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof at)) _exit(1);
    for (uint64_t done = 0; done < r->length;) {
        ssize_t w = send(fd, r->archive + done, r->length - done, MSG_NOSIGNAL);
        if (w > 0) done += w;
        else if (errno != EINTR) _exit(1);
    }
    shutdown(fd, SHUT_WR);
    for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0 || (n < 0 && errno == EINTR);)
        if (n > 0) put(buffer, n);
}

static void files(char letter) { /* the whole request is read here: were the child killed half-way, the rest would be taken for requests */
    struct request r = {get32(), get_string(), NULL, 0, 0, 0};
    if (letter == 'r') r.most_bytes = get64(), r.most_files = get64();
    else {
        r.length = get64();
        if (!(r.archive = malloc(r.length + 1))) die("memory");
        get(r.archive, r.length);
    }
    relay(letter == 'r' ? collect : letter == 'w' ? store : ask, &r);
    free(r.path), free(r.archive);
}

static int serve(int argc, char **argv) {
    for (int i = 0; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--agent")) agent = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--nested")) nested = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--oom")) oom_file = argv[i + 1];
        else if (!strcmp(argv[i], "--state")) state_fd = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--quota")) quota_bytes = strtoull(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--files")) quota_files = strtoull(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--pids")) pids_file = argv[i + 1];
    }
    struct rlimit many = {4096, 4096};
    setrlimit(RLIMIT_NOFILE, &many);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    if (getpid() != 1) return dprintf(2, "agentgym-supervise: serve must be PID 1\n"), 125;
    for (int fd = 3; fd < 64; fd++) fcntl(fd, F_SETFD, FD_CLOEXEC);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    put("gym1", 4), flush();
    for (;;) {
        struct pollfd fds[2] = {{0, POLLIN, 0}, {signals, POLLIN, 0}};
        poll(fds, 2, -1);
        if (fds[1].revents) {
            struct signalfd_siginfo info;
            if (read(signals, &info, sizeof info) < 0) {}
            while (waitpid(-1, NULL, WNOHANG) > 0) {}
        }
        if (!fds[0].revents) continue;
        char request;
        get(&request, 1);
        if (request == 'x') run(signals);
        else if (request == 'w' || request == 'r' || request == 'a') files(request);
        else if (request == 's' && state_fd >= 0) put32(end_all()), relay(layer, NULL);
        else if (request == 'k') put32(end_all());
        else _exit(1);
        flush();
    }
}

/* Outside: from the gym's process to bwrap */

static void make_directory(const char *base, const char *name, mode_t mode, char *path) {
    snprintf(path, 4096, "%s/%s", base, name);
    if (mkdir(path, mode) || chmod(path, mode) || (!nested && chown(path, agent, agent))) die(path);
}

static void mount_work(const char *base, const char *lower, const char *upper) { /* an overlay of lower and upper, or a copy */
    char merged[4096], inner[4096], options[3 * 4096];
    snprintf(merged, sizeof merged, "%s/merged", base);
    snprintf(inner, sizeof inner, "%s/inner", base);
    if (mkdir(merged, 0755) || mkdir(inner, 0700)) die(merged);
    if (!*lower) {
        if (mount(upper, merged, NULL, MS_BIND, NULL)) die("binding the work folder");
        return;
    }
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s,userxattr", lower, upper, inner);
    int marks = !setxattr(upper, "user.probe", "y", 1, 0) && !removexattr(upper, "user.probe"); /* tmpfs has them since Linux 6.6 */
    if (marks && !mount("agentgym", merged, "overlay", MS_NOSUID | MS_NODEV, options)) return;
    pid_t child = fork(); /* the kernel refuses an overlay here: copy the tree */
    if (child == 0) {
        char from[4096];
        snprintf(from, sizeof from, "%s/.", lower);
        execlp("cp", "cp", "-a", from, upper, NULL);
        _exit(1);
    }
    int status;
    if (waitpid(child, &status, 0) != child || status) die("copying the tree");
    if (mount(upper, merged, NULL, MS_BIND, NULL)) die("binding the work folder");
}

static int enter(int argc, char **argv) {
    const char *base = "/tmp", *lower = "", *size = "1073741824", *inodes = "200000";
    char options[256], path[4096], upper[4096];
    int restore = -1, i = 0;
    for (; i + 1 < argc && strcmp(argv[i], "--"); i += 2) {
        if (!strcmp(argv[i], "--cgroup")) {
            if (write_file(argv[i + 1], "0")) die(argv[i + 1]);
        } else if (!strcmp(argv[i], "--at")) base = argv[i + 1];
        else if (!strcmp(argv[i], "--lower")) lower = argv[i + 1];
        else if (!strcmp(argv[i], "--size")) size = argv[i + 1];
        else if (!strcmp(argv[i], "--inodes")) inodes = argv[i + 1];
        else if (!strcmp(argv[i], "--agent")) agent = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--restore")) restore = atoi(argv[i + 1]);
    }
    uid_t uid = geteuid();
    gid_t gid = getegid();
    umask(022);
    nested = uid != 0;
    if (nested ? unshare(CLONE_NEWUSER | CLONE_NEWNS) || map_ids(0, uid, gid) : unshare(CLONE_NEWNS)) die("a new namespace");
    if (mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL)) die("private mounts");
    snprintf(options, sizeof options, "size=%s,nr_inodes=%s,mode=0755", size, inodes);
    if (mount("agentgym", base, "tmpfs", MS_NOSUID | MS_NODEV, options)) die("mounting the quota'd tmpfs");
    make_directory(base, "work", 0755, upper);
    make_directory(base, "tmp", 01777, path);
    make_directory(base, "home", 0755, path);
    make_directory(base, "shm", 01777, path);
    if (restore >= 0) { /* before the overlay is mounted over it */
        char problem[256] = "";
        int at = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC), input = fcntl(0, F_DUPFD_CLOEXEC, 3);
        lseek(restore, 0, SEEK_SET);
        dup2(restore, 0);
        unpack(at, 0, 0, problem, sizeof problem);
        if (*problem) return dprintf(2, "agentgym-supervise: restoring %s\n", problem), 125;
        dup2(input, 0), close(at), close(restore), close(input);
    }
    mount_work(base, lower, upper);
    int fd = open(base, O_RDONLY | O_DIRECTORY);
    if (dup2(fd, 9) != 9) die("the state folder");
    if (fd != 9) close(fd);
    execvp(argv[i + 1], argv + i + 1);
    die(argv[i + 1]);
    return 125;
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "enter")) return enter(argc - 2, argv + 2);
    if (argc > 1 && !strcmp(argv[1], "serve")) return serve(argc - 2, argv + 2);
    return dprintf(2, "agentgym-supervise: enter or serve\n"), 125;
}
