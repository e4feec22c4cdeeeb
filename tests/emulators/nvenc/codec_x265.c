#include <stdlib.h>
#include <string.h>
#include <x265.h>

#include "codec.h"

struct hevc {
    const x265_api *api;
    x265_param *with;
    x265_encoder *encoder;
};

static void set_stream(x265_param *to, const struct codec_config *config)
{
    to->sourceWidth = config->width;
    to->sourceHeight = config->height;
    to->fpsNum = config->rate_num;
    to->fpsDenom = config->rate_den;
    to->internalCsp = X265_CSP_I420;
    to->bRepeatHeaders = config->headers_in_stream;
    to->bAnnexB = 1;
    to->vui.aspectRatioIdc = X265_EXTENDED_SAR;
    to->vui.sarWidth = config->sar_num;
    to->vui.sarHeight = config->sar_den;
    to->vui.bEnableVideoSignalTypePresentFlag = 1;
    to->vui.bEnableVideoFullRangeFlag = config->full_range;
    to->vui.bEnableColorDescriptionPresentFlag = 1;
    to->vui.colorPrimaries = config->primaries;
    to->vui.transferCharacteristics = config->transfer;
    to->vui.matrixCoeffs = config->matrix;
}

static void set_rate(x265_param *to, const struct codec_config *config)
{
    int most = config->max_rate ? config->max_rate : config->bit_rate;

    to->rc.rateControlMode = config->quality >= 0 ? X265_RC_CRF : X265_RC_ABR;
    to->rc.rfConstant = config->quality >= 0 ? config->quality : 23;
    to->rc.bitrate = config->bit_rate / 1000;
    if (most) {
        to->rc.vbvMaxBitrate = most / 1000;
        to->rc.vbvBufferSize = (config->buffer_bits ? config->buffer_bits : 2 * most) / 1000;
    }
}

static void set_structure(x265_param *to, const struct codec_config *config)
{
    to->keyframeMax = config->gop;
    to->bOpenGOP = 0;
    to->bframes = config->b_frames;
    to->bFrameAdaptive = 0;
    to->bBPyramid = config->b_references;
    to->lookaheadDepth = config->b_frames ? config->b_frames + 1 : 0;
    to->scenecutThreshold = 0;
    to->rc.cuTree = 0;
    to->maxCUSize = 16;
    to->minCUSize = 8;
}

static void close_x265(void *opened)
{
    struct hevc *hevc = opened;

    if (hevc->encoder)
        hevc->api->encoder_close(hevc->encoder);
    if (hevc->with)
        hevc->api->param_free(hevc->with);
    free(hevc);
}

static void *open_x265(const struct codec_config *config)
{
    struct hevc *hevc = calloc(1, sizeof *hevc);

    hevc->api = x265_api_get(config->depth);
    hevc->with = hevc->api ? hevc->api->param_alloc() : NULL;
    if (hevc->with) {
        hevc->api->param_default_preset(hevc->with, "ultrafast", NULL);
        hevc->with->logLevel = X265_LOG_NONE;
        hevc->with->frameNumThreads = 1;
        hevc->with->bEnableWavefront = 0;
        hevc->api->param_parse(hevc->with, "pools", "none"); /* the field has one type in x265 3, another in 4 */
        set_stream(hevc->with, config);
        set_structure(hevc->with, config);
        set_rate(hevc->with, config);
        hevc->encoder = hevc->api->encoder_open(hevc->with);
    }
    if (hevc->encoder)
        return hevc;
    close_x265(hevc);
    return NULL;
}

static size_t headers(void *opened, uint8_t *to, size_t room)
{
    struct hevc *hevc = opened;
    x265_nal *nals;
    uint32_t count;
    size_t size = 0;

    if (hevc->api->encoder_headers(hevc->encoder, &nals, &count) < 0)
        return 0;
    for (uint32_t i = 0; i < count; i++) {
        if (nals[i].type != NAL_UNIT_VPS && nals[i].type != NAL_UNIT_SPS && nals[i].type != NAL_UNIT_PPS)
            continue;
        if (size + nals[i].sizeBytes > room)
            return 0;
        memcpy(to + size, nals[i].payload, nals[i].sizeBytes);
        size += nals[i].sizeBytes;
    }
    return size;
}

static enum unit_type type_of(const x265_picture *made)
{
    if (made->sliceType == X265_TYPE_IDR)
        return UNIT_IDR;
    if (made->sliceType == X265_TYPE_I)
        return UNIT_I;
    return made->sliceType == X265_TYPE_P ? UNIT_P : UNIT_B;
}

static int encode(void *opened, const struct picture *picture, struct unit *unit)
{
    struct hevc *hevc = opened;
    x265_picture in, made;
    x265_nal *nals;
    uint32_t count;
    size_t size = 0;
    int got;

    hevc->api->picture_init(hevc->with, &in);
    if (picture) {
        in.sliceType = picture->force_idr ? X265_TYPE_IDR : X265_TYPE_AUTO;
        in.pts = picture->index;
        in.bitDepth = hevc->api->bit_depth;
        for (int i = 0; i < 3; i++) {
            in.planes[i] = picture->plane[i];
            in.stride[i] = picture->stride[i];
        }
    }
    got = hevc->api->encoder_encode(hevc->encoder, &nals, &count, picture ? &in : NULL, &made);
    if (got <= 0)
        return got;
    for (uint32_t i = 0; i < count; i++)
        size += nals[i].sizeBytes;
    *unit = (struct unit){nals[0].payload, size, made.pts, type_of(&made)};
    return 1;
}

const struct codec x265_codec = {open_x265, headers, encode, close_x265};
