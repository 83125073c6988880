// What every generated program begins with: accessors, the place of a tile in its series, and chunks of recurrences.

typedef unsigned long long u64;
typedef long long i64;

#ifndef NATRON_SHIM
extern __shared__ double natron_shared[];
#define NATRON_SHARED(name) double* const name = natron_shared
#endif

// A number by its bits.
__device__ inline double number(u64 bits) { return __longlong_as_double((i64)bits); }

__device__ inline double nan_value() { return number(0x7ff8000000000000ull); }

__device__ inline bool is_nan(double x) { return x != x; }

// A value as an output: one NaN for everything that is no number or too large for one.
__device__ inline Output as_output(double x) {
    const Output y = (Output)x;
    return fabs((double)y) <= 1.7976931348623157e308 ? y : (Output)nan_value();
}

// Column `k` of the table of addresses.
__device__ inline double* column(const u64* table, int k) { return (double*)table[k]; }

// A value that is read in its own row only; `x[0]` as with a pointer.
struct Here {
    double x;
    __device__ double operator[](int) const { return x; }
};

// A column in global memory at a row; rows before the series are NaN.
struct There {
    const double* at;
    i64 rows_before;
    __device__ double operator[](int k) const { return -k > rows_before ? nan_value() : at[k]; }
};

// The value of a column; NaN before the series.
__device__ inline double load(const double* column, i64 row, i64 begin) {
    return row < begin ? nan_value() : column[row];
}

__device__ inline i64 floor_divided(i64 a, i64 b) {
    const i64 quotient = a / b;
    return a % b < 0 ? quotient - 1 : quotient;
}

const i64 DAY_NS = 86400000000000ll;

// Days since 1970-01-01 UTC; NaN before the series.
__device__ inline double day(const double* column, i64 row, i64 begin) {
    return row < begin ? nan_value() : (double)floor_divided(((const i64*)column)[row], DAY_NS);
}

// Nanoseconds since the day began; NaN before the series.
__device__ inline double time_of_day(const double* column, i64 row, i64 begin) {
    if (row < begin) return nan_value();
    const i64 ts_ns = ((const i64*)column)[row];
    return (double)(ts_ns - floor_divided(ts_ns, DAY_NS) * DAY_NS);
}

// The rows of a block: series `blockIdx.y` spans rows segments[y] .. segments[y + 1], and block `blockIdx.x` computes the
// `size` rows from `first`.
struct Tile {
    i64 begin, end, first;
    int n;
    __device__ Tile(const u64* segments, int size) {
        begin = (i64)segments[blockIdx.y];
        end = (i64)segments[blockIdx.y + 1];
        first = begin + (i64)blockIdx.x * size;
        n = (int)(end - first < size ? end - first : size);
    }
};

// The columns of a recurrence: what it reads, what later launches read of it, and what leaves the program; null where
// nobody wants it.
template <class R>
struct Columns {
    const double* in[R::INPUTS];
    double* out[R::OUTPUTS];
    Output* kept[R::OUTPUTS];
};

const int LANES = 32;
const int STEPS = 16;
const int STRIDE = STEPS + 1; // Lanes that read down their chunks hit different banks.

// What a pass over chunks is for.
enum Pass {
    RESTART,  // Each chunk starts `run_up` rows early, from nothing.
    TOTAL,    // The same, and its effect on what lies before is written down.
    RESUME,   // Each chunk starts from the state before it.
    SUPPOSE,  // As RESTART, and the states before and after the chunk are written down.
};

