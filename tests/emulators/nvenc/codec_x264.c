#include <stdint.h>
#include <string.h>
#include <x264.h>

#include "codec.h"

static void set_rate(x264_param_t *to, const struct codec_config *config)
{
    int most = config->max_rate ? config->max_rate : config->bit_rate;

    to->rc.i_rc_method = config->quality >= 0 ? X264_RC_CRF : X264_RC_ABR;
    to->rc.f_rf_constant = config->quality >= 0 ? config->quality : 23;
    to->rc.i_bitrate = config->bit_rate / 1000;
    if (most) {
        to->rc.i_vbv_max_bitrate = most / 1000;
        to->rc.i_vbv_buffer_size = (config->buffer_bits ? config->buffer_bits : 2 * most) / 1000;
    }
}

static void *open_x264(const struct codec_config *config)
{
    x264_param_t with;

    x264_param_default_preset(&with, "ultrafast", NULL);
    with.i_log_level = X264_LOG_NONE;
    with.i_threads = 1;
    with.i_csp = X264_CSP_I420 | (config->depth > 8 ? X264_CSP_HIGH_DEPTH : 0);
    with.i_bitdepth = config->depth;
    with.i_width = config->width;
    with.i_height = config->height;
    with.i_fps_num = config->rate_num;
    with.i_fps_den = config->rate_den;
    with.b_vfr_input = 0;
    with.i_keyint_max = config->gop;
    with.i_bframe = config->b_frames;
    with.i_bframe_pyramid = config->b_references ? X264_B_PYRAMID_NORMAL : X264_B_PYRAMID_NONE;
    with.b_cabac = 1;
    with.analyse.b_transform_8x8 = 1;
    with.b_repeat_headers = config->headers_in_stream;
    with.b_annexb = 1;
    with.vui.i_sar_width = config->sar_num;
    with.vui.i_sar_height = config->sar_den;
    with.vui.b_fullrange = config->full_range;
    with.vui.i_colorprim = config->primaries;
    with.vui.i_transfer = config->transfer;
    with.vui.i_colmatrix = config->matrix;
    set_rate(&with, config);
    if (x264_param_apply_profile(&with, config->depth > 8 ? "high10" : config->profile))
        return NULL;
    return x264_encoder_open(&with);
}

static size_t headers(void *encoder, uint8_t *to, size_t room)
{
    x264_nal_t *nals;
    size_t size = 0;
    int count;

    if (x264_encoder_headers(encoder, &nals, &count) < 0)
        return 0;
    for (int i = 0; i < count; i++) {
        if (nals[i].i_type != NAL_SPS && nals[i].i_type != NAL_PPS)
            continue;
        if (size + nals[i].i_payload > room)
            return 0;
        memcpy(to + size, nals[i].p_payload, nals[i].i_payload);
        size += nals[i].i_payload;
    }
    return size;
}

static enum unit_type type_of(const x264_picture_t *made)
{
    if (made->i_type == X264_TYPE_IDR)
        return UNIT_IDR;
    if (made->i_type == X264_TYPE_I)
        return UNIT_I;
    return IS_X264_TYPE_B(made->i_type) ? UNIT_B : UNIT_P;
}

static int encode(void *encoder, const struct picture *picture, struct unit *unit)
{
    x264_picture_t in, made;
    x264_param_t with;
    x264_nal_t *nals;
    int count, size;

    x264_encoder_parameters(encoder, &with);
    x264_picture_init(&in);
    if (picture) {
        in.i_type = picture->force_idr ? X264_TYPE_IDR : X264_TYPE_AUTO;
        in.i_pts = picture->index;
        in.img.i_csp = with.i_csp;
        in.img.i_plane = 3;
        for (int i = 0; i < 3; i++) {
            in.img.plane[i] = picture->plane[i];
            in.img.i_stride[i] = picture->stride[i];
        }
    }
    do
        size = x264_encoder_encode(encoder, &nals, &count, picture ? &in : NULL, &made);
    while (!picture && !size && x264_encoder_delayed_frames(encoder));
    if (size <= 0)
        return size;
    *unit = (struct unit){nals[0].p_payload, size, made.i_pts, type_of(&made)};
    return 1;
}

static void close_x264(void *encoder)
{
    x264_encoder_close(encoder);
}

const struct codec x264_codec = {open_x264, headers, encode, close_x264};
