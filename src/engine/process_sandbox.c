/* SPDX-License-Identifier: Apache-2.0 */
/* process_sandbox.c - landlock and seccomp by hand: the headers of older systems lack what newer kernels can.
 *
 * The uid may not read the model (the node's files are its own), so of root's powers one is kept where it must:
 * reading what permissions forbid (CAP_DAC_READ_SEARCH). Landlock still limits that to the named files, and seccomp
 * takes away the calls that open files by other means than paths. Descriptors that /proc/self/fd names stay open.
 *
 * seccomp is a list of what is refused, with EPERM, not of what is allowed: libraries that drive accelerators call
 * what we cannot know. Calls of another architecture end the process.
 */
#include "engine/process_sandbox.h"

#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NOBODY 65534u

/* ---- landlock (Documentation/userspace-api/landlock.rst) ----------------------------------------- */

#ifndef __NR_landlock_create_ruleset
#define __NR_landlock_create_ruleset 444
#define __NR_landlock_add_rule 445
#define __NR_landlock_restrict_self 446
#endif

struct ruleset { /* struct landlock_ruleset_attr as of ABI 6 */
	uint64_t fs, net, scoped;
};

struct rule { /* struct landlock_path_beneath_attr */
	uint64_t allowed;
	int32_t fd;
} __attribute__((packed));

enum {
	FS_EXECUTE = 1 << 0,
	FS_WRITE_FILE = 1 << 1,
	FS_READ_FILE = 1 << 2,
	FS_READ_DIR = 1 << 3,
	FS_REMOVE_DIR = 1 << 4,
	FS_REMOVE_FILE = 1 << 5,
	FS_MAKE_DIR = 1 << 7,
	FS_MAKE_REG = 1 << 8,
	FS_REFER = 1 << 13,    /* ABI 2 */
	FS_TRUNCATE = 1 << 14, /* ABI 3 */
	FS_IOCTL = 1 << 15,    /* ABI 5 */
	FS_ABI_1 = (1 << 13) - 1,
	FS_OF_FILES = FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL,
	FS_FOLDER = FS_READ_FILE | FS_READ_DIR | FS_WRITE_FILE | FS_REMOVE_FILE | FS_REMOVE_DIR | FS_MAKE_DIR |
	            FS_MAKE_REG | FS_REFER | FS_TRUNCATE,
};

/* What a C program, its libraries and an accelerator's driver read, and the devices they use. */
static const char *const system_reads[] = {"/usr/lib",
                                           "/lib",
                                           "/lib64",
                                           "/usr/local/lib",
                                           "/etc/ld.so.cache",
                                           "/etc/localtime",
                                           "/usr/share/zoneinfo",
                                           "/proc/meminfo",
                                           "/proc/cpuinfo",
                                           "/proc/self",
                                           "/proc/stat",
                                           "/sys/devices/system",
                                           "/sys/fs/cgroup",
                                           "/sys/bus/pci",
                                           "/sys/devices/pci*",
                                           "/proc/driver/nvidia",
                                           "/usr/share/vulkan",
                                           "/etc/vulkan"};
static const char *const devices[] = {"/dev/null",    "/dev/zero", "/dev/urandom", "/dev/random",
                                      "/dev/nvidia*", "/dev/dri",  "/dev/kfd"};

static void landlock_allow(int rules, const char *path, uint64_t allowed, uint64_t handled)
{
	struct stat st;
	struct rule rule = {.allowed = allowed & handled, .fd = open(path, O_PATH | O_CLOEXEC)};

	if (rule.fd < 0)
		return;
	if (fstat(rule.fd, &st) == 0 && !S_ISDIR(st.st_mode))
		rule.allowed &= FS_OF_FILES;
	/* Files in memory have no path; they are not landlock's business, and it says so (EBADFD). */
	syscall(__NR_landlock_add_rule, rules, 1, &rule, 0);
	close(rule.fd);
}

static void landlock_allow_like(int rules, const char *pattern, uint64_t allowed, uint64_t handled)
{
	glob_t found;

	if (glob(pattern, 0, NULL, &found))
		return;
	for (size_t i = 0; i < found.gl_pathc; i++)
		landlock_allow(rules, found.gl_pathv[i], allowed, handled);
	globfree(&found);
}

