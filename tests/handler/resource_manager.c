/*
 * A stand-in for NVIDIA's resource manager, preloaded after hide_foreign_gpus.so. In its processes every /dev/zero that
 * is open is /dev/nvidiactl, and the host has the GPUs 0x100, 0x200 … with the device minors 1, 2 … . Variables:
 *
 *     GPUS    number of GPUs of the host
 *     OPEN    digits of the minors that the container may use
 *     FAIL    "call": commands fail; "status": they fail inside a successful ioctl(); "cards": no GPU is described
 *     UNKNOWN if set, the last GPU is listed but not described
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static int gpus(void) { return atoi(getenv("GPUS")); }

static int fails(const char *what) { return getenv("FAIL") && strcmp(getenv("FAIL"), what) == 0; }

/* Both structures by their offsets, so that a mistake in the library's own definitions shows. */
static int control(unsigned char *command) {
    uint32_t *list, number;
    memcpy(&number, command + 8, 4);
    memcpy(&list, command + 16, 8);
    memset(command + 28, fails("status") ? 0x1f : 0, 1);
    for (int i = 0; list && i < 32; i++)
        list[i] = i < gpus() ? 0x100u * (i + 1) : 0xffffffffu;
    if (list && number == 0x214)
        memset(list + 32, 0xaa, 128);
    errno = fails("call") ? EINVAL : errno;
    return fails("call") ? -1 : 0;
}

static int cards(unsigned char *table) {
    int described = getenv("UNKNOWN") ? gpus() - 1 : gpus();
    if (fails("cards")) {
        errno = EINVAL;
        return -1;
    }
    for (int i = 0; i < described; i++) {
        uint32_t id = 0x100u * (i + 1), minor_number = i + 1;
        unsigned char *card = table + 72 * (31 - i); /* in no particular order, with gaps */
        card[0] = 1;
        memcpy(card + 16, &id, 4);
        memcpy(card + 56, &minor_number, 4);
    }
    return 0;
}

int ioctl(int fd, unsigned long request, ...) {
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    if (request == 0xc020462a)
        return control(argument);
    if (request == 0xc90046c8)
        return cards(argument);
    return ((int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl"))(fd, request, argument);
}

int fstat(int fd, struct stat *status) {
    int result = ((int (*)(int, struct stat *))dlsym(RTLD_NEXT, "fstat"))(fd, status);
    if (result == 0 && S_ISCHR(status->st_mode) && status->st_rdev == makedev(1, 5))
        status->st_rdev = makedev(195, 255);
    return result;
}

int access(const char *path, int mode) {
    const char *prefix = "/dev/nvidia";
    if (strncmp(path, prefix, strlen(prefix)) != 0)
        return ((int (*)(const char *, int))dlsym(RTLD_NEXT, "access"))(path, mode);
    usleep(50); /* lets other threads in between */
    if (strchr(getenv("OPEN"), path[strlen(prefix)]) && !path[strlen(prefix) + 1])
        return 0;
    errno = ENOENT;
    return -1;
}
