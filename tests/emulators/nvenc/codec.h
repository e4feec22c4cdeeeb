/* An encoder library behind the stand-in: x264, x265 or libaom. Independent of NVENC's headers, which change. */

#pragma once

#include <stddef.h>
#include <stdint.h>

#include "chips.h"

/* How a session encodes. */
struct codec_config {
    int width, height;
    int rate_num, rate_den;              /* frames a second */
    int sar_num, sar_den;                /* shape of a pixel */
    int depth;                           /* bits of a sample: 8 or 10 */
    const char *profile;                 /* of H.264; NULL: the codec's choice */
    int b_frames, b_references;          /* consecutive B-frames; whether they are references */
    int gop;                             /* frames between two IDR frames at most */
    int quality;                         /* the codec's constant quality; -1: none */
    int bit_rate, max_rate, buffer_bits; /* 0: none */
    int headers_in_stream;               /* whether IDR frames repeat the parameter sets */
    int primaries, transfer, matrix, full_range;
};

/* A picture: planes of Y, U and V, 4:2:0, in bytes or, with 10 bits, in little-endian words. */
struct picture {
    uint8_t *plane[3];
    int stride[3];                       /* bytes */
    int64_t index;                       /* in the order of display */
    int force_idr;
};

enum unit_type { UNIT_IDR, UNIT_I, UNIT_P, UNIT_B };

/* An encoded picture. The data lasts until the next call. */
struct unit {
    const uint8_t *data;
    size_t size;
    int64_t index;                       /* of the picture that it is */
    enum unit_type type;
};

struct codec {
    /* Returns an encoder, or NULL where the library refuses the configuration. */
    void *(*open)(const struct codec_config *config);
    /* Writes the parameter sets to `to`; returns their size, 0 on failure. */
    size_t (*headers)(void *encoder, uint8_t *to, size_t room);
    /* Encodes a picture, or with NULL one of those held back. Returns 1 with a unit, 0 without one, -1 on failure. */
    int (*encode)(void *encoder, const struct picture *picture, struct unit *unit);
    void (*close)(void *encoder);
};

extern const struct codec x264_codec, x265_codec, aom_codec;