static bool landlock_enter(const struct sandbox *s, struct error *err)
{
	long abi = syscall(__NR_landlock_create_ruleset, NULL, 0, 1);
	struct ruleset attr = {.fs = FS_ABI_1};
	size_t size = abi >= 6 ? 24 : abi >= 4 ? 16 : 8;

	if (abi < 1)
		return false;
	attr.fs |= (abi >= 2 ? FS_REFER : 0) | (abi >= 3 ? FS_TRUNCATE : 0) | (abi >= 5 ? FS_IOCTL : 0);
	attr.net = 3;    /* bind and connect, TCP */
	attr.scoped = 3; /* abstract unix sockets, signals */
	int rules = (int)syscall(__NR_landlock_create_ruleset, &attr, size, 0);
	if (rules < 0)
		return false;
	for (size_t i = 0; i < sizeof(system_reads) / sizeof(*system_reads); i++)
		landlock_allow_like(rules, system_reads[i], FS_READ_FILE | FS_READ_DIR, attr.fs);
	for (size_t i = 0; i < sizeof(devices) / sizeof(*devices); i++)
		landlock_allow_like(rules, devices[i], FS_READ_FILE | FS_READ_DIR | FS_WRITE_FILE | FS_IOCTL, attr.fs);
	for (size_t i = 0; i < s->read_count; i++)
		landlock_allow(rules, s->reads[i], FS_READ_FILE | FS_READ_DIR, attr.fs);
	if (s->folder)
		landlock_allow(rules, s->folder, FS_FOLDER, attr.fs);
	long rc = syscall(__NR_landlock_restrict_self, rules, 0);
	if (rc < 0)
		error_errno(err, errno, "landlock refused");
	close(rules);
	return rc == 0;
}

/* ---- who -------------------------------------------------------------------------------------------- */

static int uid_of(const char *user, uid_t *ret_uid, gid_t *ret_gid, struct error *err)
{
	uint64_t number;

	if (!user[0]) {
		*ret_uid = *ret_gid = SANDBOX_UID;
		return 0;
	}
	if (!str_to_u64(str_from(user), &number) && number < UINT32_MAX) {
		struct passwd *by_number = getpwuid((uid_t)number);
		*ret_uid = (uid_t)number;
		*ret_gid = by_number ? by_number->pw_gid : (gid_t)number;
		return 0;
	}
	struct passwd *p = getpwnam(user);
	if (!p)
		return error_set(err, E_INVAL,
		                 "engine_user: there is no user \"%.64s\" here; make it, or leave it empty", user);
	*ret_uid = p->pw_uid;
	*ret_gid = p->pw_gid;
	return 0;
}

/* Through descriptors, and no links: whoever may already write in the folder must not choose what root gives away. */
static void entries_give(int dir_fd, uid_t uid, gid_t gid, int depth)
{
	DIR *dir = fdopendir(dir_fd);
	struct stat st;

	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		int fd = openat(dir_fd, entry->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
		if (fd < 0 || fstat(fd, &st)) {
			close(fd);
			continue;
		}
		bool folder = S_ISDIR(st.st_mode), plain = S_ISREG(st.st_mode) && st.st_nlink == 1;
		if (st.st_uid != uid && (folder || plain) && fchown(fd, uid, gid))
			depth = 0;
		if (folder && depth > 0)
			entries_give(fd, uid, gid, depth - 1);
		else
			close(fd);
	}
	if (dir)
		closedir(dir);
	else
		close(dir_fd);
}

static void folder_give(const char *folder, uid_t uid, gid_t gid)
{
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd >= 0 && fchown(fd, uid, gid) == 0)
		entries_give(fd, uid, gid, 2);
	else if (fd >= 0)
		close(fd);
}

static bool reaches_all(const struct sandbox *s)
{
	int folder = s->folder ? open(s->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

	if (s->folder && folder < 0 && errno == EACCES)
		return false;
	if (folder >= 0)
		close(folder);
	for (size_t i = 0; i < s->read_count; i++) {
		int fd = open(s->reads[i], O_RDONLY | O_CLOEXEC);
		if (fd < 0 && errno == EACCES)
			return false;
		if (fd >= 0)
			close(fd);
	}
	return true;
}

static bool set_powers(uint64_t effective, uint64_t permitted)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {{(uint32_t)effective, (uint32_t)permitted, 0},
	                                         {(uint32_t)(effective >> 32), (uint32_t)(permitted >> 32), 0}};

	return syscall(SYS_capset, &head, data) == 0;
}

static bool become(uid_t uid, gid_t gid)
{
	return setgroups(0, NULL) == 0 && setresgid(gid, gid, gid) == 0 && setresuid(uid, uid, uid) == 0;
}

