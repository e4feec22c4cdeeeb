/*
 * hide_foreign_gpus.so, preloaded into FFmpeg: hides the host's other GPUs from a container that holds one of several.
 *
 * NVIDIA's drivers 570 to 609 refuse NVENC in such a container ("unsupported device", "No capable devices found"). The
 * driver's library asks the resource manager, through /dev/nvidiactl, for the ids of all GPUs, is given those of the
 * whole host, and fails when it cannot open the ones that the container does not hold. This library interposes
 * ioctl() and removes from the two lists of GPUs those whose /dev/nvidiaN it may not open. Everything else passes
 * through unchanged, and so does a reply in which no GPU could be opened: a wrong guess must not hide them all.
 *
 * A workaround, off by default (NVENC_HIDE_FOREIGN_GPUS). The calls are those of NVIDIA's open kernel modules. It
 * keeps no state but the address of the real ioctl(), so threads do not disturb each other.
 *
 *     gcc -O2 -Wall -Wextra -shared -fPIC -o hide_foreign_gpus.so hide_foreign_gpus.c
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define CONTROL_MAJOR 195 /* of /dev/nvidiactl, fixed by the driver */
#define CONTROL_MINOR 255
#define MAX_GPUS 32
#define NO_GPU 0xffffffffu /* fills a list after its last id */
#define GET_ATTACHED_IDS 0x201
#define GET_PROBED_IDS 0x214

/* A command for the resource manager. Both commands above return a list of MAX_GPUS ids first. */
struct control {
    uint32_t client, object, command, flags;
    _Alignas(8) uint32_t *ids;
    uint32_t size, status; /* of what `ids` points to; 0 is success */
};

/* One GPU of the host. */
struct card {
    uint8_t valid;
    uint32_t pci[3];
    uint32_t id;
    uint16_t interrupt;
    _Alignas(8) uint64_t memory[4];
    uint32_t minor; /* N of /dev/nvidiaN */
    uint8_t name[10];
};

#define RM_CONTROL _IOWR('F', 0x2a, struct control)
#define CARD_INFO _IOWR('F', 200, struct card[MAX_GPUS])

_Static_assert(sizeof(struct control) == 32, "the driver's layout on 64 bits");
_Static_assert(sizeof(struct card) == 72 && offsetof(struct card, id) == 16 && offsetof(struct card, minor) == 56,
               "the driver's layout on 64 bits");

typedef int ioctl_function(int, unsigned long, ...);

static ioctl_function *real_ioctl(void) {
    static _Atomic(ioctl_function *) found;
    if (found == NULL)
        found = (ioctl_function *)dlsym(RTLD_NEXT, "ioctl");
    return found;
}

static bool is_control_device(int fd) {
    struct stat status;
    return fstat(fd, &status) == 0 && S_ISCHR(status.st_mode) && major(status.st_rdev) == CONTROL_MAJOR &&
           minor(status.st_rdev) == CONTROL_MINOR;
}

/*
 * Whether the container lacks the GPU's device or may not use it. The kernel applies the device cgroup to access() as
 * it does to open(), which would wait for the GPU to be initialised, at every reply.
 */
static bool is_foreign(uint32_t minor_number) {
    char path[32];
    snprintf(path, sizeof path, "/dev/nvidia%u", minor_number);
    return access(path, R_OK | W_OK) != 0;
}

/* Unknown ids are kept. */
static bool is_hidden(uint32_t id, const struct card *cards) {
    for (int i = 0; i < MAX_GPUS; i++)
        if (cards[i].valid && cards[i].id == id)
            return is_foreign(cards[i].minor);
    return false;
}

static void hide_foreign(int fd, uint32_t *ids) {
    struct card cards[MAX_GPUS] = {0};
    uint32_t kept[MAX_GPUS];
    int count = 0;
    real_ioctl()(fd, CARD_INFO, cards); /* if it fails, every id is unknown */
    for (int i = 0; i < MAX_GPUS && ids[i] != NO_GPU; i++)
        if (!is_hidden(ids[i], cards))
            kept[count++] = ids[i];
    for (int i = 0; count > 0 && i < MAX_GPUS; i++)
        ids[i] = i < count ? kept[i] : NO_GPU;
}

int ioctl(int fd, unsigned long request, ...) {
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);

    int result = real_ioctl()(fd, request, argument);
    if (result != 0 || request != RM_CONTROL)
        return result;
    const struct control *control = argument;
    bool lists_gpus = control->command == GET_ATTACHED_IDS || control->command == GET_PROBED_IDS;
    if (lists_gpus && control->status == 0 && control->ids != NULL && control->size >= MAX_GPUS * sizeof(uint32_t)) {
        int before = errno;
        if (is_control_device(fd))
            hide_foreign(fd, control->ids);
        errno = before;
    }
    return result;
}
