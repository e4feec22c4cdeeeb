#define _GNU_SOURCE
#include "settings.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "chips.h"

/* The file of the log, mapped by all processes; the tests make it, and let the sandbox admit it. */
struct shared {
    _Atomic uint32_t used;
    _Atomic int32_t faults;
    char text[];
};

enum { EXIT_BAD_SETTINGS = 97, LOG_BYTES = 1 << 20 };

static struct settings values = {
    .chip = "ada", .tag = "reelay-nvenc", .devices = 1, .sessions = 8, .refusal = 10, .frame_fails = -1,
    .frame_hangs = -1, .frame_crashes = -1, .faults = -1,
};
static struct shared *shared;
static pthread_once_t once = PTHREAD_ONCE_INIT;

#define TEXT(name) {#name, offsetof(struct settings, name), sizeof values.name}
#define NUMBER(name) {#name, offsetof(struct settings, name), 0}

static const struct {
    const char *name;
    size_t offset;
    size_t room; /* of a text; 0: a number */
} known[] = {
    TEXT(chip), TEXT(tag), NUMBER(devices), NUMBER(cu_init), NUMBER(cu_ctx_create), NUMBER(api_version),
    NUMBER(sessions), NUMBER(refusal), NUMBER(open_error), NUMBER(open_hangs), NUMBER(open_crashes),
    NUMBER(frame_fails), NUMBER(frame_hangs), NUMBER(frame_crashes), NUMBER(faults), NUMBER(frame_rate),
    NUMBER(min_width), NUMBER(min_height), TEXT(log),
};

static void refuse(const char *path, int line, const char *why, const char *what)
{
    fprintf(stderr, "nvenc stand-in: %s, line %d: %s: %s\n", path, line, why, what);
    fflush(stderr);
    _exit(EXIT_BAD_SETTINGS);
}

/* "12.1" or a plain number. */
static int number(const char *text, const char *path, int line)
{
    char *end;
    long first = strtol(text, &end, 10), minor;

    if (end != text && *end == '.') {
        const char *rest = end + 1;
        minor = strtol(rest, &end, 10);
        if (end != rest && !*end)
            return (int)(first << 4 | minor);
    }
    if (end == text || *end)
        refuse(path, line, "not a number", text);
    return (int)first;
}

static void set(const char *name, const char *value, const char *path, int line)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        char *field = (char *)&values + known[i].offset;

        if (strcmp(known[i].name, name))
            continue;
        if (!known[i].room)
            *(int *)field = number(value, path, line);
        else if ((size_t)snprintf(field, known[i].room, "%s", value) >= known[i].room)
            refuse(path, line, "too long", value);
        return;
    }
    refuse(path, line, "unknown setting", name);
}

static void read_file(const char *path)
{
    char text[256], name[64], value[128];
    FILE *file = fopen(path, "r");

    if (!file)
        return;
    for (int line = 1; fgets(text, sizeof text, file); line++) {
        if (text[0] == '#' || text[0] == '\n')
            continue;
        if (sscanf(text, " %63[a-z_] = %127s", name, value) != 2)
            refuse(path, line, "not `name = value`", text);
        set(name, value, path, line);
    }
    fclose(file);
    if (!find_chip(values.chip))
        refuse(path, 0, "unknown chip", values.chip);
}

static void *map_log(const char *path)
{
    int file = open(path, O_RDWR | O_CLOEXEC);
    void *at = file < 0 ? MAP_FAILED : mmap(NULL, LOG_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);

    if (at == MAP_FAILED)
        refuse(path, 0, "the log cannot be written", path);
    close(file);
    return at;
}

static void load(void)
{
    char path[4096];
    Dl_info here;

    if (!dladdr((void *)settings, &here))
        return;
    snprintf(path, sizeof path, "%s", here.dli_fname);
    snprintf(strrchr(path, '/') + 1, 16, "nvenc.conf");
    read_file(path);
    if (*values.log) {
        snprintf(strrchr(path, '/') + 1, sizeof values.log, "%s", values.log);
        shared = map_log(path);
    }
}

const struct settings *settings(void)
{
    pthread_once(&once, load);
    return &values;
}

void log_line(const char *format, ...)
{
    char text[512];
    va_list arguments;
    int length;
    uint32_t at;

    settings();
    if (!shared)
        return;
    va_start(arguments, format);
    length = vsnprintf(text, sizeof text - 1, format, arguments);
    va_end(arguments);
    if (length > (int)sizeof text - 2)
        length = sizeof text - 2;
    text[length++] = '\n';
    at = atomic_fetch_add(&shared->used, length);
    if (at + length <= LOG_BYTES - sizeof *shared)
        memcpy(shared->text + at, text, length);
}

int fault(int wanted, const char *name)
{
    const struct settings *with = settings();

    if (!wanted)
        return 0;
    if (with->faults >= 0 && (!shared || atomic_fetch_add(&shared->faults, 1) >= with->faults))
        return 0;
    log_line("fault %s", name);
    return 1;
}

void hang(void)
{
    for (;;)
        pause();
}

void crash(void)
{
    volatile int *nowhere = NULL;

    *nowhere = 0; /* not raise(), which the sandbox refuses */
    _exit(EXIT_BAD_SETTINGS);
}