/* From root to the user; where a container knows no such number, to nobody. */
static void user_enter(const struct sandbox *s, uid_t uid, gid_t gid, struct buf *missing)
{
	static const uint64_t may_read = UINT64_C(1) << CAP_DAC_READ_SEARCH;

	if (s->folder)
		folder_give(s->folder, uid, gid);
	prctl(PR_SET_KEEPCAPS, 1);
	if (!become(uid, gid)) {
		if (s->folder)
			folder_give(s->folder, NOBODY, NOBODY);
		if (!become(NOBODY, NOBODY))
			buf_printf(missing, "%sanother uid (%s)", missing->len ? ", " : "", strerror(errno));
	}
	set_powers(0, may_read);
	uint64_t needed = reaches_all(s) ? 0 : may_read;
	set_powers(needed, needed);
}

/* ---- seccomp ------------------------------------------------------------------------------------------ */

#if defined(__x86_64__)
#define OWN_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OWN_ARCH AUDIT_ARCH_AARCH64
#endif

static const int refused[] = {
    /* the network, and other processes' sockets */
    SYS_socket,
    SYS_socketpair,
    SYS_connect,
    SYS_bind,
    SYS_listen,
    SYS_accept,
    SYS_accept4,
    /* programs and processes */
    SYS_execve,
    SYS_execveat,
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_kcmp,
    SYS_kill,
    SYS_tkill,
    SYS_rt_sigqueueinfo,
    SYS_rt_tgsigqueueinfo,
    SYS_setpgid,
    SYS_setsid,
#ifdef SYS_fork
    SYS_fork,
    SYS_vfork,
#endif
#ifdef SYS_pidfd_open
    SYS_pidfd_open,
    SYS_pidfd_send_signal,
#endif
#ifdef SYS_pidfd_getfd
    SYS_pidfd_getfd,
#endif
    /* who it is */
    SYS_setuid,
    SYS_setgid,
    SYS_setreuid,
    SYS_setregid,
    SYS_setresuid,
    SYS_setresgid,
    SYS_setfsuid,
    SYS_setfsgid,
    SYS_setgroups,
    SYS_capset,
    SYS_personality,
    /* files otherwise than by path, and where they are */
    SYS_open_by_handle_at,
    SYS_name_to_handle_at,
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_unshare,
    SYS_setns,
    SYS_quotactl,
    SYS_swapon,
    SYS_swapoff,
    SYS_fanotify_init,
    SYS_chown,
    SYS_fchown,
    SYS_lchown,
    SYS_fchownat,
    SYS_mknodat,
#ifdef SYS_mknod
    SYS_mknod,
#endif
#ifdef SYS_move_mount
    SYS_open_tree,
    SYS_move_mount,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
#endif
    /* the kernel's larger doors */
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_keyctl,
    SYS_add_key,
    SYS_request_key,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_reboot,
    SYS_acct,
    SYS_syslog,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_adjtimex,
    SYS_clock_adjtime,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_vhangup,
#ifdef SYS_kexec_file_load
    SYS_kexec_file_load,
#endif
#ifdef SYS_io_uring_setup
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
#endif
#ifdef SYS_iopl
    SYS_iopl,
    SYS_ioperm,
    SYS_modify_ldt,
#endif
};

#ifdef OWN_ARCH
#define LOAD(what) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, what))
#define RETURN(what) BPF_STMT(BPF_RET | BPF_K, what)
#define IF_EQUAL(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(value), yes, no)
#define IF_ANY(bits, yes, no) BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, (uint32_t)(bits), yes, no)
#define REFUSE RETURN(SECCOMP_RET_ERRNO | EPERM)

