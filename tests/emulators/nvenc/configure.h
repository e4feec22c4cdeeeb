/* From NVENC's structures to what an encoder library needs, with the checks that a driver makes. */

#pragma once

#include "session.h"

#define SAME_GUID(a, b) (!memcmp(&(a), &(b), sizeof(GUID)))

/* The codec of an encode GUID; CODECS for one that these headers or this stand-in do not know. */
enum codec_kind kind_of(GUID guid);

/* The GUID of a codec. Returns 0 where the headers are older than the codec. */
int guid_of(enum codec_kind kind, GUID *guid);

/* Fills in the configuration of a preset. */
void preset_config(enum codec_kind kind, NV_ENC_TUNING_INFO tuning, NV_ENC_CONFIG *config);

/* Reads the request into `session->config` and logs it; refuses what the chip cannot encode. */
NVENCSTATUS configure(struct session *session, const NV_ENC_INITIALIZE_PARAMS *wanted);
