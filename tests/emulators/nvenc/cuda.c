/* libcuda.so.1: devices and contexts. Work on a GPU's own memory is refused: the encoder takes pictures from the host. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chips.h"
#include "settings.h"

enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_NOT_SUPPORTED = 801,
};

static const struct {
    int code;
    const char *name, *text;
} errors[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {35, "CUDA_ERROR_INSUFFICIENT_DRIVER", "CUDA driver version is insufficient for CUDA runtime version"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

int cuGetErrorName(int code, const char **name)
{
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == code)
            return *name = errors[i].name, CUDA_SUCCESS;
    return CUDA_ERROR_INVALID_VALUE;
}

int cuGetErrorString(int code, const char **text)
{
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == code)
            return *text = errors[i].text, CUDA_SUCCESS;
    return CUDA_ERROR_INVALID_VALUE;
}

int cuInit(unsigned flags)
{
    (void)flags;
    log_line("cuInit chip=%s", settings()->chip);
    if (fault(settings()->cu_init, "cu_init"))
        return settings()->cu_init;
    return settings()->devices ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE;
}

int cuDriverGetVersion(int *version)
{
    *version = 12080;
    return CUDA_SUCCESS;
}

int cuDeviceGetCount(int *count)
{
    *count = settings()->devices;
    return CUDA_SUCCESS;
}

int cuDeviceGet(int *device, int ordinal)
{
    *device = ordinal;
    return ordinal < settings()->devices ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

int cuDeviceGetName(char *name, int room, int device)
{
    (void)device;
    snprintf(name, room, "%s", find_chip(settings()->chip)->device);
    return CUDA_SUCCESS;
}

int cuDeviceComputeCapability(int *major, int *minor, int device)
{
    (void)device;
    *major = find_chip(settings()->chip)->major;
    *minor = find_chip(settings()->chip)->minor;
    return CUDA_SUCCESS;
}

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    (void)attribute, (void)device;
    *value = 1;
    return CUDA_SUCCESS;
}

/* The thread's stack of contexts, one deep: FFmpeg pushes none while it holds another. */
static __thread void *current;

int cuCtxCreate_v2(void **context, unsigned flags, int device)
{
    (void)flags;
    if (fault(settings()->cu_ctx_create, "cu_ctx_create"))
        return settings()->cu_ctx_create;
    log_line("cuCtxCreate device=%d", device);
    *context = current = malloc(1);
    return CUDA_SUCCESS;
}

int cuCtxPushCurrent_v2(void *context)
{
    current = context;
    return CUDA_SUCCESS;
}

int cuCtxPopCurrent_v2(void **context)
{
    if (!current)
        return CUDA_ERROR_INVALID_CONTEXT;
    *context = current;
    current = NULL;
    return CUDA_SUCCESS;
}

int cuCtxDestroy_v2(void *context)
{
    free(context);
    return CUDA_SUCCESS;
}

/* FFmpeg's loader insists on all of these: on those of SDK 11.1 and of 12.1. */
#define REFUSED(name) \
    int name(void) \
    { \
        return CUDA_ERROR_NOT_SUPPORTED; \
    }

REFUSED(cuArray3DCreate_v2) REFUSED(cuArrayCreate_v2) REFUSED(cuArrayDestroy)
REFUSED(cuCtxGetCurrent) REFUSED(cuCtxGetDevice) REFUSED(cuCtxSetLimit)
REFUSED(cuDevicePrimaryCtxGetState) REFUSED(cuDevicePrimaryCtxRelease) REFUSED(cuDevicePrimaryCtxReset)
REFUSED(cuDevicePrimaryCtxRetain) REFUSED(cuDevicePrimaryCtxSetFlags)
REFUSED(cuEventCreate) REFUSED(cuEventDestroy_v2) REFUSED(cuEventQuery) REFUSED(cuEventRecord)
REFUSED(cuEventSynchronize)
REFUSED(cuGLGetDevices_v2) REFUSED(cuGraphicsGLRegisterImage) REFUSED(cuGraphicsMapResources)
REFUSED(cuGraphicsResourceGetMappedPointer_v2) REFUSED(cuGraphicsSubResourceGetMappedArray)
REFUSED(cuGraphicsUnmapResources) REFUSED(cuGraphicsUnregisterResource)
REFUSED(cuLaunchKernel) REFUSED(cuLinkAddData) REFUSED(cuLinkComplete) REFUSED(cuLinkCreate) REFUSED(cuLinkDestroy)
REFUSED(cuMemAllocManaged) REFUSED(cuMemAllocPitch_v2) REFUSED(cuMemAlloc_v2) REFUSED(cuMemFree_v2)
REFUSED(cuMemcpy) REFUSED(cuMemcpy2DAsync_v2) REFUSED(cuMemcpy2D_v2) REFUSED(cuMemcpyAsync)
REFUSED(cuMemcpyDtoDAsync_v2) REFUSED(cuMemcpyDtoD_v2) REFUSED(cuMemcpyDtoHAsync_v2) REFUSED(cuMemcpyDtoH_v2)
REFUSED(cuMemcpyHtoDAsync_v2) REFUSED(cuMemcpyHtoD_v2) REFUSED(cuMemsetD8Async)
REFUSED(cuModuleGetFunction) REFUSED(cuModuleGetGlobal) REFUSED(cuModuleLoadData) REFUSED(cuModuleUnload)
REFUSED(cuStreamAddCallback) REFUSED(cuStreamCreate) REFUSED(cuStreamDestroy_v2) REFUSED(cuStreamQuery)
REFUSED(cuStreamSynchronize) REFUSED(cuStreamWaitEvent) REFUSED(cuTexObjectCreate) REFUSED(cuTexObjectDestroy)