static bool seccomp_enter(struct error *err)
{
	enum { COUNT = sizeof(refused) / sizeof(refused[0]) };
	const struct sock_filter head[] = {
	    LOAD(arch),
	    IF_EQUAL(OWN_ARCH, 1, 0),
	    RETURN(SECCOMP_RET_KILL_PROCESS),
	    LOAD(nr),
#ifdef __x86_64__
	    BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1), /* x32 */
	    RETURN(SECCOMP_RET_KILL_PROCESS),
#endif
	    /* Threads, but no processes: their flags are in memory with clone3, so libc must take clone. */
	    IF_EQUAL(SYS_clone3, 0, 1),
	    RETURN(SECCOMP_RET_ERRNO | ENOSYS),
	    IF_EQUAL(SYS_clone, 0, 4),
	    LOAD(args[0]),
	    IF_ANY(CLONE_THREAD, 1, 0),
	    REFUSE,
	    RETURN(SECCOMP_RET_ALLOW),
	    /* A signal to itself, as abort() sends it. */
	    IF_EQUAL(SYS_tgkill, 0, 4),
	    LOAD(args[0]),
	    IF_EQUAL(getpid(), 1, 0),
	    REFUSE,
	    RETURN(SECCOMP_RET_ALLOW),
	    /* Not to be traced, and nothing typed into a terminal. */
	    IF_EQUAL(SYS_prctl, 0, 5),
	    LOAD(args[0]),
	    IF_EQUAL(PR_SET_DUMPABLE, 2, 0),
	    IF_EQUAL(0x59616d61 /* PR_SET_PTRACER */, 1, 0),
	    RETURN(SECCOMP_RET_ALLOW),
	    REFUSE,
	    /* Who owns a descriptor gets its signals, and any signal may be chosen for that: so nobody does. */
	    IF_EQUAL(SYS_ioctl, 0, 6),
	    LOAD(args[1]),
	    IF_EQUAL(0x5412 /* TIOCSTI */, 3, 0),
	    IF_EQUAL(0x8901 /* FIOSETOWN */, 2, 0),
	    IF_EQUAL(0x8902 /* SIOCSPGRP */, 1, 0),
	    RETURN(SECCOMP_RET_ALLOW),
	    REFUSE,
	    IF_EQUAL(SYS_fcntl, 0, 6),
	    LOAD(args[1]),
	    IF_EQUAL(F_SETOWN, 3, 0),
	    IF_EQUAL(F_SETOWN_EX, 2, 0),
	    IF_EQUAL(F_SETSIG, 1, 0),
	    RETURN(SECCOMP_RET_ALLOW),
	    REFUSE,
	    /* Its own limits, not the node's, whose uid it has where that is not root. */
	    IF_EQUAL(SYS_prlimit64, 0, 4),
	    LOAD(args[0]),
	    IF_EQUAL(0, 1, 0),
	    REFUSE,
	    RETURN(SECCOMP_RET_ALLOW),
	};
	enum { HEAD = sizeof(head) / sizeof(head[0]) };
	struct sock_filter filter[HEAD + 2 * COUNT + 1];
	size_t at = HEAD;

	memcpy(filter, head, sizeof(head));
	for (size_t i = 0; i < COUNT; i++) {
		filter[at++] = (struct sock_filter)IF_EQUAL(refused[i], 0, 1);
		filter[at++] = (struct sock_filter)REFUSE;
	}
	filter[at++] = (struct sock_filter)RETURN(SECCOMP_RET_ALLOW);
	struct sock_fprog program = {.len = (unsigned short)at, .filter = filter};
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0)
		return true;
	error_errno(err, errno, "seccomp refused");
	return false;
}
#else
static bool seccomp_enter(struct error *err)
{
	(void)refused;
	error_set(err, E_UNSUPPORTED, "no seccomp filter is written for this processor");
	return false;
}
#endif

/* -------------------------------------------------------------------------------------------------------- */

int sandbox_enter(const struct sandbox *s, char *ret_missing, size_t size, struct error *err)
{
	const struct rlimit none = {0, 0}, all = {RLIM_INFINITY, RLIM_INFINITY};
	bool becomes = s->user && geteuid() == 0;
	struct buf missing = {0};
	struct error why = {0};
	uid_t uid = 0;
	gid_t gid = 0;
	int rc = becomes ? uid_of(s->user, &uid, &gid, err) : 0; /* the list of users cannot be read later */

	setrlimit(RLIMIT_CORE, &none);
	if (s->lock_memory && setrlimit(RLIMIT_MEMLOCK, &all))
		buf_printf(&missing, "locking memory");
	if (s->folder)
		folder_make(s->folder, 0700, NULL);
	if (!rc && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		rc = error_errno(err, errno, "cannot give up new privileges");
	if (!rc && !landlock_enter(s, &why))
		buf_printf(&missing, "%slandlock%s%s", missing.len ? ", " : "", why.code ? ": " : "", why.text);
	if (!rc && becomes)
		user_enter(s, uid, gid, &missing);
	prctl(PR_SET_DUMPABLE, 0);
	if (!rc && !seccomp_enter(&why))
		buf_printf(&missing, "%sseccomp: %s", missing.len ? ", " : "", why.text);
	snprintf(ret_missing, size, "%.*s", (int)missing.len, missing.base ? missing.base : "");
	buf_fini(&missing);
	return rc;
}
