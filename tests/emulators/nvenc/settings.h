/* Settings of the stand-in, read once from `nvenc.conf` beside the library, and the log of what was asked. */

#pragma once

#include <stdint.h>

struct settings {
    char chip[16];              /* a name from chips.c */
    char tag[64];               /* processes with the same tag share the sessions */
    int devices;                /* number of GPUs */
    int cu_init;                /* CUresult of cuInit */
    int cu_ctx_create;          /* CUresult of cuCtxCreate */
    int api_version;            /* newest supported: major << 4 | minor; 0: that of the headers */
    int sessions;               /* sessions at once, over all processes with the tag */
    int refusal;                /* NVENCSTATUS of an open while all sessions are taken */
    int open_error;             /* NVENCSTATUS of every open; 0: opens succeed */
    int open_hangs;             /* 1: an open never returns */
    int open_crashes;           /* 1: an open kills the process with SIGSEGV */
    int frame_fails;            /* number of the frame, from 0, that is refused; -1: none */
    int frame_hangs;            /* the frame whose encode never returns */
    int frame_crashes;          /* the frame that kills the process with SIGSEGV */
    int faults;                 /* how many faults happen, over all processes, before all is well; -1: no end */
    int frame_rate;             /* frames a second; 0: as fast as the CPU can */
    int min_width, min_height;  /* smallest picture; 0: that of the chip */
    char log[64];               /* name of the file for the log, beside the settings; empty: no log */
};

/* The settings. Ends the process with a message where the file has a mistake. */
const struct settings *settings(void);

/* Append a line to the log. */
void log_line(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Whether a fault that the settings ask for happens now; counts it, and logs it under `name`. */
int fault(int wanted, const char *name);

/* Never return. */
void hang(void) __attribute__((noreturn));

/* Die with SIGSEGV. */
void crash(void) __attribute__((noreturn));
