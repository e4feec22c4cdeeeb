/* An encoding session: buffers that the caller fills and reads, and the encoder library between them. */

#pragma once

#include <ffnvcodec/nvEncodeAPI.h>

#include "codec.h"

enum { PICTURES_IN_FLIGHT = 512 };

/* A picture that the caller writes: planes one after another, as NVENC lays them out. */
struct input {
    NV_ENC_BUFFER_FORMAT format;
    int width, height, pitch;
    uint8_t *data;
};

/* A bitstream buffer, filled in the order in which it was submitted. */
struct output {
    struct output *next;               /* submitted after this one */
    int filled;
    uint8_t *data;
    size_t size;
    enum unit_type type;
    int64_t index;
};

struct session {
    char error[160];                   /* of the last call that failed */
    int slot;                          /* holds one of the sessions of all processes */
    const struct codec *codec;
    void *encoder;
    int rate_limit;                    /* frames a second, 0 without */
    uint8_t *planes;                   /* the picture as the encoder takes it */
    struct codec_config config;
    int64_t submitted;
    int ended;                         /* the caller sent EOS */
    struct { uint64_t time, duration; } frames[PICTURES_IN_FLIGHT];
    struct output *first, *last;       /* submitted and not filled yet */
};

/* Takes one of the sessions that processes share. Returns its descriptor, -1 when all are taken. */
int take_slot(void);

/* Remembers a message for nvEncGetLastErrorString, logs it, and returns the status. */
NVENCSTATUS failed(struct session *session, NVENCSTATUS status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Bytes of a picture, 0 for a format that the stand-in does not take. */
size_t picture_bytes(NV_ENC_BUFFER_FORMAT format, int pitch, int height);

/* Encodes a picture, or all that is left where `picture` has the flag EOS. */
NVENCSTATUS encode_picture(struct session *session, const NV_ENC_PIC_PARAMS *picture);
