/* libnvidia-encode.so.1: the functions that FFmpeg calls, with the checks of a driver. */

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "configure.h"
#include "settings.h"

#define EXPORTED __attribute__((visibility("default")))
#define NEEDS(given, expected) \
    do \
        if ((given)->version != (expected)) \
            return NV_ENC_ERR_INVALID_VERSION; \
    while (0)

static const struct codec_caps *caps_of(GUID guid)
{
    enum codec_kind kind = kind_of(guid);
    const struct codec_caps *caps = kind < CODECS ? &find_chip(settings()->chip)->codecs[kind] : NULL;

    return caps && caps->max_b_frames >= 0 ? caps : NULL;
}

/* --- sessions ---------------------------------------------------------------------------------------------------- */

static int newest_version(void)
{
    return settings()->api_version ? settings()->api_version : NVENCAPI_MAJOR_VERSION << 4 | NVENCAPI_MINOR_VERSION;
}

static NVENCSTATUS open_session(NV_ENC_OPEN_ENCODE_SESSION_EX_PARAMS *with, void **encoder)
{
    struct session *session;
    int slot;

    NEEDS(with, NV_ENC_OPEN_ENCODE_SESSION_EX_PARAMS_VER);
    if (fault(settings()->open_hangs, "open_hangs"))
        hang();
    if (fault(settings()->open_crashes, "open_crashes"))
        crash();
    if (fault(settings()->open_error, "open_error"))
        return settings()->open_error;
    if (!has_encoder(find_chip(settings()->chip)))
        return NV_ENC_ERR_UNSUPPORTED_DEVICE;
    if (with->apiVersion != NVENCAPI_VERSION)
        return NV_ENC_ERR_INVALID_VERSION;
    if ((slot = take_slot()) < 0) {
        log_line("refused status=%d", settings()->refusal);
        return settings()->refusal;
    }
    session = calloc(1, sizeof *session);
    session->slot = slot;
    session->rate_limit = settings()->frame_rate;
    log_line("open api=%d.%d", with->apiVersion & 0xff, with->apiVersion >> 24);
    *encoder = session;
    return NV_ENC_SUCCESS;
}

static NVENCSTATUS destroy_encoder(void *encoder)
{
    struct session *session = encoder;

    if (session->encoder)
        session->codec->close(session->encoder);
    log_line("close frames=%lld", (long long)session->submitted);
    close(session->slot);
    free(session->planes);
    free(session);
    return NV_ENC_SUCCESS;
}

static const char *last_error(void *encoder)
{
    return ((struct session *)encoder)->error;
}

/* --- what the chip can ------------------------------------------------------------------------------------------- */

static NVENCSTATUS guids(void *encoder, GUID *found, uint32_t room, uint32_t *count)
{
    GUID guid;

    (void)encoder;
    *count = 0;
    for (int kind = 0; kind < CODECS; kind++)
        if (guid_of(kind, &guid) && caps_of(guid)) {
            if (found && *count < room)
                found[*count] = guid;
            ++*count;
        }
    return NV_ENC_SUCCESS;
}

static NVENCSTATUS guid_count(void *encoder, uint32_t *count)
{
    return guids(encoder, NULL, 0, count);
}

static NVENCSTATUS get_caps(void *encoder, GUID guid, NV_ENC_CAPS_PARAM *asked, int *value)
{
    const struct codec_caps *caps = caps_of(guid);

    NEEDS(asked, NV_ENC_CAPS_PARAM_VER);
    if (!caps)
        return failed(encoder, NV_ENC_ERR_INVALID_PARAM, "Unknown codec.");
    switch (asked->capsToQuery) {
    case NV_ENC_CAPS_NUM_MAX_BFRAMES:
        return *value = caps->max_b_frames, NV_ENC_SUCCESS;
    case NV_ENC_CAPS_SUPPORT_BFRAME_REF_MODE:
        return *value = caps->b_frame_references, NV_ENC_SUCCESS;
    case NV_ENC_CAPS_SUPPORT_TEMPORAL_AQ:
        return *value = caps->temporal_aq, NV_ENC_SUCCESS;
    case NV_ENC_CAPS_SUPPORT_10BIT_ENCODE:
        return *value = caps->ten_bits, NV_ENC_SUCCESS;
    case NV_ENC_CAPS_WIDTH_MAX:
    case NV_ENC_CAPS_HEIGHT_MAX:
        return *value = caps->max_side, NV_ENC_SUCCESS;
    case NV_ENC_CAPS_WIDTH_MIN:
        return *value = settings()->min_width ? settings()->min_width : caps->min_width, NV_ENC_SUCCESS;
    case NV_ENC_CAPS_HEIGHT_MIN:
        return *value = settings()->min_height ? settings()->min_height : caps->min_height, NV_ENC_SUCCESS;
    case NV_ENC_CAPS_SUPPORT_CABAC:
    case NV_ENC_CAPS_SUPPORT_LOOKAHEAD:
    case NV_ENC_CAPS_SUPPORT_MULTIPLE_REF_FRAMES:
        return *value = 1, NV_ENC_SUCCESS;
    default: /* 4:4:4, lossless, fields, changes of the rate …: not in the stand-in */
        return *value = 0, NV_ENC_SUCCESS;
    }
}

