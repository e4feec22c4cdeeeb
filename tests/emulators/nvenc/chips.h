/* What each generation of GPUs can encode, as its driver reports it. */

#pragma once

enum codec_kind { H264, HEVC, AV1, CODECS };

struct codec_caps {
    int max_b_frames;             /* -1: the chip does not encode this codec */
    int b_frame_references;       /* NV_ENC_CAPS_SUPPORT_BFRAME_REF_MODE: 1 each, 2 middle, 3 both */
    int temporal_aq;
    int ten_bits;
    int min_width, min_height, max_side;
};

struct chip {
    const char *name;
    const char *device;           /* of a GPU with this chip */
    int major, minor;             /* compute capability */
    struct codec_caps codecs[CODECS];
};

/* The chip of that name; NULL for an unknown name. */
const struct chip *find_chip(const char *name);

/* Whether the chip has an encoder at all. */
int has_encoder(const struct chip *chip);
