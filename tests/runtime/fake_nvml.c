/* A small libnvidia-ml.so.1 for tests: the GPUs are what $FAKE_NVML says, one a line:

       name|uuid|total memory|used memory|utilisation in percent|MIG mode (0, 1, or - for "not supported")

   "broken" as a name is a GPU that does not answer. Without $FAKE_NVML the driver is not loaded. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int nvmlReturn_t;
enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15 };

struct gpu {
    char name[96], uuid[96], mig[8];
    unsigned long long total, used;
    unsigned int utilisation;
};

static struct gpu gpus[16];
static unsigned int count;
static int initialised;

nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    const char *text = getenv("FAKE_NVML");
    if (text == NULL)
        return DRIVER_NOT_LOADED;
    count = 0;
    while (*text != '\0' && count < 16) {
        struct gpu *gpu = &gpus[count];
        if (sscanf(text, "%95[^|]|%95[^|]|%llu|%llu|%u|%7[^\n]", gpu->name, gpu->uuid, &gpu->total, &gpu->used,
                   &gpu->utilisation, gpu->mig) == 6)
            count++;
        text += strcspn(text, "\n");
        if (*text == '\n')
            text++;
    }
    initialised = 1;
    return SUCCESS;
}

nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

nvmlReturn_t nvmlShutdown(void) {
    initialised = 0;
    return SUCCESS;
}

const char *nvmlErrorString(nvmlReturn_t result) {
    return result == DRIVER_NOT_LOADED ? "Driver Not Loaded" : result == GPU_IS_LOST ? "GPU is lost" : "Error";
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    snprintf(version, length, "550.54.15");
    return initialised ? SUCCESS : UNINITIALIZED;
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *found) {
    *found = count;
    return initialised ? SUCCESS : UNINITIALIZED;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
    if (index >= count)
        return INVALID_ARGUMENT;
    *device = &gpus[index];
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetName(void *device, char *name, unsigned int length) {
    snprintf(name, length, "%s", ((struct gpu *)device)->name);
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUUID(void *device, char *uuid, unsigned int length) {
    struct gpu *gpu = device;
    if (strcmp(gpu->name, "broken") == 0)
        return GPU_IS_LOST;
    snprintf(uuid, length, "%s", gpu->uuid);
    return SUCCESS;
}

struct memory {
    unsigned long long total, free, used;
};

nvmlReturn_t nvmlDeviceGetMemoryInfo(void *device, struct memory *memory) {
    struct gpu *gpu = device;
    memory->total = gpu->total;
    memory->used = gpu->used;
    memory->free = gpu->total - gpu->used;
    return SUCCESS;
}

struct utilisation {
    unsigned int gpu, memory;
};

nvmlReturn_t nvmlDeviceGetUtilizationRates(void *device, struct utilisation *rates) {
    rates->gpu = ((struct gpu *)device)->utilisation;
    rates->memory = 0;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigMode(void *device, unsigned int *current, unsigned int *pending) {
    struct gpu *gpu = device;
    if (gpu->mig[0] == '-')
        return NOT_SUPPORTED;
    *current = *pending = gpu->mig[0] == '1';
    return SUCCESS;
}