static NVENCSTATUS get_preset(
    void *encoder, GUID guid, GUID preset, NV_ENC_TUNING_INFO tuning, NV_ENC_PRESET_CONFIG *made)
{
    (void)preset;
    NEEDS(made, NV_ENC_PRESET_CONFIG_VER);
    NEEDS(&made->presetCfg, NV_ENC_CONFIG_VER);
    if (!caps_of(guid))
        return failed(encoder, NV_ENC_ERR_INVALID_PARAM, "Unknown codec.");
    preset_config(kind_of(guid), tuning, &made->presetCfg);
    return NV_ENC_SUCCESS;
}

/* --- an encode --------------------------------------------------------------------------------------------------- */

static NVENCSTATUS initialize(void *encoder, NV_ENC_INITIALIZE_PARAMS *wanted)
{
    struct session *session = encoder;
    NVENCSTATUS status;

    NEEDS(wanted, NV_ENC_INITIALIZE_PARAMS_VER);
    NEEDS(wanted->encodeConfig, NV_ENC_CONFIG_VER);
    if ((status = configure(session, wanted)))
        return status;
    session->encoder = session->codec->open(&session->config);
    return session->encoder ? NV_ENC_SUCCESS : failed(session, NV_ENC_ERR_INVALID_PARAM, "The encoder refused this.");
}

static NVENCSTATUS set_streams(void *encoder, NV_ENC_CUSTREAM_PTR in, NV_ENC_CUSTREAM_PTR out)
{
    (void)encoder, (void)in, (void)out;
    return NV_ENC_SUCCESS;
}

static NVENCSTATUS create_input(void *encoder, NV_ENC_CREATE_INPUT_BUFFER *wanted)
{
    struct session *session = encoder;
    int deep = wanted->bufferFmt == NV_ENC_BUFFER_FORMAT_YUV420_10BIT;
    int pitch = (wanted->width * (deep ? 2 : 1) + 63) / 64 * 64;
    size_t bytes = picture_bytes(wanted->bufferFmt, pitch, wanted->height);
    struct input *input;

    NEEDS(wanted, NV_ENC_CREATE_INPUT_BUFFER_VER);
    if (!bytes || deep != (session->config.depth > 8))
        return failed(session, NV_ENC_ERR_INVALID_PARAM, "Input format %#x not supported.", wanted->bufferFmt);
    input = calloc(1, sizeof *input);
    *input = (struct input){wanted->bufferFmt, wanted->width, wanted->height, pitch, malloc(bytes)};
    wanted->inputBuffer = input;
    return NV_ENC_SUCCESS;
}

static NVENCSTATUS destroy_input(void *encoder, NV_ENC_INPUT_PTR buffer)
{
    struct input *input = buffer;

    (void)encoder;
    if (input)
        free(input->data);
    free(input);
    return NV_ENC_SUCCESS;
}

static NVENCSTATUS lock_input(void *encoder, NV_ENC_LOCK_INPUT_BUFFER *lock)
{
    struct input *input = lock->inputBuffer;

    (void)encoder;
    NEEDS(lock, NV_ENC_LOCK_INPUT_BUFFER_VER);
    lock->bufferDataPtr = input->data;
    lock->pitch = input->pitch;
    return NV_ENC_SUCCESS;
}

static NVENCSTATUS unlock(void *encoder, void *buffer)
{
    (void)encoder, (void)buffer;
    return NV_ENC_SUCCESS;
}

static NVENCSTATUS create_output(void *encoder, NV_ENC_CREATE_BITSTREAM_BUFFER *wanted)
{
    (void)encoder;
    NEEDS(wanted, NV_ENC_CREATE_BITSTREAM_BUFFER_VER);
    wanted->bitstreamBuffer = calloc(1, sizeof(struct output));
    return NV_ENC_SUCCESS;
}

static NVENCSTATUS destroy_output(void *encoder, NV_ENC_OUTPUT_PTR buffer)
{
    struct output *output = buffer;

    (void)encoder;
    if (output)
        free(output->data);
    free(output);
    return NV_ENC_SUCCESS;
}

