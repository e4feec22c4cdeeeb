#include "session.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "settings.h"

int take_slot(void)
{
    for (int i = 0; i < settings()->sessions; i++) {
        /* The kernel frees an abstract name when the process dies, however it dies. */
        struct sockaddr_un name = {.sun_family = AF_UNIX};
        int length = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "%s/%d", settings()->tag, i);
        int slot = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (slot < 0)
            return -1;
        if (!bind(slot, (void *)&name, offsetof(struct sockaddr_un, sun_path) + 1 + length))
            return slot;
        close(slot);
    }
    return -1;
}

NVENCSTATUS failed(struct session *session, NVENCSTATUS status, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(session->error, sizeof session->error, format, arguments);
    va_end(arguments);
    log_line("failed status=%d %s", status, session->error);
    return status;
}

size_t picture_bytes(NV_ENC_BUFFER_FORMAT format, int pitch, int height)
{
    switch (format) {
    case NV_ENC_BUFFER_FORMAT_YV12:
    case NV_ENC_BUFFER_FORMAT_NV12:
    case NV_ENC_BUFFER_FORMAT_YUV420_10BIT:
        return (size_t)pitch * height * 3 / 2;
    default:
        return 0;
    }
}

/* Copies what the caller wrote into planes of Y, U and V. */
static void split_8(const struct input *from, struct picture *to)
{
    int half = from->width / 2, rows = from->height / 2;
    const uint8_t *chroma = from->data + (size_t)from->pitch * from->height;

    for (int y = 0; y < from->height; y++)
        memcpy(to->plane[0] + (size_t)y * to->stride[0], from->data + (size_t)y * from->pitch, from->width);
    for (int y = 0; y < rows; y++) {
        uint8_t *u = to->plane[1] + (size_t)y * to->stride[1], *v = to->plane[2] + (size_t)y * to->stride[2];

        if (from->format == NV_ENC_BUFFER_FORMAT_YV12) { /* V first */
            memcpy(v, chroma + (size_t)y * from->pitch / 2, half);
            memcpy(u, chroma + (size_t)(rows + y) * from->pitch / 2, half);
            continue;
        }
        for (int x = 0; x < half; x++) {
            u[x] = chroma[(size_t)y * from->pitch + 2 * x];
            v[x] = chroma[(size_t)y * from->pitch + 2 * x + 1];
        }
    }
}

/* The same for P010, whose ten bits are the upper ones of each word. */
static void split_10(const struct input *from, struct picture *to)
{
    const uint8_t *chroma = from->data + (size_t)from->pitch * from->height;

    for (int y = 0; y < from->height; y++) {
        const uint16_t *luma = (const uint16_t *)(from->data + (size_t)y * from->pitch);
        uint16_t *line = (uint16_t *)(to->plane[0] + (size_t)y * to->stride[0]);

        for (int x = 0; x < from->width; x++)
            line[x] = luma[x] >> 6;
    }
    for (int y = 0; y < from->height / 2; y++) {
        const uint16_t *both = (const uint16_t *)(chroma + (size_t)y * from->pitch);
        uint16_t *u = (uint16_t *)(to->plane[1] + (size_t)y * to->stride[1]);
        uint16_t *v = (uint16_t *)(to->plane[2] + (size_t)y * to->stride[2]);

        for (int x = 0; x < from->width / 2; x++) {
            u[x] = both[2 * x] >> 6;
            v[x] = both[2 * x + 1] >> 6;
        }
    }
}

static struct picture planes_of(struct session *session, const struct input *input)
{
    int bytes = session->config.depth > 8 ? 2 : 1;
    int width = session->config.width * bytes, height = session->config.height;
    struct picture picture = {.stride = {width, width / 2, width / 2}};

    if (!session->planes)
        session->planes = malloc((size_t)width * height * 3 / 2);
    picture.plane[0] = session->planes;
    picture.plane[1] = picture.plane[0] + (size_t)width * height;
    picture.plane[2] = picture.plane[1] + (size_t)width / 2 * height / 2;
    (bytes > 1 ? split_10 : split_8)(input, &picture);
    return picture;
}

static void submit(struct session *session, struct output *output)
{
    output->next = NULL;
    output->filled = 0;
    if (session->last)
        session->last->next = output;
    else
        session->first = output;
    session->last = output;
}

/* Puts a unit into the buffer that was submitted first. */
static void fill(struct session *session, const struct unit *unit)
{
    struct output *output = session->first;

    session->first = output->next;
    if (!session->first)
        session->last = NULL;
    output->data = realloc(output->data, unit->size);
    memcpy(output->data, unit->data, unit->size);
    output->size = unit->size;
    output->type = unit->type;
    output->index = unit->index;
    output->filled = 1;
}

static void keep_pace(const struct session *session)
{
    struct timespec pause = {0};

    if (!session->rate_limit)
        return;
    pause.tv_sec = 1 / session->rate_limit;
    pause.tv_nsec = session->rate_limit > 1 ? 1000000000L / session->rate_limit : 0;
    nanosleep(&pause, NULL);
}

static NVENCSTATUS finish(struct session *session)
{
    struct unit unit;
    int got;

    while (session->first && (got = session->codec->encode(session->encoder, NULL, &unit)) > 0)
        fill(session, &unit);
    if (!session->ended)
        log_line("eos frames=%lld", (long long)session->submitted);
    session->ended = 1;
    return session->first ? failed(session, NV_ENC_ERR_GENERIC, "the encoder lost pictures") : NV_ENC_SUCCESS;
}

NVENCSTATUS encode_picture(struct session *session, const NV_ENC_PIC_PARAMS *given)
{
    const struct settings *with = settings();
    struct picture picture;
    struct unit unit;
    int64_t index = session->submitted;
    int got;

    if (given->encodePicFlags & NV_ENC_PIC_FLAG_EOS)
        return finish(session);
    if (index == with->frame_crashes && fault(1, "frame_crashes"))
        crash();
    if (index == with->frame_hangs && fault(1, "frame_hangs"))
        hang();
    if (index == with->frame_fails && fault(1, "frame_fails"))
        return failed(session, NV_ENC_ERR_GENERIC, "EncodeAPI Internal Error.");
    keep_pace(session);
    picture = planes_of(session, given->inputBuffer);
    picture.index = index;
    picture.force_idr = !!(given->encodePicFlags & (NV_ENC_PIC_FLAG_FORCEIDR | NV_ENC_PIC_FLAG_FORCEINTRA));
    session->frames[index % PICTURES_IN_FLIGHT].time = given->inputTimeStamp;
    session->frames[index % PICTURES_IN_FLIGHT].duration = given->inputDuration;
    session->submitted++;
    submit(session, given->outputBitstream);
    got = session->codec->encode(session->encoder, &picture, &unit);
    if (got < 0)
        return failed(session, NV_ENC_ERR_GENERIC, "the encoder refused picture %lld", (long long)index);
    if (!got)
        return NV_ENC_ERR_NEED_MORE_INPUT;
    fill(session, &unit);
    return NV_ENC_SUCCESS;
}
