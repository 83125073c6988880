// Runs CUDA source on the CPU: one fiber per thread of a block, blocks one after the other. A barrier is a rendezvous of all
// fibers, shared memory is NaN before each block, and threads can be taken in the other order, so that a missing barrier or
// a value that is read before it is written shows in the results.

#define NATRON_SHIM
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define __device__
#define __global__
#define __constant__ static
#define __syncthreads() shim_wait(__LINE__)
#define NATRON_SHARED(name) double* const name = shim_shared

struct Dim {
    unsigned x, y, z;
};

static Dim threadIdx, blockIdx, blockDim, gridDim;
static double* shim_shared;

static inline double __longlong_as_double(long long bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline long long __double_as_longlong(double x) {
    long long bits;
    memcpy(&bits, &x, sizeof x);
    return bits;
}

typedef void (*ShimKernel)(const unsigned long long*, const unsigned long long*, unsigned long long);

struct ShimFiber {
    ucontext_t context;
    char* stack;
    int waits_at;  // The line of the barrier; 0 when it has ended.
};

const size_t SHIM_STACK = 128 << 10;
const size_t SHIM_GUARD = 64;
const unsigned long long SHIM_POISON = 0x7ff8badbadbadbadull;

static ShimFiber* shim_fibers;
static ucontext_t shim_scheduler;
static unsigned shim_current;
static ShimKernel shim_kernel;
static const unsigned long long *shim_table, *shim_segments;
static unsigned long long shim_longest;

static void shim_wait(int line) {
    const unsigned self = shim_current;
    shim_fibers[self].waits_at = line;
    swapcontext(&shim_fibers[self].context, &shim_scheduler);
}

static void shim_main() {
    shim_kernel(shim_table, shim_segments, shim_longest);
    shim_fibers[shim_current].waits_at = 0;
}

// 0, or what went wrong: 1 threads wait at different barriers, or some wait for others that have ended; 2 shared memory
// was written beyond its end.
static int shim_block(unsigned n_threads, size_t n_shared, bool is_reversed) {
    unsigned long long* words = (unsigned long long*)shim_shared;
    for (size_t k = 0; k < n_shared + SHIM_GUARD; k++) words[k] = SHIM_POISON;
    for (unsigned k = 0; k < n_threads; k++) {
        ShimFiber& fiber = shim_fibers[k];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack;
        fiber.context.uc_stack.ss_size = SHIM_STACK;
        fiber.context.uc_link = &shim_scheduler;
        makecontext(&fiber.context, shim_main, 0);
    }
    for (;;) {
        for (unsigned k = 0; k < n_threads; k++) {
            shim_current = is_reversed ? n_threads - 1 - k : k;
            threadIdx = Dim{shim_current, 0, 0};
            swapcontext(&shim_scheduler, &shim_fibers[shim_current].context);
        }
        for (unsigned k = 1; k < n_threads; k++)
            if (shim_fibers[k].waits_at != shim_fibers[0].waits_at) return 1;
        if (shim_fibers[0].waits_at == 0) break;
    }
    for (size_t k = n_shared; k < n_shared + SHIM_GUARD; k++)
        if (words[k] != SHIM_POISON) return 2;
    return 0;
}

extern "C" int shim_run(ShimKernel kernel, const unsigned* grid, unsigned n_threads, size_t shared_bytes,
                        const unsigned long long* table, const unsigned long long* segments,
                        unsigned long long longest, int is_reversed) {
    const size_t n_shared = shared_bytes / sizeof(double);
    shim_kernel = kernel;
    shim_table = table;
    shim_segments = segments;
    shim_longest = longest;
    gridDim = Dim{grid[0], grid[1], grid[2]};
    blockDim = Dim{n_threads, 1, 1};
    shim_shared = (double*)malloc((n_shared + SHIM_GUARD) * sizeof(double));
    shim_fibers = (ShimFiber*)calloc(n_threads, sizeof(ShimFiber));
    for (unsigned k = 0; k < n_threads; k++) shim_fibers[k].stack = (char*)malloc(SHIM_STACK);
    int failed = 0;
    for (unsigned z = 0; z < grid[2] && !failed; z++)
        for (unsigned y = 0; y < grid[1] && !failed; y++)
            for (unsigned x = 0; x < grid[0] && !failed; x++) {
                blockIdx = Dim{x, y, z};
                failed = shim_block(n_threads, n_shared, is_reversed != 0);
            }
    for (unsigned k = 0; k < n_threads; k++) free(shim_fibers[k].stack);
    free(shim_fibers);
    free(shim_shared);
    return failed;
}
