#include "chips.h"

#include <stddef.h>
#include <string.h>

#define NO_CODEC {.max_b_frames = -1}

static const struct chip chips[] = {
    {"pascal", "NVIDIA GeForce GTX 1080", 6, 1,
     {{4, 2, 1, 0, 33, 17, 4096}, {0, 0, 0, 1, 65, 33, 8192}, NO_CODEC}},
    {"turing", "Tesla T4", 7, 5, {{4, 2, 1, 0, 145, 49, 4096}, {5, 2, 1, 1, 129, 33, 8192}, NO_CODEC}},
    {"ampere", "NVIDIA RTX A4000", 8, 6, {{4, 3, 1, 0, 145, 49, 4096}, {5, 3, 1, 1, 129, 33, 8192}, NO_CODEC}},
    {"ada", "NVIDIA GeForce RTX 4090", 8, 9,
     {{4, 3, 1, 0, 145, 49, 4096}, {5, 3, 1, 1, 129, 33, 8192}, {7, 3, 1, 1, 192, 128, 8192}}},
    {"blackwell", "NVIDIA GeForce RTX 5090", 12, 0,
     {{4, 3, 1, 1, 145, 49, 4096}, {5, 3, 1, 1, 129, 33, 8192}, {7, 3, 1, 1, 192, 128, 8192}}},
    {"hopper", "NVIDIA H100 80GB HBM3", 9, 0, {NO_CODEC, NO_CODEC, NO_CODEC}},
};

const struct chip *find_chip(const char *name)
{
    for (size_t i = 0; i < sizeof chips / sizeof *chips; i++)
        if (!strcmp(chips[i].name, name))
            return &chips[i];
    return NULL;
}

int has_encoder(const struct chip *chip)
{
    for (int codec = 0; codec < CODECS; codec++)
        if (chip->codecs[codec].max_b_frames >= 0)
            return 1;
    return 0;
}