static NVENCSTATUS encode(void *encoder, NV_ENC_PIC_PARAMS *picture)
{
    struct session *session = encoder;

    NEEDS(picture, NV_ENC_PIC_PARAMS_VER);
    if (!session->encoder)
        return failed(session, NV_ENC_ERR_ENCODER_NOT_INITIALIZED, "Encoder not initialized.");
    return encode_picture(session, picture);
}

static NVENCSTATUS lock_output(void *encoder, NV_ENC_LOCK_BITSTREAM *lock)
{
    static const NV_ENC_PIC_TYPE types[] = {
        [UNIT_IDR] = NV_ENC_PIC_TYPE_IDR, [UNIT_I] = NV_ENC_PIC_TYPE_I,
        [UNIT_P] = NV_ENC_PIC_TYPE_P, [UNIT_B] = NV_ENC_PIC_TYPE_B,
    };
    struct session *session = encoder;
    struct output *output = lock->outputBitstream;

    NEEDS(lock, NV_ENC_LOCK_BITSTREAM_VER);
    if (!output->filled)
        return failed(session, NV_ENC_ERR_LOCK_BUSY, "Locked too early; FFmpeg's -delay must exceed the B-frames.");
    lock->bitstreamBufferPtr = output->data;
    lock->bitstreamSizeInBytes = output->size;
    lock->outputTimeStamp = session->frames[output->index % PICTURES_IN_FLIGHT].time;
    lock->outputDuration = session->frames[output->index % PICTURES_IN_FLIGHT].duration;
    lock->frameIdx = output->index;
    lock->pictureType = types[output->type];
    lock->pictureStruct = NV_ENC_PIC_STRUCT_FRAME;
    lock->frameAvgQP = 24;
    return NV_ENC_SUCCESS;
}

static NVENCSTATUS sequence_params(void *encoder, NV_ENC_SEQUENCE_PARAM_PAYLOAD *payload)
{
    struct session *session = encoder;
    size_t size;

    NEEDS(payload, NV_ENC_SEQUENCE_PARAM_PAYLOAD_VER);
    size = session->codec->headers(session->encoder, payload->spsppsBuffer, payload->inBufferSize);
    *payload->outSPSPPSPayloadSize = size;
    return size ? NV_ENC_SUCCESS : failed(session, NV_ENC_ERR_GENERIC, "No parameter sets.");
}

static NVENCSTATUS reconfigure(void *encoder, NV_ENC_RECONFIGURE_PARAMS *wanted)
{
    (void)encoder;
    NEEDS(wanted, NV_ENC_RECONFIGURE_PARAMS_VER);
    log_line("reconfigure");
    return NV_ENC_SUCCESS;
}

static NVENCSTATUS register_resource(void *encoder, NV_ENC_REGISTER_RESOURCE *wanted)
{
    (void)wanted;
    return failed(encoder, NV_ENC_ERR_UNIMPLEMENTED, "The stand-in takes pictures from the host's memory only.");
}

EXPORTED NVENCSTATUS NvEncodeAPIGetMaxSupportedVersion(uint32_t *version)
{
    *version = newest_version();
    return NV_ENC_SUCCESS;
}

EXPORTED NVENCSTATUS NvEncodeAPICreateInstance(NV_ENCODE_API_FUNCTION_LIST *list)
{
    NEEDS(list, NV_ENCODE_API_FUNCTION_LIST_VER);
    *list = (NV_ENCODE_API_FUNCTION_LIST){
        .version = list->version,
        .nvEncOpenEncodeSessionEx = open_session,
        .nvEncGetEncodeGUIDCount = guid_count,
        .nvEncGetEncodeGUIDs = guids,
        .nvEncGetEncodeCaps = get_caps,
        .nvEncGetEncodePresetConfigEx = get_preset,
        .nvEncInitializeEncoder = initialize,
        .nvEncSetIOCudaStreams = set_streams,
        .nvEncCreateInputBuffer = create_input,
        .nvEncDestroyInputBuffer = destroy_input,
        .nvEncLockInputBuffer = lock_input,
        .nvEncUnlockInputBuffer = unlock,
        .nvEncCreateBitstreamBuffer = create_output,
        .nvEncDestroyBitstreamBuffer = destroy_output,
        .nvEncEncodePicture = encode,
        .nvEncLockBitstream = lock_output,
        .nvEncUnlockBitstream = unlock,
        .nvEncGetSequenceParams = sequence_params,
        .nvEncReconfigureEncoder = reconfigure,
        .nvEncRegisterResource = register_resource,
        .nvEncDestroyEncoder = destroy_encoder,
        .nvEncGetLastErrorString = last_error,
    };
    return NV_ENC_SUCCESS;
}