// One chunk per lane; grid: (chunks / 32, series), block: 32. Rows come and go through shared memory, 16 of each chunk at a
// time, so that neighbouring lanes move neighbouring values.
// Shared: [(R::INPUTS + R::OUTPUTS) * 32 * STRIDE]. states: [series, chunks, R::WORDS], twice as many words for SUPPOSE.
template <int PASS, class R>
__device__ void run_chunks(R state, const Columns<R>& columns, const u64* segments, i64 chunk_rows, i64 run_up,
                           double* states, i64 n_chunks) {
    NATRON_SHARED(shared);
    const i64 begin = (i64)segments[blockIdx.y], end = (i64)segments[blockIdx.y + 1];
    const int lane = threadIdx.x;
    const i64 of_block = begin + (i64)blockIdx.x * LANES * chunk_rows;
    if (of_block >= end) return;
    const i64 own = of_block + lane * chunk_rows;
    const int n_words = PASS == SUPPOSE ? 2 * R::WORDS : R::WORDS;
    double* const mine = states + ((i64)blockIdx.y * n_chunks + (i64)blockIdx.x * LANES + lane) * n_words;
    double* const outs = shared + R::INPUTS * LANES * STRIDE;

    for (i64 base = -run_up; base < chunk_rows; base += STEPS) {
        for (int k = lane; k < LANES * STEPS; k += LANES) {
            const int chunk = k / STEPS, step = k % STEPS;
            const i64 row = of_block + chunk * chunk_rows + base + step;
            if (row >= begin && row < end) {
                for (int i = 0; i < R::INPUTS; i++)
                    shared[(i * LANES + chunk) * STRIDE + step] = columns.in[i][row];
            }
        }
        __syncthreads();
        if (base == 0 && own < end) {
            if constexpr (PASS == TOTAL) state.begin();
            if constexpr (PASS == RESUME) state.take(mine);
            if constexpr (PASS == SUPPOSE) state.put(mine);
        }
        for (int step = 0; step < STEPS; step++) {
            const i64 row = own + base + step;
            if (row < begin || row >= end) continue;
            double in[R::INPUTS], out[R::OUTPUTS];
            for (int i = 0; i < R::INPUTS; i++) in[i] = shared[(i * LANES + lane) * STRIDE + step];
            state.step(in, out);
            if (PASS != TOTAL)
                for (int i = 0; i < R::OUTPUTS; i++) outs[(i * LANES + lane) * STRIDE + step] = out[i];
        }
        __syncthreads();
        if (PASS == TOTAL || base < 0) continue;
        for (int k = lane; k < LANES * STEPS; k += LANES) {
            const int chunk = k / STEPS, step = k % STEPS;
            const i64 row = of_block + chunk * chunk_rows + base + step;
            if (row < end) {
                for (int i = 0; i < R::OUTPUTS; i++) {
                    const double x = outs[(i * LANES + chunk) * STRIDE + step];
                    if (columns.out[i]) columns.out[i][row] = x;
                    if (columns.kept[i]) columns.kept[i][row] = as_output(x);
                }
            }
        }
    }
    if (own < end) {
        if constexpr (PASS == TOTAL) state.put(mine);
        if constexpr (PASS == SUPPOSE) state.put(mine + R::WORDS);
    }
}

// Turns each chunk's effect into the state before the chunk: one lane per series, in order.
// grid: (1, series), block: 1.
template <class R>
__device__ void carry_chunks(R state, const u64* segments, i64 chunk_rows, double* states, i64 n_chunks) {
    const i64 n_rows = (i64)(segments[blockIdx.y + 1] - segments[blockIdx.y]);
    double* mine = states + (i64)blockIdx.y * n_chunks * R::WORDS;
    for (i64 start = 0; start < n_rows; start += chunk_rows, mine += R::WORDS) {
        R chunk = state;
        chunk.take(mine);
        state.put(mine);
        state.pass(chunk);
    }
}

__device__ inline bool same_words(const double* a, const double* b, int n) {
    for (int k = 0; k < n; k++)
        if (__double_as_longlong(a[k]) != __double_as_longlong(b[k])) return false;
    return true;
}

// Checks that each chunk was started from the state that the chunk before ended in, and from the first that was not on
// computes chunks again, one after the other, as far as they were not. So the result is that of one run through the series.
// grid: (1, series), block: 32. Shared: [32].
template <class R>
__device__ void check_chunks(R state, const Columns<R>& columns, const u64* segments, i64 chunk_rows, double* states,
                             i64 n_chunks) {
    NATRON_SHARED(shared);
    const i64 begin = (i64)segments[blockIdx.y], end = (i64)segments[blockIdx.y + 1];
    const i64 n_own = (end - begin + chunk_rows - 1) / chunk_rows;
    double* const all = states + (i64)blockIdx.y * n_chunks * 2 * R::WORDS;
    i64 wrong = n_own;
    for (i64 chunk = 1 + threadIdx.x; chunk < n_own && wrong == n_own; chunk += LANES) {
        const double* const mine = all + chunk * 2 * R::WORDS;
        if (!same_words(mine, mine - R::WORDS, R::WORDS)) wrong = chunk;
    }
    shared[threadIdx.x] = (double)wrong;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int lane = 1; lane < LANES; lane++)
        if ((i64)shared[lane] < wrong) wrong = (i64)shared[lane];
    for (i64 chunk = wrong; chunk < n_own; chunk++) {
        double* const mine = all + chunk * 2 * R::WORDS;
        if (same_words(mine, mine - R::WORDS, R::WORDS)) continue;
        state.take(mine - R::WORDS);
        for (i64 row = begin + chunk * chunk_rows; row < end && row < begin + (chunk + 1) * chunk_rows; row++) {
            double in[R::INPUTS], out[R::OUTPUTS];
            for (int i = 0; i < R::INPUTS; i++) in[i] = columns.in[i][row];
            state.step(in, out);
            for (int i = 0; i < R::OUTPUTS; i++) {
                if (columns.out[i]) columns.out[i][row] = out[i];
                if (columns.kept[i]) columns.kept[i][row] = as_output(out[i]);
            }
        }
        state.put(mine + R::WORDS);
    }
}
