#include "configure.h"

#include <stdio.h>
#include <string.h>

#include "settings.h"

enum codec_kind kind_of(GUID guid)
{
    GUID known;

    for (int kind = 0; kind < CODECS; kind++)
        if (guid_of(kind, &known) && SAME_GUID(guid, known))
            return kind;
    return CODECS;
}

int guid_of(enum codec_kind kind, GUID *guid)
{
    switch (kind) {
    case H264:
        return *guid = NV_ENC_CODEC_H264_GUID, 1;
    case HEVC:
        return *guid = NV_ENC_CODEC_HEVC_GUID, 1;
#if NVENCAPI_MAJOR_VERSION >= 12
    case AV1:
        return *guid = NV_ENC_CODEC_AV1_GUID, 1;
#endif
    default:
        return 0;
    }
}

static int preset_number(GUID guid)
{
    const GUID presets[] = {
        NV_ENC_PRESET_P1_GUID, NV_ENC_PRESET_P2_GUID, NV_ENC_PRESET_P3_GUID, NV_ENC_PRESET_P4_GUID,
        NV_ENC_PRESET_P5_GUID, NV_ENC_PRESET_P6_GUID, NV_ENC_PRESET_P7_GUID,
    };

    for (int i = 0; i < 7; i++)
        if (SAME_GUID(presets[i], guid))
            return i + 1;
    return 0;
}

void preset_config(enum codec_kind kind, NV_ENC_TUNING_INFO tuning, NV_ENC_CONFIG *config)
{
    int b_frames = find_chip(settings()->chip)->codecs[kind].max_b_frames;

    memset(config, 0, sizeof *config);
    config->version = NV_ENC_CONFIG_VER;
    config->gopLength = 250;
    config->frameIntervalP = 1;
    if (tuning == NV_ENC_TUNING_INFO_HIGH_QUALITY && kind != AV1)
        config->frameIntervalP = b_frames < 3 ? b_frames + 1 : 4;
    config->rcParams.version = NV_ENC_RC_PARAMS_VER;
    config->rcParams.rateControlMode = NV_ENC_PARAMS_RC_VBR;
    if (kind == H264)
        config->encodeCodecConfig.h264Config.h264VUIParameters.videoFormat = 5;
    if (kind == HEVC)
        config->encodeCodecConfig.hevcConfig.hevcVUIParameters.videoFormat = 5;
}

static void read_vui(struct codec_config *to, const NV_ENC_CONFIG_H264_VUI_PARAMETERS *from)
{
    to->primaries = from->colourPrimaries;
    to->transfer = from->transferCharacteristics;
    to->matrix = from->colourMatrix;
    to->full_range = from->videoFullRangeFlag;
}

static const char *h264_profile(GUID guid)
{
    if (SAME_GUID(guid, NV_ENC_H264_PROFILE_BASELINE_GUID))
        return "baseline";
    return SAME_GUID(guid, NV_ENC_H264_PROFILE_MAIN_GUID) ? "main" : "high";
}

static void read_codec(struct codec_config *to, enum codec_kind kind, const NV_ENC_CONFIG *from)
{
    to->depth = 8;
    if (kind == H264) {
        const NV_ENC_CONFIG_H264 *h264 = &from->encodeCodecConfig.h264Config;

        to->profile = h264_profile(from->profileGUID);
        to->b_references = h264->useBFramesAsRef;
        to->headers_in_stream = h264->repeatSPSPPS;
        read_vui(to, &h264->h264VUIParameters);
    } else if (kind == HEVC) {
        const NV_ENC_CONFIG_HEVC *hevc = &from->encodeCodecConfig.hevcConfig;

        to->depth += hevc->pixelBitDepthMinus8;
        to->b_references = hevc->useBFramesAsRef;
        to->headers_in_stream = hevc->repeatSPSPPS;
        read_vui(to, &hevc->hevcVUIParameters);
    }
#if NVENCAPI_MAJOR_VERSION >= 12
    else if (kind == AV1) {
        const NV_ENC_CONFIG_AV1 *av1 = &from->encodeCodecConfig.av1Config;

        to->depth += av1->pixelBitDepthMinus8;
        to->b_references = av1->useBFramesAsRef;
        to->primaries = av1->colorPrimaries;
        to->transfer = av1->transferCharacteristics;
        to->matrix = av1->matrixCoefficients;
        to->full_range = av1->colorRange;
    }
#endif
}

/* FFmpeg has already dropped the average and the buffer of a constant quality. */
static void read_rate(struct codec_config *to, const NV_ENC_RC_PARAMS *from)
{
    to->quality = -1;
    if (from->rateControlMode == NV_ENC_PARAMS_RC_CONSTQP)
        to->quality = from->constQP.qpInterP;
    else if (from->targetQuality)
        to->quality = from->targetQuality;
    else
        to->bit_rate = from->averageBitRate ? from->averageBitRate : 2000000;
    to->max_rate = from->maxBitRate;
    to->buffer_bits = from->vbvBufferSize;
}

