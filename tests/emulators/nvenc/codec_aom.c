#include <aom/aom_encoder.h>
#include <aom/aomcx.h>
#include <stdlib.h>
#include <string.h>

#include "codec.h"

struct av1 {
    aom_codec_ctx_t encoder;
    aom_img_fmt_t format;
    int width, height, depth;
};

static void set_colours(aom_codec_ctx_t *to, const struct codec_config *config)
{
    aom_codec_control(to, AV1E_SET_COLOR_PRIMARIES, config->primaries);
    aom_codec_control(to, AV1E_SET_TRANSFER_CHARACTERISTICS, config->transfer);
    aom_codec_control(to, AV1E_SET_MATRIX_COEFFICIENTS, config->matrix);
    aom_codec_control(to, AV1E_SET_COLOR_RANGE, config->full_range);
}

/* In real time and without lag, so that every picture becomes one unit: av1_nvenc takes no hidden frames of their own. */
static void *open_aom(const struct codec_config *config)
{
    struct av1 *av1 = calloc(1, sizeof *av1);
    int rate = config->max_rate ? config->max_rate : config->bit_rate;
    aom_codec_enc_cfg_t with;

    aom_codec_enc_config_default(aom_codec_av1_cx(), &with, AOM_USAGE_REALTIME);
    with.g_w = av1->width = config->width;
    with.g_h = av1->height = config->height;
    with.g_bit_depth = with.g_input_bit_depth = av1->depth = config->depth;
    with.g_timebase = (struct aom_rational){config->rate_den, config->rate_num};
    with.g_lag_in_frames = 0;
    with.g_threads = 1;
    with.kf_max_dist = config->gop;
    with.rc_end_usage = config->quality < 0 ? AOM_VBR : rate ? AOM_CQ : AOM_Q;
    if (rate)
        with.rc_target_bitrate = rate / 1000;
    av1->format = config->depth > 8 ? AOM_IMG_FMT_I42016 : AOM_IMG_FMT_I420;
    if (aom_codec_enc_init(&av1->encoder, aom_codec_av1_cx(), &with, config->depth > 8 ? AOM_CODEC_USE_HIGHBITDEPTH : 0)) {
        free(av1);
        return NULL;
    }
    aom_codec_control(&av1->encoder, AOME_SET_CPUUSED, 9);
    if (config->quality >= 0)
        aom_codec_control(&av1->encoder, AOME_SET_CQ_LEVEL, config->quality);
    set_colours(&av1->encoder, config);
    return av1;
}

static size_t headers(void *opened, uint8_t *to, size_t room)
{
    struct av1 *av1 = opened;
    aom_fixed_buf_t *made = aom_codec_get_global_headers(&av1->encoder);
    size_t size = made ? made->sz : 0;

    if (size > room)
        size = 0;
    if (size)
        memcpy(to, made->buf, size);
    if (made) {
        free(made->buf);
        free(made);
    }
    return size;
}

static int encode(void *opened, const struct picture *picture, struct unit *unit)
{
    struct av1 *av1 = opened;
    const aom_codec_cx_pkt_t *packet;
    aom_codec_iter_t packets = NULL;
    aom_image_t in;

    if (picture) {
        aom_img_wrap(&in, av1->format, av1->width, av1->height, 1, picture->plane[0]);
        in.bit_depth = av1->depth;
        for (int i = 0; i < 3; i++) {
            in.planes[i] = picture->plane[i];
            in.stride[i] = picture->stride[i];
        }
    }
    if (aom_codec_encode(&av1->encoder, picture ? &in : NULL, picture ? picture->index : 0, 1,
                         picture && picture->force_idr ? AOM_EFLAG_FORCE_KF : 0))
        return -1;
    while ((packet = aom_codec_get_cx_data(&av1->encoder, &packets))) {
        if (packet->kind != AOM_CODEC_CX_FRAME_PKT)
            continue;
        *unit = (struct unit){packet->data.frame.buf, packet->data.frame.sz, packet->data.frame.pts,
                              packet->data.frame.flags & AOM_FRAME_IS_KEY ? UNIT_IDR : UNIT_P};
        return 1;
    }
    return 0;
}

static void close_aom(void *opened)
{
    struct av1 *av1 = opened;

    aom_codec_destroy(&av1->encoder);
    free(av1);
}

const struct codec aom_codec = {open_aom, headers, encode, close_aom};