static void log_request(enum codec_kind kind, const NV_ENC_INITIALIZE_PARAMS *wanted, const struct codec_config *config)
{
    const NV_ENC_CONFIG *from = wanted->encodeConfig;
    const NV_ENC_RC_PARAMS *rc = &from->rcParams;
    const char *names[] = {"h264", "hevc", "av1"};

    log_line("initialize codec=%s size=%dx%d rate=%d/%d depth=%d preset=p%d tuning=%d gop=%u bframes=%d bref=%d rc=%d "
             "cq=%d rate=%u max=%u vbv=%u multipass=%d aq=%d:%d taq=%d lookahead=%d",
             names[kind], config->width, config->height, config->rate_num, config->rate_den, config->depth,
             preset_number(wanted->presetGUID), wanted->tuningInfo, from->gopLength, config->b_frames,
             config->b_references, rc->rateControlMode, rc->targetQuality, rc->averageBitRate, rc->maxBitRate,
             rc->vbvBufferSize, rc->multiPass, rc->enableAQ, rc->aqStrength, rc->enableTemporalAQ,
             rc->enableLookahead ? rc->lookaheadDepth : 0);
}

static NVENCSTATUS check(struct session *session, enum codec_kind kind, const NV_ENC_RC_PARAMS *rc)
{
    const struct codec_caps *caps = &find_chip(settings()->chip)->codecs[kind];
    const struct codec_config *config = &session->config;
    int min_width = settings()->min_width ? settings()->min_width : caps->min_width;
    int min_height = settings()->min_height ? settings()->min_height : caps->min_height;

    if (config->width < min_width || config->height < min_height)
        return failed(session, NV_ENC_ERR_INVALID_PARAM, "Frame Dimension less than the minimum supported value.");
    if (config->width > caps->max_side || config->height > caps->max_side)
        return failed(session, NV_ENC_ERR_INVALID_PARAM, "Frame Dimension exceeds the maximum supported value.");
    if (config->width % 2 || config->height % 2)
        return failed(session, NV_ENC_ERR_INVALID_PARAM, "The stand-in takes no odd sizes.");
    if (config->b_frames > caps->max_b_frames)
        return failed(session, NV_ENC_ERR_UNSUPPORTED_PARAM, "B-frames not supported.");
    if (config->depth > 8 && !caps->ten_bits)
        return failed(session, NV_ENC_ERR_UNSUPPORTED_PARAM, "10-bit encoding not supported.");
    if (rc->enableTemporalAQ && !caps->temporal_aq)
        return failed(session, NV_ENC_ERR_UNSUPPORTED_PARAM, "Temporal AQ not supported.");
    return NV_ENC_SUCCESS;
}

/* Pixels that make a picture of that size fill that shape. */
static void set_shape(struct codec_config *config, unsigned dar_width, unsigned dar_height)
{
    unsigned long long num = (unsigned long long)dar_width * config->height;
    unsigned long long den = (unsigned long long)dar_height * config->width;
    unsigned long long a = num, b = den;

    config->sar_num = config->sar_den = 1;
    while (b) {
        unsigned long long left = a % b;
        a = b;
        b = left;
    }
    if (a && num / a < 65536 && den / a < 65536) {
        config->sar_num = num / a;
        config->sar_den = den / a;
    }
}

NVENCSTATUS configure(struct session *session, const NV_ENC_INITIALIZE_PARAMS *wanted)
{
    enum codec_kind kind = kind_of(wanted->encodeGUID);
    const struct codec *codecs[] = {&x264_codec, &x265_codec, &aom_codec};
    struct codec_config *config = &session->config;
    const NV_ENC_CONFIG *from = wanted->encodeConfig;

    if (kind == CODECS || !from)
        return failed(session, NV_ENC_ERR_INVALID_PARAM, "Unknown codec, or no configuration.");
    config->width = wanted->encodeWidth;
    config->height = wanted->encodeHeight;
    config->rate_num = wanted->frameRateNum;
    config->rate_den = wanted->frameRateDen;
    config->gop = from->gopLength > 1 << 30 ? 1 << 30 : from->gopLength;
    config->b_frames = from->frameIntervalP > 1 ? from->frameIntervalP - 1 : 0;
    set_shape(config, wanted->darWidth, wanted->darHeight);
    read_codec(config, kind, from);
    read_rate(config, &from->rcParams);
    log_request(kind, wanted, config);
    session->codec = codecs[kind];
    return check(session, kind, &from->rcParams);
}
